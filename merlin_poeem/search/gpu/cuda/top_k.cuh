// The k best of a stream of (score, row) pairs, kept by one block in shared memory.
//
// Threads push the pairs that reach the threshold. When the buffer is full the block keeps the k
// best, which raises the threshold: of a long stream few pairs are ever pushed. Equal scores are
// ordered by item id, which is read only where scores are equal.
#pragma once
#include "bitonic_sort.cuh"
#include "radix_select.cuh"

constexpr unsigned NO_ROW = 0xffffffffu;
// Results are put in bins by their highest digit, and ordered within each by counting; where one
// holds more than so many they are sorted.
constexpr unsigned MOST_IN_BIN = 128;

struct TopKShared {
  SelectShared select;
  unsigned of_warps[WARPS];
  unsigned count;
};

struct TopK {
  TopKShared& shared;
  float* scores;                 // (capacity,)
  unsigned* rows;                // (capacity,)
  unsigned short* binned;        // (capacity,), numbers of pairs
  const long long* item_ids;     // of each row
  unsigned capacity;             // a power of two, at least k + THREADS
  unsigned k;
  float threshold;               // the same in every thread; no pair below it is among the k best

  // Bytes of shared memory from `memory` on: capacity * 10.
  __device__ TopK(TopKShared& shared, unsigned char* memory, const long long* item_ids,
                  unsigned capacity, unsigned k)
      : shared(shared),
        scores(reinterpret_cast<float*>(memory)),
        rows(reinterpret_cast<unsigned*>(memory + capacity * 4)),
        binned(reinterpret_cast<unsigned short*>(memory + capacity * 8)),
        item_ids(item_ids),
        capacity(capacity),
        k(k),
        threshold(minus_infinity()) {
    if (threadIdx.x == 0) shared.count = 0;
    __syncthreads();
  }

  // Stores the pair of every lane that is `pending` and clears it, unless the buffer is full; then
  // true. All lanes of a warp call it.
  __device__ __forceinline__ bool push(bool& pending, float score, unsigned row) {
    const unsigned pushing = __ballot_sync(ALL_LANES, pending);
    if (pushing == 0) return false;
    unsigned place = 0;
    if (lane_id() == 0) place = atomicAdd(&shared.count, __popc(pushing));
    const unsigned first = __shfl_sync(ALL_LANES, place, 0);
    place = first + __popc(pushing & ((1u << lane_id()) - 1u));
    if (pending && place < capacity) {
      scores[place] = score;
      rows[place] = row;
      pending = false;
    }
    return first + __popc(pushing) > capacity;
  }

  // Keeps the k best of what was pushed, and of up to `slack` more where that is quicker, and raises
  // the threshold. All threads call it, with a barrier since the last push; it ends with one.
  __device__ void keep_best(unsigned slack) {
    const unsigned n = min(shared.count, capacity);
    if (n <= k + slack) {
      __syncthreads();
      if (threadIdx.x == 0) shared.count = n;
      __syncthreads();
      return;
    }
    const float* of = scores;
    const auto key_at = [of](unsigned i) { return key_of(of[i]); };
    const Cut cut = find_cut(shared.select, key_at, n, k, slack);
    if (cut.n_too_many() > slack) drop_ties(cut, n);
    threshold = score_of(cut.key);
    move_up(n, cut.key);
  }

  // Moves the pairs whose key reaches `lowest`, of the first n, to the front: part by part, so that
  // none is written over before it is read.
  __device__ __forceinline__ void move_up(unsigned n, unsigned lowest) {
    if (threadIdx.x == 0) shared.count = 0;
    __syncthreads();
    for (unsigned start = 0; start < n; start += THREADS) {
      const unsigned i = start + threadIdx.x;
      const float score = i < n ? scores[i] : 0.0f;
      const unsigned row = i < n ? rows[i] : NO_ROW;
      const bool stays = i < n && key_of(score) >= lowest;
      const unsigned staying = __ballot_sync(ALL_LANES, stays);
      unsigned place = 0;
      if (lane_id() == 0) place = atomicAdd(&shared.count, __popc(staying));
      place = __shfl_sync(ALL_LANES, place, 0) + __popc(staying & ((1u << lane_id()) - 1u));
      __syncthreads();
      if (stays) {
        scores[place] = score;
        rows[place] = row;
      }
    }
    __syncthreads();
  }

  // Of the pairs at the cut, the `n_ties` with the lowest ids stay; the others get a score whose key
  // is 0. A radix select of the ids' upper and then their lower halves: its time grows with the
  // number of ties, not with its square.
  __device__ void drop_ties(const Cut& cut, unsigned n) {
    // Of this, copies: its address would have to be in memory.
    const float* of = scores;
    const unsigned* row_of = rows;
    const long long* id_of = item_ids;
    const unsigned tied = cut.key;
    // What is not tied ranks behind all ties.
    const auto upper = [of, row_of, id_of, tied](unsigned i) {
      return key_of(of[i]) == tied ? ~static_cast<unsigned>(biased(id_of[row_of[i]]) >> 32) : 0u;
    };
    const auto lower = [row_of, id_of](unsigned i) {
      return ~static_cast<unsigned>(biased(id_of[row_of[i]]));
    };
    const Cut uppers = find_cut(shared.select, upper, n, cut.n_ties);
    unsigned lowest = 0;
    if (uppers.n_ties < uppers.n_equal) {
      const unsigned at_cut = uppers.key;
      const auto lower_at_cut = [of, tied, upper, lower, at_cut](unsigned i) {
        return key_of(of[i]) == tied && upper(i) == at_cut ? lower(i) : 0u;
      };
      lowest = find_cut(shared.select, lower_at_cut, n, uppers.n_ties).key;
    }
    for (unsigned i = threadIdx.x; i < n; i += THREADS) {
      if (key_of(scores[i]) != cut.key) continue;
      const unsigned key = upper(i);
      const bool stays = key > uppers.key || (key == uppers.key && lower(i) >= lowest);
      if (!stays) scores[i] = __uint_as_float(0xffffffffu);
    }
    __syncthreads();
  }

