// The sum of an item's lookups: the instructions that search time goes to.
//
// A lookup is three instructions and half an addition: the code byte is taken from its word, times
// the row's width plus the column makes the address, and the entry is loaded. For that the lane's
// columns stay in registers, as addresses, and the compiler must not see through them, or it makes
// each anew; nor that the width is a power of two, or it shifts where the multiplier is idle.
#pragma once
#include "code_layout.cuh"

#ifdef CUDA_EMULATION
using SharedAddress = const char*;
#define OPAQUE(value)
__device__ __forceinline__ SharedAddress shared_address(const int* lut) {
  return reinterpret_cast<const char*>(lut);
}
template <int OFFSET>
__device__ __forceinline__ int load_shared(SharedAddress address) {
  return *reinterpret_cast<const int*>(address + OFFSET);
}
#else
using SharedAddress = unsigned;
#define OPAQUE(value) asm volatile("" : "+r"(value))
__device__ __forceinline__ SharedAddress shared_address(const int* lut) {
  return static_cast<unsigned>(__cvta_generic_to_shared(lut));
}
template <int OFFSET>
__device__ __forceinline__ int load_shared(SharedAddress address) {
  int value;
  asm volatile("ld.shared.s32 %0, [%1+%2];" : "=r"(value) : "r"(address), "n"(OFFSET));
  return value;
}
#endif

template <int BYTES, bool SPREAD>
struct Lookups {
  // The widest segment comes first. Spread, all segments have the columns of the first.
  static constexpr int N_COLUMNS = SPREAD ? segment_width(BYTES, 0) : BYTES;

  SharedAddress columns[N_COLUMNS];
  unsigned row_bytes;

  __device__ __forceinline__ Lookups(const int* lut, unsigned lane) : row_bytes(BANKS * 4) {
    OPAQUE(row_bytes);
#pragma unroll
    for (int t = 0; t < N_COLUMNS; t++) {
      const unsigned step = t - segment_start(BYTES, t);
      columns[t] = shared_address(lut) + ((lane ^ step) & (row_words<BYTES, SPREAD>(t) - 1)) * 4;
      if (SPREAD) OPAQUE(columns[t]);
    }
  }

  // The sum over bytes T and on. Integers, so that it is the same in whatever order they are added:
  // items with the same codes get the same score in any lane.
  template <int T = 0>
  __device__ __forceinline__ int sum(const ItemCodes<BYTES>& codes) const {
    if constexpr (T == BYTES) {
      return 0;
    } else {
      constexpr int COLUMN = SPREAD ? T - segment_start(BYTES, T) : T;
      constexpr int OFFSET = 4 * segment_words<BYTES, SPREAD>(T);
      const unsigned code = __byte_perm(codes.words[T / 4], 0, 0x4440 + T % 4);
      const unsigned width = SPREAD ? row_bytes : 4 * row_words<BYTES, SPREAD>(T);
      return load_shared<OFFSET>(columns[COLUMN] + code * width) + sum<T + 1>(codes);
    }
  }
};

// The sum of the lookups of one item whose lane is not the thread's own, from a compact LUT.
template <int BYTES>
__device__ __forceinline__ int sum_of_item(const ItemCodes<BYTES>& codes, const int* lut,
                                           unsigned item_lane) {
  return Lookups<BYTES, false>(lut, item_lane).template sum<>(codes);
}
