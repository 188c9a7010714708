// The k best of a query from the k best of its best lists and the candidates of the others.
#include "noted.cuh"
#include "scan_groups.cuh"

// Where the `rank`-th bit is, from 0 on, that is set in `bits`.
__device__ __forceinline__ unsigned place_of_bit(unsigned bits, unsigned rank) {
  unsigned place = 0;
#pragma unroll
  for (unsigned width = 16; width > 0; width >>= 1) {
    const unsigned n_lower = __popc(bits & ((1u << width) - 1u));
    if (rank >= n_lower) {
      rank -= n_lower;
      bits >>= width;
      place += width;
    }
  }
  return place;
}

// One item for a lane to score: its place in the codes, its row, its list's base.
struct Candidate {
  unsigned group, lane, row;
  float base;
};

// The items of 32 noted groups, a group a lane, handed out 32 items at a time, an item a lane.
struct NotedItems {
  unsigned group, items, first_row;
  float base;
  unsigned before;  // items of the lanes before
  unsigned n_items, n_given;

  __device__ __forceinline__ NotedItems() : n_items(0), n_given(0) {}

  __device__ __forceinline__ void load(const Noted* __restrict__ noted, unsigned place, unsigned n,
                                       const Probe* __restrict__ probes, unsigned n_probes) {
    group = items = first_row = 0;
    base = 0.0f;
    if (place < n) {
      const Probe& probe = probes[probes_before(probes, n_probes, noted[place].group)];
      group = noted[place].group + probe.group_shift;
      first_row = noted[place].group * 32 + probe.row_shift;
      base = probe.base;
      items = noted[place].items;
    }
    const unsigned own = __popc(items), end = warp_running_sum(own);
    before = end - own;
    n_items = __shfl_sync(ALL_LANES, end, 31);
    n_given = 0;
  }

  // The lane's next item; false where there is none. All lanes of a warp call it.
  __device__ __forceinline__ bool next(Candidate& candidate) {
    const unsigned number = n_given + lane_id();
    unsigned of_lane = 0;  // the last whose items start at or before this one
#pragma unroll
    for (unsigned step = 16; step > 0; step >>= 1) {
      if (__shfl_sync(ALL_LANES, before, of_lane + step) <= number) of_lane += step;
    }
    const unsigned rank = number - __shfl_sync(ALL_LANES, before, of_lane);
    candidate.group = __shfl_sync(ALL_LANES, group, of_lane);
    candidate.lane = place_of_bit(__shfl_sync(ALL_LANES, items, of_lane), rank);
    candidate.row = __shfl_sync(ALL_LANES, first_row, of_lane) + candidate.lane;
    candidate.base = __shfl_sync(ALL_LANES, base, of_lane);
    n_given += 32;
    return number < n_items;
  }
};

// Pushes what was noted to `best`, with exact scores. All threads call it.
template <int BYTES>
__device__ __forceinline__ void rescore_noted(TopK& best, const unsigned char* __restrict__ codes,
                                              const ItemTerms& terms, const int* lut,
                                              const Scorer& scorer,
                                              const Probe* __restrict__ probes, unsigned n_probes,
                                              const Noted* __restrict__ noted, unsigned n_noted) {
  NotedItems items;
  unsigned first = warp_id() * 32;
  bool pending = false;
  float score = 0.0f;
  unsigned row = NO_ROW;
  do {
    if (pending) pending = score >= best.threshold;
    bool full = best.push(pending, score, row);
    while (!full) {
      if (items.n_given >= items.n_items) {
        if (first >= n_noted) break;
        items.load(noted, first + lane_id(), n_noted, probes, n_probes);
        first += THREADS;
      }
      Candidate candidate;
      pending = items.next(candidate);
      if (pending) {
        ItemCodes<BYTES> item;
        item.load(codes, candidate.group, candidate.lane);
        row = candidate.row;
        const float part = scorer.part_of(sum_of_item(item, lut, candidate.lane));
        score = scorer.score(candidate.base, part, terms.of(row));
        pending = score >= best.threshold;
      }
      full = best.push(pending, score, row);
    }
  } while (best.make_room(pending));
}

// One block a query. Exact scores of what was noted for it, from the codes; where more groups were
// found than it has room for, it scans the remaining lists instead. Shared memory as
// scan<BYTES, false> has it.
template <int BYTES>
__global__ void __launch_bounds__(THREADS, 2)
rescore(const int* __restrict__ luts,                     // (n, 256, BYTES), fixed point
        const float* __restrict__ units,                  // (n,)
        const Probe* __restrict__ probes,                 // (n, n_probes)
        const unsigned char* __restrict__ codes,          // (n_groups, 32 * BYTES)
        const unsigned char* __restrict__ scales,         // (n_items,), or null
        const float* __restrict__ scale_table,            // (256,)
        const float* __restrict__ item_terms,             // (n_items,), or null
        const long long* __restrict__ item_ids,           // (n_items,)
        const unsigned* __restrict__ eligible_mask,       // (n_groups,), or null
        const float* __restrict__ seed_scores,            // (n, k)
        const unsigned* __restrict__ seed_rows,           // (n, k)
        const int* __restrict__ seed_counts,              // (n,)
        const Noted* __restrict__ noted,                  // (n, noted_capacity)
        const int* __restrict__ noted_counts,             // (n,)
        int metric, int n_probes, int n_seeds, int noted_capacity, int k, int capacity,
        float* __restrict__ scores,                       // (n, k)
        long long* __restrict__ ids,                      // (n, k)
        int* __restrict__ counts) {                       // (n,)
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ TopKShared shared;
  __shared__ BetweenTiles between;
  constexpr int LUT_WORDS = segment_words<BYTES, false>(BYTES);
  int* lut = reinterpret_cast<int*>(memory);
  const size_t query = blockIdx.x;
  load_lut<BYTES, false>(lut, luts + query * (BOOK_ROWS * BYTES));
  TopK best(shared, memory + LUT_WORDS * 4, item_ids, capacity, k);
  const Scorer scorer{metric, units[query]};
  const ItemTerms terms{scales, scale_table, item_terms};
  probes += query * n_probes;

  const unsigned n_seeded = seed_counts[query], n_noted = noted_counts[query];
  for (unsigned start = 0; start < n_seeded; start += THREADS) {
    const unsigned i = start + threadIdx.x;
    const bool has_pair = i < n_seeded;
    const float score = has_pair ? seed_scores[query * k + i] : 0.0f;
    const unsigned row = has_pair ? seed_rows[query * k + i] : NO_ROW;
    best.take(has_pair, score, row);
  }
  if (n_noted > noted_capacity) {
    const Lookups<BYTES, false, true> lookups(lut, lane_id());
    const unsigned first = probes[n_seeds - 1].end;
    begin_tiles(between, probes, n_probes, first, probes[n_probes - 1].end);
    __syncthreads();
    scan_groups<BYTES, false, false>(best, {codes, terms, item_ids, eligible_mask}, lookups, scorer,
                                     IdFilter(), between, n_probes, first);
  } else {
    rescore_noted<BYTES>(best, codes, terms, lut, scorer, probes, n_probes,
                         noted + query * noted_capacity, n_noted);
  }
  __syncthreads();
  best.finish(scores + query * k, ids + query * k, counts + query);
}
