// Scans the lists that a query probes, and keeps the k best items: the kernel that search time goes
// to. One LUT serves all lists of a query, as the score of an item is the score of its list plus
// one lookup a code byte (Jégou et al., PAMI 2011, section 4.2, asymmetric distance computation).
#include "filter.cuh"
#include "lookups.cuh"
#include "probe.cuh"
#include "scorer.cuh"
#include "top_k.cuh"

constexpr unsigned PROBE_TILE = 128;

// One warp's place in the lists: which of the tile's probes its next group lies in.
struct Cursor {
  const Probe* probes;
  unsigned i;

  __device__ __forceinline__ const Probe& seek(unsigned group) {
    while (group >= probes[i].end) i++;
    return probes[i];
  }
};

// The item of one lane, fetched ahead of its turn.
template <int BYTES>
struct Fetched {
  ItemCodes<BYTES> codes;
  unsigned row;
  int base;
  float term;
  bool eligible;

  __device__ __forceinline__ void fetch(Cursor& cursor, unsigned group,
                                        const unsigned char* __restrict__ codes_of_groups,
                                        const float* __restrict__ terms,
                                        const unsigned* __restrict__ eligible_mask) {
    const Probe& probe = cursor.seek(group);
    const unsigned lane = lane_id(), stored = group + probe.group_shift;
    codes.load(codes_of_groups + static_cast<size_t>(stored) * (32 * BYTES), lane);
    row = group * 32 + lane + probe.row_shift;
    base = probe.base;
    eligible = row < probe.row_end;
    term = terms != nullptr && eligible ? __ldg(terms + row) : 0.0f;
    if (eligible_mask != nullptr) {
      eligible = eligible && (__ldg(eligible_mask + stored) >> lane & 1u);
    }
  }
};

// Blocks that a multiprocessor should have the registers for: left alone, the compiler spills.
__host__ __device__ constexpr int blocks_at_once(int n_bytes) {
  return n_bytes > 32 ? 2 : n_bytes > 16 || n_bytes < 8 ? 3 : 4;
}

// One block scans part `blockIdx.x % n_parts` of the lists of query `blockIdx.x / n_parts`. With
// one part it writes the result; with more, each writes its k best in any order to part_scores and
// part_rows (n, n_parts, k), and how many there are to part_counts.
template <int BYTES, bool SPREAD>
__global__ void __launch_bounds__(THREADS, blocks_at_once(BYTES))
scan(const int* __restrict__ luts,                     // (n, 256, BYTES), fixed point
     const float* __restrict__ units,                  // (n,), score of 1 in fixed point
     const float* __restrict__ query_squares,          // (n,), or null but for METRIC_L2
     const Probe* __restrict__ probes,                 // (n, n_probes)
     const unsigned char* __restrict__ codes,          // (n_groups, 32 * BYTES), see code_layout
     const float* __restrict__ terms,                  // (n_items,), or null: see scored()
     const long long* __restrict__ item_ids,           // (n_items,)
     const unsigned* __restrict__ eligible_mask,       // (n_groups,), a bit an item, or null
     const long long* __restrict__ exclude_offsets,    // (n + 1,), or null
     const long long* __restrict__ exclude_ids,        // sorted within each query
     const long long* __restrict__ allow_offsets,      // (n + 1,), or null
     const long long* __restrict__ allow_ids,          // sorted within each query
     int metric, int n_probes, int n_parts, int k, int capacity,
     float* __restrict__ part_scores, unsigned* __restrict__ part_rows,
     int* __restrict__ part_counts,                    // (n, n_parts), null with one part
     float* __restrict__ scores,                       // (n, k), null with more parts
     long long* __restrict__ ids,                      // (n, k)
     int* __restrict__ counts) {                       // (n,)
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ TopKShared shared;
  __shared__ Probe tile[PROBE_TILE];
  constexpr int LUT_WORDS = segment_words<BYTES, SPREAD>(BYTES);
  int* lut = reinterpret_cast<int*>(memory);
  const size_t query = blockIdx.x / n_parts;
  const unsigned part = blockIdx.x % n_parts;
  load_lut<BYTES, SPREAD>(lut, luts + query * (BOOK_ROWS * BYTES));
  TopK best(shared, memory + LUT_WORDS * 4, item_ids, capacity, k);
  const Lookups<BYTES, SPREAD> lookups(lut, lane_id());
  const IdFilter filter(query, exclude_offsets, exclude_ids, allow_offsets, allow_ids);
  const Scorer scorer(metric, units[query], query_squares, query);

  probes += query * n_probes;
  const unsigned n_groups = probes[n_probes - 1].end;
  const unsigned stop = static_cast<unsigned>(static_cast<size_t>(n_groups) * (part + 1) / n_parts);
  unsigned group = static_cast<unsigned>(static_cast<size_t>(n_groups) * part / n_parts);
  // The tiles before this part's first group are not for it.
  unsigned first = probes_before(probes, n_probes, group) / PROBE_TILE * PROBE_TILE;
  group += warp_id();
  for (unsigned tile_end = 0; tile_end < stop; first += PROBE_TILE) {
    const unsigned n_tile = min(PROBE_TILE, n_probes - first);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < n_tile; i += THREADS) tile[i] = probes[first + i];
    __syncthreads();
    tile_end = tile[n_tile - 1].end;
    const unsigned tile_stop = min(stop, tile_end);
    Cursor cursor{tile, 0};
    Fetched<BYTES> next;
    if (group < tile_stop) next.fetch(cursor, group, codes, terms, eligible_mask);
    bool pending = false;
    float score = 0.0f;
    unsigned row = NO_ROW;
    do {
      if (pending) pending = score >= best.threshold;
      bool full = best.push(pending, score, row);
      // No barrier until every warp is done with the tile or the buffer is full.
      while (group < tile_stop && !full) {
        const Fetched<BYTES> item = next;
        group += WARPS;
        if (group < tile_stop) next.fetch(cursor, group, codes, terms, eligible_mask);
        score = scorer.score(item.base + lookups.sum(item.codes), item.term);
        row = item.row;
        pending = item.eligible && score >= best.threshold && filter.admits(item_ids, row);
        full = best.push(pending, score, row);
      }
    } while (best.make_room(pending));
  }
  __syncthreads();
  if (n_parts == 1) {
    best.finish(scores + query * k, ids + query * k, counts + query);
  } else {
    const size_t place = query * n_parts + part;
    best.finish_part(part_scores + place * k, part_rows + place * k, part_counts + place);
  }
}
