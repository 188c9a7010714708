// The k best of a query from the k best of its best lists and the candidates of the others.
#include "scan_groups.cuh"

// One block a query. Exact scores of its candidates, from their codes; where there were more than
// were noted, it scans the remaining lists instead. Shared memory as scan<BYTES, false> has it.
template <int BYTES>
__global__ void __launch_bounds__(THREADS, 2)
rescore(const int* __restrict__ luts,                     // (n, 256, BYTES), fixed point
        const float* __restrict__ units,                  // (n,)
        const float* __restrict__ query_squares,          // (n,)
        const Probe* __restrict__ probes,                 // (n, n_probes)
        const unsigned char* __restrict__ codes,          // (n_groups, 32 * BYTES)
        const float* __restrict__ terms,                  // (n_items,), or null
        const long long* __restrict__ item_ids,           // (n_items,)
        const unsigned* __restrict__ eligible_mask,       // (n_groups,), or null
        const float* __restrict__ seed_scores,            // (n, k)
        const unsigned* __restrict__ seed_rows,           // (n, k)
        const int* __restrict__ seed_counts,              // (n,)
        const unsigned* __restrict__ candidates,          // (n, n_noted)
        const int* __restrict__ candidate_counts,         // (n,)
        int metric, int n_probes, int n_seeds, int n_noted, int k, int capacity,
        float* __restrict__ scores,                       // (n, k)
        long long* __restrict__ ids,                      // (n, k)
        int* __restrict__ counts) {                       // (n,)
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ TopKShared shared;
  __shared__ Probe tile[PROBE_TILE];
  constexpr int LUT_WORDS = segment_words<BYTES, false>(BYTES);
  int* lut = reinterpret_cast<int*>(memory);
  const size_t query = blockIdx.x;
  load_lut<BYTES, false>(lut, luts + query * (BOOK_ROWS * BYTES));
  TopK best(shared, memory + LUT_WORDS * 4, item_ids, capacity, k);
  const Scorer scorer(metric, units[query], query_squares, query);
  probes += query * n_probes;

  const unsigned n_seeded = seed_counts[query], n_found = candidate_counts[query];
  for (unsigned start = 0; start < n_seeded; start += THREADS) {
    const unsigned i = start + threadIdx.x;
    const bool has_pair = i < n_seeded;
    const float score = has_pair ? seed_scores[query * k + i] : 0.0f;
    const unsigned row = has_pair ? seed_rows[query * k + i] : NO_ROW;
    best.take(has_pair, score, row);
  }
  if (n_found > n_noted) {
    const Lookups<BYTES, false> lookups(lut, lane_id());
    scan_groups<BYTES, false, false>(best, {codes, terms, item_ids, eligible_mask}, lookups, scorer,
                              IdFilter(), tile, probes, n_probes, probes[n_seeds - 1].end,
                              probes[n_probes - 1].end);
  } else {
    candidates += query * n_noted;
    for (unsigned start = 0; start < n_found; start += THREADS) {
      const unsigned i = start + threadIdx.x;
      const bool has_pair = i < n_found;
      float score = 0.0f;
      unsigned row = NO_ROW;
      if (has_pair) {
        const unsigned group = candidates[i] / 32, lane = candidates[i] % 32;
        const Probe& probe = probes[probes_before(probes, n_probes, group)];
        ItemCodes<BYTES> item;
        item.load(codes, group + probe.group_shift, lane);
        row = candidates[i] + probe.row_shift;
        score = scorer.score(probe.base + sum_of_item(item, lut, lane),
                             terms == nullptr ? 0.0f : terms[row]);
      }
      best.take(has_pair, score, row);
    }
  }
  __syncthreads();
  best.finish(scores + query * k, ids + query * k, counts + query);
}
