// The second look: the k best of a query's candidates by the vectors that the index holds of them.
//
// Candidates are ranks: places in the order of the ids, in which the vectors lie. Time goes to
// reading the vectors, which lie apart: a few lanes share each one, 16 bytes a lane. Up to eight
// do, which read the 128 bytes of a cache line in one request; a longer row takes them several
// steps. A warp so asks for four vectors of 64 float16 at once, and a block for 32.
#include "registers.cuh"
#include "top_k.cuh"
#include "vector_rows.cuh"

// 16 bytes of a vector of float16, or else int8.
template <bool HALF>
using HalfOrByteQuad = Quad<HALF ? 2 : 1>;

// Where dimension i of the query is: the first four words of every quad, then the next four of
// every quad, and so on. Lanes with successive quads then read successive words, four each: a
// quarter of a warp reads all banks once, or, where fewer lanes share a vector, the same words.
// Side by side, the 8 or 16 words of a quad would give two or four lanes one bank.
template <bool HALF>
__device__ __forceinline__ int place_in_query(int i, int n_quads) {
  constexpr int N = HalfOrByteQuad<HALF>::N;
  return (i % N / 4 * n_quads + i / N) * 4 + i % 4;
}

// A lane's part of <query, values>, or with L2 of |scale * values - query|^2: quads `first`,
// `first + step`, and so on, always in this order, so that equal vectors have equal scores.
template <bool HALF, bool L2>
__device__ __forceinline__ float part_of_score(const uint4* __restrict__ vector, float scale,
                                               const float4* query, int n_quads, int first,
                                               int step) {
  float sum = 0.0f;
  for (int quad = first; quad < n_quads; quad += step) {
    const HalfOrByteQuad<HALF> own(__ldg(vector + quad));
#pragma unroll
    for (int four = 0; four < HalfOrByteQuad<HALF>::N / 4; four++) {
      const float4 of_query = query[four * n_quads + quad];
      const float parts[4] = {of_query.x, of_query.y, of_query.z, of_query.w};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float value = own.values[four * 4 + i];
        if (L2) {
          const float difference = fmaf(value, scale, -parts[i]);
          sum = fmaf(difference, difference, sum);
        } else {
          sum = fmaf(value, parts[i], sum);
        }
      }
    }
  }
  return sum;
}

// One block a query. The candidates fill the buffer of its TopK, which has room for all of them:
// their ranks first, then their scores, and what is left is to find the k best. `n_lanes`, a power
// of two up to 32, share a vector. n_quads * Quad::N words of shared memory for the query, and then
// what TopK asks.
// Blocks a multiprocessor: what waits for memory is the more the better; with one more some
// compilers spill.
template <bool HALF, bool L2>
__global__ void __launch_bounds__(THREADS, 6 - 2 * FEWER_BLOCKS)
refine(const float* __restrict__ queries,              // (n, dim), rotated, to the origin
       const long long* __restrict__ candidates,       // (n, n_candidates), ranks
       const int* __restrict__ candidate_counts,       // (n,)
       const unsigned char* __restrict__ vectors,      // (n_items, 16 * n_quads), zeros beyond dim
       const float* __restrict__ vector_scales,        // (n_items,)
       const long long* __restrict__ sorted_ids,       // (n_items,)
       int dim, int n_quads, int n_lanes, int n_candidates, int k, int capacity,
       float* __restrict__ scores,                     // (n, k)
       long long* __restrict__ ids,                    // (n, k)
       int* __restrict__ counts) {                     // (n,)
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ TopKShared shared;
  constexpr int N = HalfOrByteQuad<HALF>::N;
  const size_t query = blockIdx.x;
  float* parts = reinterpret_cast<float*>(memory);
  TopK best(shared, memory + n_quads * N * sizeof(float), sorted_ids, capacity, k);
  const unsigned n = candidate_counts[query];
  candidates += query * n_candidates;
  queries += query * dim;
  for (unsigned i = threadIdx.x; i < n; i += THREADS) {
    best.rows[i] = static_cast<unsigned>(candidates[i]);
  }
  for (int i = threadIdx.x; i < n_quads * N; i += THREADS) {
    parts[place_in_query<HALF>(i, n_quads)] = i < dim ? queries[i] : 0.0f;
  }
  if (threadIdx.x == 0) shared.count = n;
  __syncthreads();
  const unsigned lane = threadIdx.x % n_lanes, step = THREADS / n_lanes;
  // Warps stay together, as their lanes sum up together.
  for (unsigned first = 0; first < n; first += step) {
    const unsigned i = first + threadIdx.x / n_lanes;
    float sum = 0.0f, scale = 0.0f;
    if (i < n) {
      const size_t rank = best.rows[i];
      scale = __ldg(vector_scales + rank);
      sum = part_of_score<HALF, L2>(reinterpret_cast<const uint4*>(vectors) + rank * n_quads, scale,
                                    reinterpret_cast<const float4*>(parts), n_quads, lane, n_lanes);
    }
    for (int apart = n_lanes / 2; apart > 0; apart >>= 1) {
      sum += __shfl_xor_sync(ALL_LANES, sum, apart);
    }
    // Never -0, whose key would differ from that of 0.
    if (i < n && lane == 0) best.scores[i] = L2 ? 0.0f - sum : fmaf(sum, scale, 0.0f);
  }
  __syncthreads();
  best.finish(scores + query * k, ids + query * k, counts + query);
}
