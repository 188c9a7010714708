// Products of queries with many vectors that lie in a table: rotated queries, the lists' scores, the
// LUTs.
#include "block.cuh"

// out[q][e] = <part m of query q, column e of the table> with m = e % n_parts: parts are of
// `length` values, and may reach beyond dim, where all is zero. FIXED rounds it to fixed point. A
// thread has one column and TILE queries. Every sum is in the order of the values, whatever TILE is.
// Grid (width / THREADS, n / TILE), rounded up; STRIDE * n_parts * length words of shared memory.
// Blocks a multiprocessor: without a number some compilers spill.
template <bool FIXED, int TILE>
__global__ void __launch_bounds__(THREADS, TILE > 8 ? 2 : 4)
multiply_table(const float* __restrict__ queries,      // (n, dim)
               const float* __restrict__ table,        // (length, width)
               const float* __restrict__ scales,       // (n,), null unless FIXED
               int n, int dim, int length, int n_parts, int width,
               void* __restrict__ out) {               // (n, width), int32 if FIXED, else float32
  // [value of the part][part][query]: a thread reads four queries at once. With four words beside
  // 32 queries, eight lanes that read eight parts read different banks.
  constexpr int STRIDE = TILE == 32 ? TILE + 4 : TILE;
  extern __shared__ __align__(16) float parts[];
  const int first = blockIdx.y * TILE, n_tile = min(TILE, n - first);
  const int padded = n_parts * length;
  for (int i = threadIdx.x; i < TILE * padded; i += THREADS) {
    const int query = i / padded, from = i % padded;
    const bool inside = query < n_tile && from < dim;
    parts[(from % length * n_parts + from / length) * STRIDE + query] =
        inside ? queries[static_cast<size_t>(first + query) * dim + from] : 0.0f;
  }
  __syncthreads();
  const int e = blockIdx.x * THREADS + threadIdx.x;
  if (e >= width) return;
  const float* of_part = parts + e % n_parts * STRIDE;
  float sums[TILE] = {};
#pragma unroll 8
  for (int i = 0; i < length; i++) {
    const float value = __ldg(table + static_cast<size_t>(i) * width + e);
    const float4* values = reinterpret_cast<const float4*>(of_part + i * n_parts * STRIDE);
#pragma unroll
    for (int query = 0; query < TILE; query += 4) {
      const float4 four = values[query / 4];
      sums[query] = fmaf(value, four.x, sums[query]);
      sums[query + 1] = fmaf(value, four.y, sums[query + 1]);
      sums[query + 2] = fmaf(value, four.z, sums[query + 2]);
      sums[query + 3] = fmaf(value, four.w, sums[query + 3]);
    }
  }
#pragma unroll
  for (int query = 0; query < TILE; query++) {
    if (query >= n_tile) break;
    const size_t place = static_cast<size_t>(first + query) * width + e;
    if (FIXED) {
      static_cast<int*>(out)[place] = __float2int_rn(sums[query] * scales[first + query]);
    } else {
      static_cast<float*>(out)[place] = sums[query];
    }
  }
}
