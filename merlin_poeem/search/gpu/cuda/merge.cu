// The k best of a query whose lists were scanned by several blocks.
#include "registers.cuh"
#include "top_k.cuh"

// One block a query. Takes the pairs of its `n_parts` parts, `part_counts` of k places filled in
// each, and writes the result. A block of shared memory as TopK asks.
__global__ void __launch_bounds__(THREADS, 4 - FEWER_BLOCKS)
merge_parts(const float* __restrict__ part_scores,     // (n, n_parts, k)
            const unsigned* __restrict__ part_rows,    // (n, n_parts, k)
            const int* __restrict__ part_counts,       // (n, n_parts)
            const long long* __restrict__ item_ids,    // (n_items,)
            int n_parts, int k, int capacity,
            float* __restrict__ scores,                // (n, k)
            long long* __restrict__ ids,               // (n, k)
            int* __restrict__ counts) {                // (n,)
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ TopKShared shared;
  TopK best(shared, memory, item_ids, capacity, k);
  const size_t query = blockIdx.x;
  const unsigned n_places = n_parts * k;
  part_scores += query * n_places;
  part_rows += query * n_places;
  part_counts += query * n_parts;
  for (unsigned start = 0; start < n_places; start += THREADS) {
    const unsigned i = start + threadIdx.x;
    const bool has_pair = i < n_places && i % k < static_cast<unsigned>(part_counts[i / k]);
    const float score = has_pair ? part_scores[i] : 0.0f;
    const unsigned row = has_pair ? part_rows[i] : NO_ROW;
    best.take(has_pair, score, row);
  }
  __syncthreads();
  best.finish(scores + query * k, ids + query * k, counts + query);
}
