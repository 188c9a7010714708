// Exact search: the score of every item by its vector, and the k best of each query.
//
// Eight queries share the vectors that are read. Their scores go to memory, and another kernel keeps
// the best: 8 bytes of traffic for an item and a query, whatever k is. To keep the best where the
// scores are made would take the room of eight buffers in a block, or one query a block, which then
// reads 256 bytes a vector of 64 float32 for itself alone.
#include "filter.cuh"
#include "registers.cuh"
#include "top_k.cuh"
#include "vector_rows.cuh"

constexpr int QUERIES = 8;  // of a block
constexpr int OWN = 4;      // items of a thread, for which each value of a query is read once
constexpr int ROWS = OWN * THREADS;
constexpr int SLAB = 128;   // dimensions of the queries that are in shared memory at a time
constexpr int AHEAD = 4;    // scores that a thread asks for at once

// Where 16 bytes of a vector are: those of 32 items lie together, so that a warp reads them in one
// coalesced access.
__device__ __forceinline__ size_t place_of_quad(size_t row, int n_quads, int quad) {
  return (row / 32 * n_quads + quad) * 32 + row % 32;
}

// <query, vector>, or with L2 -|query - vector|^2, of a block's items and queries. Each thread adds up
// a score by itself, dimension after dimension: equal vectors have equal scores. Blocks that share
// items come one after the other, so that the later ones find them in the cache.
template <int BYTES, bool L2>
__global__ void __launch_bounds__(THREADS, 2)
score_items(const float* __restrict__ queries,          // (n, dim), to the origin
            const unsigned char* __restrict__ vectors,  // (n_rows * n_quads * 16,), see
                                                        // place_of_quad; zeros beyond dim
            const float* __restrict__ vector_scales,    // (n_rows,), or null: 1
            int n, int dim, int n_quads, unsigned n_rows,
            float* __restrict__ scores) {               // (n, n_rows), a multiple of ROWS
  constexpr int N = Quad<BYTES>::N;
  __shared__ __align__(16) float slab[SLAB * QUERIES];
  const unsigned n_tiles = (n + QUERIES - 1) / QUERIES, tile = blockIdx.x % n_tiles;
  const size_t first_query = static_cast<size_t>(tile) * QUERIES;
  const size_t row = static_cast<size_t>(blockIdx.x / n_tiles) * ROWS + threadIdx.x;
  const uint4* quads = reinterpret_cast<const uint4*>(vectors);
  float scales[OWN], sums[OWN][QUERIES] = {};
#pragma unroll
  for (int own = 0; own < OWN; own++) {
    scales[own] = vector_scales == nullptr ? 1.0f : vector_scales[row + own * THREADS];
  }
  for (int start = 0; start < n_quads * N; start += SLAB) {
    __syncthreads();
    for (int i = threadIdx.x; i < SLAB * QUERIES; i += THREADS) {
      const size_t query = first_query + i / SLAB;
      const int column = start + i % SLAB;
      const bool is_there = query < n && column < dim;
      slab[i % SLAB * QUERIES + i / SLAB] = is_there ? queries[query * dim + column] : 0.0f;
    }
    __syncthreads();
    const int stop = min(n_quads, (start + SLAB) / N);
    for (int quad = start / N; quad < stop; quad++) {
      uint4 words[OWN];
#pragma unroll
      for (int own = 0; own < OWN; own++) {
        words[own] = __ldg(quads + place_of_quad(row + own * THREADS, n_quads, quad));
      }
      const Quad<BYTES> values[OWN] = {words[0], words[1], words[2], words[3]};
      const float4* of_queries =
          reinterpret_cast<const float4*>(slab + (quad * N - start) * QUERIES);
#pragma unroll
      for (int i = 0; i < N; i++) {
#pragma unroll
        for (int four = 0; four < QUERIES / 4; four++) {
          const float4 of_four = of_queries[i * (QUERIES / 4) + four];
          const float parts[4] = {of_four.x, of_four.y, of_four.z, of_four.w};
#pragma unroll
          for (int own = 0; own < OWN; own++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
              float& sum = sums[own][four * 4 + j];
              if (L2) {
                const float difference = fmaf(values[own].values[i], scales[own], -parts[j]);
                sum = fmaf(difference, difference, sum);
              } else {
                sum = fmaf(values[own].values[i], parts[j], sum);
              }
            }
          }
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < QUERIES; i++) {
    if (first_query + i >= n) break;
#pragma unroll
    for (int own = 0; own < OWN; own++) {
      const float sum = sums[own][i];
      // Never -0, whose key would differ from that of 0.
      scores[(first_query + i) * n_rows + row + own * THREADS] =
          L2 ? 0.0f - sum : fmaf(sum, scales[own], 0.0f);
    }
  }
}

// One block keeps the k best items of part `blockIdx.x % n_parts` of query `blockIdx.x / n_parts`.
// With `results` it writes the result. Without, it writes its k best in any order to part_scores and
// part_rows (n, n_parts, k), and how many there are to part_counts. Shared memory as TopK asks.
__global__ void __launch_bounds__(THREADS, 4 - FEWER_BLOCKS)
choose_items(const float* __restrict__ scores,            // (n, n_rows)
             const long long* __restrict__ item_ids,      // (n_items,)
             const unsigned* __restrict__ eligible_mask,  // (n_items / 32,), a bit an item, or null
             const long long* __restrict__ exclude_offsets,  // (n + 1,), or null
             const long long* __restrict__ exclude_ids,      // sorted within each query
             const long long* __restrict__ allow_offsets,    // (n + 1,), or null
             const long long* __restrict__ allow_ids,        // sorted within each query
             unsigned n_items, unsigned n_rows, int n_parts, int k, int capacity,
             float* __restrict__ part_scores, unsigned* __restrict__ part_rows,
             int* __restrict__ part_counts,                  // (n, n_parts)
             float* __restrict__ results,                    // (n, k), or null
             long long* __restrict__ ids,                    // (n, k)
             int* __restrict__ counts) {                     // (n,)
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ TopKShared shared;
  const size_t place = blockIdx.x, query = place / n_parts;
  const unsigned long long n = n_items;
  const unsigned part = static_cast<unsigned>(place % n_parts);
  const unsigned first = static_cast<unsigned>(n * part / n_parts);
  const unsigned stop = static_cast<unsigned>(n * (part + 1) / n_parts);
  const IdFilter filter(query, exclude_offsets, exclude_ids, allow_offsets, allow_ids);
  TopK best(shared, memory, item_ids, capacity, k);
  scores += query * n_rows;
  for (unsigned start = first; start < stop; start += AHEAD * THREADS) {
    float own[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      const unsigned row = start + i * THREADS + threadIdx.x;
      own[i] = row < stop ? scores[row] : minus_infinity();
    }
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      const unsigned row = start + i * THREADS + threadIdx.x;
      const bool may_be = row < stop && own[i] >= best.threshold &&
                          (eligible_mask == nullptr || eligible_mask[row / 32] >> row % 32 & 1u) &&
                          filter.admits(item_ids, row);
      best.take(may_be, own[i], row);  // ends with a barrier
    }
  }
  if (results != nullptr) {
    best.finish(results + place * k, ids + place * k, counts + place);
  } else {
    best.finish_part(part_scores + place * k, part_rows + place * k, part_counts + place);
  }
}
