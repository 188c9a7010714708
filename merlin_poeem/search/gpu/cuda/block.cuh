// What the threads of a block do together: sums and running sums. Every block has THREADS threads.
#pragma once

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ unsigned lane_id() { return threadIdx.x & 31u; }
__device__ __forceinline__ unsigned warp_id() { return threadIdx.x >> 5; }

// NVRTC has no INFINITY and no NAN.
__device__ __forceinline__ float infinity() { return __uint_as_float(0x7f800000u); }
__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xff800000u); }
__device__ __forceinline__ float nan_value() { return __uint_as_float(0x7fffffffu); }

__device__ __forceinline__ float warp_sum(float value) {
  for (int step = 16; step > 0; step >>= 1) value += __shfl_xor_sync(ALL_LANES, value, step);
  return value;
}

__device__ __forceinline__ unsigned warp_or(unsigned value) {
  for (int step = 16; step > 0; step >>= 1) value |= __shfl_xor_sync(ALL_LANES, value, step);
  return value;
}

__device__ __forceinline__ unsigned warp_running_sum(unsigned value) {
  for (int step = 1; step < 32; step <<= 1) {
    const unsigned before = __shfl_up_sync(ALL_LANES, value, step);
    if (lane_id() >= step) value += before;
  }
  return value;
}

// The sum of `value` over this thread and the threads before it; `total` is that over all.
// `of_warps` is WARPS words of shared memory, free again after the next barrier.
__device__ __forceinline__ unsigned block_running_sum(unsigned value, unsigned* of_warps,
                                                      unsigned& total) {
  const unsigned in_warp = warp_running_sum(value);
  if (lane_id() == 31) of_warps[warp_id()] = in_warp;
  __syncthreads();
  unsigned before = 0;
  total = 0;
  for (unsigned warp = 0; warp < WARPS; warp++) {
    if (warp == warp_id()) before = total;
    total += of_warps[warp];
  }
  return before + in_warp;
}
