// Queries made ready: of unit length for the cosine, rotated, moved; their fixed point's unit.
#include "block.cuh"
#include "scorer.cuh"

// Sums of lookups stay below 2^30 in size, the base included, so that no order of adding overflows.
constexpr int SUM_BITS = 30;
constexpr int MAX_EXPONENT = 120;

// What the sum of products of bf16 vectors may differ by from that of the float32 ones, relative to
// the lengths of the vectors' parts: two roundings of 2^-8, and a float32 sum of `dim` terms.
__device__ __forceinline__ float bf16_error(int dim) { return 0.00783f + dim * 4.8e-7f; }

// Units: a sum of up to 65 values rounded to fixed point, and its rounding to float32 by 2^-24.
constexpr float FIXED_POINT_ERROR = 128.0f;

// One warp a query, 2 * dim words of shared memory each; as many warps a block as that allows. The
// scale of a query that is not finite is NaN: its lists count as empty.
__global__ void __launch_bounds__(THREADS)
prepare_queries(const float* queries,                  // (n, dim), raw, or rotated already
                const float* __restrict__ rotation,    // (dim, dim), or null
                const float* __restrict__ origin,      // (dim,), rotated, or null: zero
                const float* __restrict__ radii,       // (n_bytes,), longest codeword of each byte
                float base_radius,                     // the longest centroid, 0 if codes are whole
                int metric, int n, int dim, int n_bytes, int byte_len,
                float* rotated,                        // (n, dim), to the origin; may be queries
                float* __restrict__ squares,           // (n,), |rotated|^2
                float* __restrict__ scales,            // (n,), fixed point of 1
                float* __restrict__ units,             // (n,), 1 / scale
                float* __restrict__ margins) {         // (n,), see tiles.cu
  extern __shared__ float memory[];
  const unsigned lane = lane_id();
  const size_t query = static_cast<size_t>(blockIdx.x) * (blockDim.x / 32) + warp_id();
  if (query >= n) return;
  float* raw = memory + warp_id() * 2 * dim;
  float* turned = raw + dim;
  queries += query * dim;

  float norm = 1.0f;
  if (metric == METRIC_COSINE) {
    // Divided by the largest first: squares of float32 values may leave its range.
    float largest = 0.0f, square = 0.0f;
    for (int i = lane; i < dim; i += 32) largest = fmaxf(largest, fabsf(queries[i]));
    for (int step = 16; step > 0; step >>= 1) {
      largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, step));
    }
    if (largest > 0.0f) {
      for (int i = lane; i < dim; i += 32) {
        const float part = queries[i] / largest;
        square = fmaf(part, part, square);
      }
      norm = sqrtf(warp_sum(square)) * largest;
    }
  }
  for (int i = lane; i < dim; i += 32) raw[i] = queries[i] / norm;
  __syncwarp();
  for (int i = lane; i < dim; i += 32) {
    float sum = raw[i];
    if (rotation != nullptr) {
      sum = 0.0f;
      for (int j = 0; j < dim; j++) {
        sum = fmaf(raw[j], rotation[static_cast<size_t>(j) * dim + i], sum);
      }
    }
    turned[i] = origin == nullptr ? sum : sum - origin[i];
  }
  __syncwarp();

  float bound = 0.0f, square = 0.0f, zero = 0.0f;
  for (int i = lane; i < dim; i += 32) zero = fmaf(raw[i], 0.0f, zero);
  zero = warp_sum(zero);  // NaN if any value is not finite
  for (int byte = lane; byte < n_bytes; byte += 32) {
    float part = 0.0f;
    for (int i = byte * byte_len; i < min((byte + 1) * byte_len, dim); i++) {
      part = fmaf(turned[i], turned[i], part);
    }
    bound = fmaf(sqrtf(part), radii[byte], bound);
    square += part;
  }
  square = warp_sum(square);
  const float longest = warp_sum(bound);  // no sum of lookups is larger in size
  bound = fmaf(sqrtf(square), base_radius, longest);
  int exponent = 0;
  if (bound > 0.0f) {
    exponent = SUM_BITS - 2 - ilogbf(bound);
    exponent = max(-MAX_EXPONENT, min(MAX_EXPONENT, exponent));
  }
  for (int i = lane; i < dim; i += 32) rotated[query * dim + i] = turned[i];
  if (lane == 0) {
    squares[query] = square;
    scales[query] = ldexpf(1.0f, exponent) + zero;
    const float unit = ldexpf(1.0f, -exponent);
    margins[query] = fmaf(longest, bf16_error(dim), FIXED_POINT_ERROR * unit);
    units[query] = unit;
  }
}
