// Queries made ready: of unit length for the cosine, rotated, moved; their fixed point's unit.
#include "block.cuh"
#include "scorer.cuh"

// Sums of lookups stay below 2^30 in size, so that no order of adding overflows.
constexpr int SUM_BITS = 30;
constexpr int MAX_EXPONENT = 120;

// What the sum of products of bf16 vectors may differ by from that of the float32 ones, relative to
// the lengths of the vectors' parts: two roundings of 2^-8, and a float32 sum of `dim` terms.
__device__ __forceinline__ float bf16_error(int dim) { return 0.00783f + dim * 4.8e-7f; }

// Units, of which sums have up to 2^30: 64 values rounded to fixed point are off by 32, and the sum
// as float32 by 32.
constexpr float FIXED_POINT_ERROR = 64.0f;

// The float32 nearest in bf16, of two the even one.
__device__ __forceinline__ unsigned short to_bf16(float value) {
  const unsigned bits = __float_as_uint(value);
  return static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Whether no value of the query is beyond `largest` in size; NaN is. Called by all lanes of a warp.
__device__ __forceinline__ bool within(const float* query, int dim, float largest) {
  bool own = true;
  for (int i = lane_id(); i < dim; i += 32) own = own && fabsf(query[i]) <= largest;
  return __all_sync(ALL_LANES, own);
}

// The length of a query, or 1 for a query of zeros; by a warp.
__device__ __forceinline__ float length_of(const float* query, int dim) {
  // Divided by the largest first: squares of float32 values may leave its range.
  float largest = 0.0f, square = 0.0f;
  for (int i = lane_id(); i < dim; i += 32) largest = fmaxf(largest, fabsf(query[i]));
  for (int step = 16; step > 0; step >>= 1) {
    largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, step));
  }
  if (largest == 0.0f) return 1.0f;
  for (int i = lane_id(); i < dim; i += 32) {
    const float part = query[i] / largest;
    square = fmaf(part, part, square);
  }
  return sqrtf(warp_sum(square)) * largest;
}

// One warp a query, 2 * dim words of shared memory each; as many warps a block as that allows. A
// query with a value beyond `largest_value`, whose products could leave float32, or with NaN has
// no answer: it is made zeros with a scale of NaN, and its lists count as empty.
// Blocks a multiprocessor: without a number some compilers spill.
__global__ void __launch_bounds__(THREADS, 6)
prepare_queries(const float* __restrict__ queries,     // (n, dim), raw
                const float* __restrict__ rotation,    // (dim, dim), or null
                const float* products,                 // (n, dim), queries times rotation, or null
                const float* __restrict__ origin,      // (dim,), rotated, or null: zero
                const float* __restrict__ radii,       // (n_bytes,), longest of each byte's book
                float largest_value, int metric, int n, int dim, int padded_dim, int n_bytes,
                int byte_len, int n_lists,
                float* rotated,                        // (n, dim), to the origin; may be products
                unsigned short* __restrict__ rounded,  // (n, padded_dim), as bf16, zeros at the
                                                       // end; or null
                float* __restrict__ scales,            // (n,), fixed point of 1
                float* __restrict__ units,             // (n,), 1 / scale
                float* __restrict__ margins,           // (n,), see tiles.cu
                int* __restrict__ noted_counts,        // (n,), set to zero; or null
                int* __restrict__ pair_counts) {       // (n_lists,), set to zero; or null
  extern __shared__ float memory[];
  const unsigned lane = lane_id();
  const size_t query = static_cast<size_t>(blockIdx.x) * (blockDim.x / 32) + warp_id();
  if (pair_counts != nullptr) {
    const int n_threads = gridDim.x * blockDim.x;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n_lists; i += n_threads) {
      pair_counts[i] = 0;
    }
  }
  if (query >= n) return;
  float* raw = memory + warp_id() * 2 * dim;
  float* turned = raw + dim;
  queries += query * dim;

  const bool has_answer = within(queries, dim, largest_value);
  const float length = metric == METRIC_COSINE && has_answer ? length_of(queries, dim) : 1.0f;
  for (int i = lane; i < dim; i += 32) raw[i] = has_answer ? queries[i] / length : 0.0f;
  __syncwarp();
  for (int i = lane; i < dim; i += 32) {
    float sum = raw[i];
    if (products != nullptr) {
      sum = products[query * dim + i];
    } else if (rotation != nullptr) {
      sum = 0.0f;
      for (int j = 0; j < dim; j++) {
        sum = fmaf(raw[j], rotation[static_cast<size_t>(j) * dim + i], sum);
      }
    }
    if (origin != nullptr) sum -= origin[i];
    turned[i] = has_answer ? sum : 0.0f;
  }
  __syncwarp();

  float bound = 0.0f;
  for (int byte = lane; byte < n_bytes; byte += 32) {
    float part = 0.0f;
    for (int i = byte * byte_len; i < min((byte + 1) * byte_len, dim); i++) {
      part = fmaf(turned[i], turned[i], part);
    }
    bound = fmaf(sqrtf(part), radii[byte], bound);
  }
  bound = warp_sum(bound);  // no sum of lookups is larger in size
  int exponent = 0;
  if (bound > 0.0f) {
    exponent = SUM_BITS - 2 - ilogbf(bound);
    exponent = max(-MAX_EXPONENT, min(MAX_EXPONENT, exponent));
  }
  for (int i = lane; i < dim; i += 32) rotated[query * dim + i] = turned[i];
  if (rounded != nullptr) {
    for (int i = lane; i < padded_dim; i += 32) {
      rounded[query * padded_dim + i] = i < dim ? to_bf16(turned[i]) : 0;
    }
  }
  if (lane == 0) {
    scales[query] = has_answer ? ldexpf(1.0f, exponent) : nan_value();
    const float unit = ldexpf(1.0f, -exponent);
    margins[query] = fmaf(bound, bf16_error(dim), FIXED_POINT_ERROR * unit);
    units[query] = unit;
    if (noted_counts != nullptr) noted_counts[query] = 0;
  }
}
