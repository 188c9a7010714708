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
  __align__(16) unsigned histogram[DIGITS];
  unsigned digit, wanted, found, differing;
};

// Where the k largest end: all keys above `key`, and `n_ties` of the `n_equal` that equal it.
// Without a tie to break (n_ties == n_equal) `key` may lie below the k-th largest, but above all
// keys that are not among the k. With slack, n_equal - n_ties more keys may reach `key`.
struct Cut {
  unsigned key, n_ties, n_equal;

  __device__ __forceinline__ unsigned n_too_many() const { return n_equal - n_ties; }
};

// Warp 0 finds the digit in which the `wanted`-th largest key lies, and clears the histogram.
__device__ __forceinline__ void find_digit(SelectShared& shared, unsigned wanted) {
  constexpr unsigned OWN = DIGITS / 32;
  // The highest digits come first. Four words at once, or eight lanes would read one bank.
  uint4* own = reinterpret_cast<uint4*>(shared.histogram + DIGITS - OWN * (lane_id() + 1));
  const uint4 low = own[0], high = own[1];
  own[0] = own[1] = make_uint4(0, 0, 0, 0);
  const unsigned counts[OWN] = {high.w, high.z, high.y, high.x, low.w, low.z, low.y, low.x};
  unsigned sum = 0;
#pragma unroll
  for (unsigned i = 0; i < OWN; i++) sum += counts[i];
  unsigned above = warp_running_sum(sum) - sum;
  if (above < wanted && wanted <= above + sum) {
    const unsigned top = DIGITS - 1 - lane_id() * OWN;
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

// By how much to shift the keys key_at(0) .. key_at(n - 1) for the digit that begins with the highest
// bit in which they differ. Scores of one sign and size have most of the bits above it in common, and would be
// counted in one place, one by one. Clears the histogram. All threads call it; a barrier must
// separate it from what wrote the keys, and it ends with one.
template <class KeyAt>
__device__ int first_digit(SelectShared& shared, const KeyAt& key_at, unsigned n) {
  for (unsigned digit = threadIdx.x; digit < DIGITS; digit += THREADS) shared.histogram[digit] = 0;
  if (threadIdx.x == 0) shared.differing = 0;
  __syncthreads();
  unsigned differing = 0;
  for (unsigned i = threadIdx.x; i < n; i += THREADS) differing |= key_at(i) ^ key_at(0);
  differing = warp_or(differing);
  if (lane_id() == 0 && differing != 0) atomicOr(&shared.differing, differing);
  __syncthreads();
  return max(0, 24 - __clz(shared.differing));
}

// The cut of the k largest of key_at(0) .. key_at(n - 1), 1 <= k <= n, and of up to `slack` more
// where that saves a pass: n_too_many() is above `slack` only where so many keys are equal. All
// threads call it; a barrier must separate it from what wrote the keys.
template <class KeyAt>
__device__ Cut find_cut(SelectShared& shared, const KeyAt& key_at, unsigned n, unsigned k,
                        unsigned slack = 0) {
  int shift = first_digit(shared, key_at, n);
  unsigned known_bits = shift < 24 ? ~0u << (shift + 8) : 0u;
  unsigned prefix = key_at(0) & known_bits, wanted = k, found = n;
  while (true) {
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
    // Nearly all that share these digits are wanted, or nothing tells them apart.
    if (found - wanted <= slack || shift == 0) break;
    shift = max(0, shift - 8);
  }
  return {prefix, wanted, found};
}
