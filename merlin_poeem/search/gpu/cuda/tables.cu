// Products of queries with many vectors that lie in a table: rotated queries, the lists' scores, the
// LUTs.
#include "block.cuh"
#include "registers.cuh"

// Blocks that a multiprocessor should have the registers for: without a number some compilers spill.
__host__ __device__ constexpr int blocks_at_once(int tile, int columns) {
  return (columns > 1 ? 2 : tile > 8 ? 3 : 4) - FEWER_BLOCKS;
}

// out[q][e] = <part m of query q, column e of the table> with m = e % n_parts: parts are of
// `length` values, and may reach beyond dim, where all is zero. FIXED rounds it to fixed point. A
// thread has TILE queries and COLUMNS columns, which share what is read of the queries: more than one
// where there is one part. Every sum is in the order of the values, whatever TILE is.
// Grid (width / (THREADS * COLUMNS), n / TILE), rounded up; STRIDE * n_parts * length words of
// shared memory.
template <bool FIXED, int TILE, int COLUMNS>
__global__ void __launch_bounds__(THREADS, blocks_at_once(TILE, COLUMNS))
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
  for (int from = lane_id(); from < padded; from += 32) {
    float* places = parts + (from % length * n_parts + from / length) * STRIDE;
    for (int query = warp_id(); query < TILE; query += WARPS) {
      const bool inside = query < n_tile && from < dim;
      places[query] = inside ? queries[static_cast<size_t>(first + query) * dim + from] : 0.0f;
    }
  }
  __syncthreads();
  const int e = blockIdx.x * (THREADS * COLUMNS) + threadIdx.x;
  if (e >= width) return;
  // A second column beyond the table is the first one once more.
  const int apart = COLUMNS > 1 && e + THREADS < width ? THREADS : 0;
  const float* of_part = parts + e % n_parts * STRIDE;
  float sums[COLUMNS][TILE] = {};
#pragma unroll 4
  for (int i = 0; i < length; i++) {
    const float* row = table + static_cast<size_t>(i) * width + e;
    float values[COLUMNS];
#pragma unroll
    for (int column = 0; column < COLUMNS; column++) values[column] = __ldg(row + column * apart);
    const float4* of_queries = reinterpret_cast<const float4*>(of_part + i * n_parts * STRIDE);
#pragma unroll
    for (int query = 0; query < TILE; query += 4) {
      const float4 four = of_queries[query / 4];
#pragma unroll
      for (int column = 0; column < COLUMNS; column++) {
        float* own = sums[column] + query;
        own[0] = fmaf(values[column], four.x, own[0]);
        own[1] = fmaf(values[column], four.y, own[1]);
        own[2] = fmaf(values[column], four.z, own[2]);
        own[3] = fmaf(values[column], four.w, own[3]);
      }
    }
  }
#pragma unroll
  for (int query = 0; query < TILE; query++) {
    if (query >= n_tile) break;
    const size_t place = static_cast<size_t>(first + query) * width + e;
#pragma unroll
    for (int column = 0; column < COLUMNS; column++) {
      if (FIXED) {
        const float sum = sums[column][query] * scales[first + query];
        static_cast<int*>(out)[place + column * apart] = __float2int_rn(sum);
      } else {
        static_cast<float*>(out)[place + column * apart] = sums[column][query];
      }
    }
  }
}
