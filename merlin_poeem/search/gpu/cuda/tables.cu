// Products of queries with many vectors that lie in a table: the lists' scores, and the LUTs.
#include "block.cuh"

constexpr int TILE = 8;

// out[q][e] = <part m of query q, column e of the table> with m = e % n_parts: parts are of
// `length` values, and may reach beyond dim, where all is zero. FIXED rounds it to fixed point.
// Grid (width / THREADS, n / TILE), rounded up; TILE * n_parts * length words of shared memory.
template <bool FIXED>
__global__ void __launch_bounds__(THREADS)
multiply_table(const float* __restrict__ queries,      // (n, dim)
               const float* __restrict__ table,        // (length, width)
               const float* __restrict__ scales,       // (n,), null unless FIXED
               int n, int dim, int length, int n_parts, int width,
               void* __restrict__ out) {               // (n, width), int32 if FIXED, else float32
  extern __shared__ float parts[];                     // [query][value of the part][part]
  const int first = blockIdx.y * TILE, n_tile = min(TILE, n - first);
  const int padded = n_parts * length;
  for (int i = threadIdx.x; i < TILE * padded; i += THREADS) {
    const int query = i / padded, place = i % padded;
    const int from = place % n_parts * length + place / n_parts;
    const bool inside = query < n_tile && from < dim;
    parts[i] = inside ? queries[static_cast<size_t>(first + query) * dim + from] : 0.0f;
  }
  __syncthreads();
  const int e = blockIdx.x * THREADS + threadIdx.x;
  if (e >= width) return;
  const float* of_part = parts + e % n_parts;
  float sums[TILE] = {};
  for (int i = 0; i < length; i++) {
    const float value = __ldg(table + static_cast<size_t>(i) * width + e);
#pragma unroll
    for (int query = 0; query < TILE; query++) {
      sums[query] = fmaf(value, of_part[query * padded + i * n_parts], sums[query]);
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
