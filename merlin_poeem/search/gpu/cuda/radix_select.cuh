// The k-th largest of many scores, by a block: one digit of eight bits a pass, highest first.
#pragma once
#include "block.cuh"

constexpr unsigned DIGITS = 256;
// The key of -infinity; the keys below it are of NaNs.
constexpr unsigned LOWEST_KEY = 0x007fffffu;

// Scores in their order as unsigned numbers.
__device__ __forceinline__ unsigned key_of(float score) {
  const unsigned bits = __float_as_uint(score);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float score_of(unsigned key) {
  if (key < LOWEST_KEY) key = LOWEST_KEY;
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

struct SelectShared {
  unsigned histogram[DIGITS];
  unsigned digit, wanted, found;
};

// Where the k largest end: all keys above `key`, and `n_ties` of the `n_equal` that equal it.
// Without a tie to break (n_ties == n_equal) `key` may lie below the k-th largest, but above all
// keys that are not among the k.
struct Cut {
  unsigned key, n_ties, n_equal;
};

// Warp 0 finds the digit in which the `wanted`-th largest key lies, and clears the histogram.
__device__ __forceinline__ void find_digit(SelectShared& shared, unsigned wanted) {
  constexpr unsigned OWN = DIGITS / 32;
  unsigned counts[OWN], sum = 0;
  const unsigned top = DIGITS - 1 - lane_id() * OWN;
#pragma unroll
  for (unsigned i = 0; i < OWN; i++) {
    counts[i] = shared.histogram[top - i];
    shared.histogram[top - i] = 0;
    sum += counts[i];
  }
  unsigned above = warp_running_sum(sum) - sum;
  if (above < wanted && wanted <= above + sum) {
#pragma unroll
    for (unsigned i = 0; i < OWN; i++) {
      if (above < wanted && wanted <= above + counts[i]) {
        shared.digit = top - i;
        shared.wanted = wanted - above;
        shared.found = counts[i];
      }
      above += counts[i];
    }
  }
}

// The cut of the k largest of key_at(0) .. key_at(n - 1), 1 <= k <= n. All threads call it; a
// barrier must separate it from what wrote the keys.
template <class KeyAt>
__device__ Cut find_cut(SelectShared& shared, const KeyAt& key_at, unsigned n, unsigned k) {
  for (unsigned digit = threadIdx.x; digit < DIGITS; digit += THREADS) shared.histogram[digit] = 0;
  __syncthreads();
  unsigned prefix = 0, known_bits = 0, wanted = k, found = n;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (unsigned i = threadIdx.x; i < n; i += THREADS) {
      const unsigned key = key_at(i);
      if ((key & known_bits) == prefix) atomicAdd(&shared.histogram[key >> shift & 255u], 1u);
    }
    __syncthreads();
    if (warp_id() == 0) find_digit(shared, wanted);
    __syncthreads();
    prefix |= shared.digit << shift;
    known_bits |= 255u << shift;
    wanted = shared.wanted;
    found = shared.found;
    // All that share these digits are wanted: no need to tell them apart.
    if (wanted == found) break;
  }
  return {prefix, wanted, found};
}