  // An id, in the order of unsigned numbers.
  static __device__ __forceinline__ unsigned long long biased(long long id) {
    return static_cast<unsigned long long>(id) ^ 0x8000000000000000ull;
  }

  // Whether pair i comes before pair j in the result.
  __device__ __forceinline__ bool before(unsigned i, unsigned j) const {
    if (scores[i] != scores[j]) return scores[i] > scores[j];
    if (i == j) return false;
    if (rows[i] == NO_ROW || rows[j] == NO_ROW) return rows[i] < rows[j];
    return item_ids[rows[i]] < item_ids[rows[j]];
  }

  // Sorts the first `n` pairs, best first. All threads call it.
  __device__ void sort(unsigned n) {
    unsigned width = 1;
    while (width < n) width <<= 1;
    for (unsigned i = n + threadIdx.x; i < width; i += THREADS) {
      scores[i] = minus_infinity();
      rows[i] = NO_ROW;
    }
    bitonic_sort(
        width, [this](unsigned i, unsigned j) { return before(i, j); },
        [this](unsigned i, unsigned j) { swap(i, j); });
  }

  __device__ __forceinline__ void swap(unsigned i, unsigned j) {
    const float score = scores[i];
    const unsigned row = rows[i];
    scores[i] = scores[j];
    rows[i] = rows[j];
    scores[j] = score;
    rows[j] = row;
  }

  // Whether any thread's pair is `pending`: then the buffer was full, and has room again. All
  // threads call it.
  __device__ bool make_room(bool pending) {
    if (!__syncthreads_or(pending)) return false;
    // Room for a pair of every thread, and for half of what is kept.
    keep_best(min(capacity - k - THREADS, k / 2));
    return true;
  }

  // Takes in the pair of every thread whose `pending` is true, unless k better ones were, and makes
  // room as often as is needed. All threads call it.
  __device__ __forceinline__ void take(bool pending, float score, unsigned row) {
    do {
      pending = pending && score >= threshold;
      push(pending, score, row);
    } while (make_room(pending));
  }

  // Writes the k best, in any order, and how many there are. A barrier must have followed the last
  // push.
  __device__ void finish_part(float* out_scores, unsigned* out_rows, int* out_count) {
    keep_best(0);
    const unsigned n = shared.count;
    for (unsigned i = threadIdx.x; i < n; i += THREADS) {
      out_scores[i] = scores[i];
      out_rows[i] = rows[i];
    }
    if (threadIdx.x == 0) *out_count = static_cast<int>(n);
  }

  // Writes the result of one query: k scores and ids, best first, and how many there are. Places
  // without a result get -infinity and -1. A barrier must have followed the last push.
  __device__ void finish(float* out_scores, long long* out_ids, int* out_count) {
    if (!write_by_bins(out_scores, out_ids)) {
      keep_best(0);
      sort(shared.count);
      for (unsigned i = threadIdx.x; i < k && i < shared.count; i += THREADS) {
        out_scores[i] = scores[i];
        out_ids[i] = item_ids[rows[i]];
      }
    }
    const unsigned n_results = min(shared.count, k);
    for (unsigned i = n_results + threadIdx.x; i < k; i += THREADS) {
      out_scores[i] = minus_infinity();
      out_ids[i] = -1;
    }
    if (threadIdx.x == 0) *out_count = static_cast<int>(n_results);
  }

  // Writes the results, best first, without sorting: pairs are grouped by the first digit in which
  // they differ, and each counts those of its bin that come before it. False where one of the bins
  // that hold results is too full, and nothing is written. All threads call it.
  __device__ bool write_by_bins(float* out_scores, long long* out_ids) {
    const unsigned n = min(shared.count, capacity);
    unsigned* bins = shared.select.histogram;
    const float* of = scores;
    const int shift = first_digit(shared.select, [of](unsigned i) { return key_of(of[i]); }, n);
    const auto bin_of = [of, shift](unsigned i) { return key_of(of[i]) >> shift & 255u; };
    for (unsigned i = threadIdx.x; i < n; i += THREADS) atomicAdd(bins + bin_of(i), 1u);
    __syncthreads();
    const unsigned own_bin = DIGITS - 1 - threadIdx.x, n_own = bins[own_bin];
    unsigned total;
    const unsigned start = block_running_sum(n_own, shared.of_warps, total) - n_own;
    bins[own_bin] = start;
    if (__syncthreads_or(start < k && n_own > MOST_IN_BIN)) return false;
    for (unsigned i = threadIdx.x; i < n; i += THREADS) {
      binned[atomicAdd(bins + bin_of(i), 1u)] = static_cast<unsigned short>(i);
    }
    __syncthreads();
    // Now a bin's entry is where it ends, and that of the next higher one where it starts.
    for (unsigned place = threadIdx.x; place < n; place += THREADS) {
      const unsigned i = binned[place], bin = bin_of(i);
      const unsigned first = bin == DIGITS - 1 ? 0 : bins[bin + 1], last = bins[bin];
      if (first >= k) break;  // as are those of all later places
      unsigned rank = first;
      for (unsigned other = first; other < last; other++) rank += before(binned[other], i);
      if (rank < k) {
        out_scores[rank] = scores[i];
        out_ids[rank] = item_ids[rows[i]];
      }
    }
    return true;
  }
};
