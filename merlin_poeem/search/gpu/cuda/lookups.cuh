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

// FIXED: the LUT is of int32, or else of float32, as its bits.
template <int BYTES, bool SPREAD, bool FIXED>
struct Lookups {
  // The widest segment comes first. Spread, all segments have the columns of the first. A compact
  // LUT has too many columns for the registers: they are made anew for each lookup.
  static constexpr int N_COLUMNS = SPREAD ? segment_width(BYTES, 0) : 1;

  SharedAddress columns[N_COLUMNS];
  unsigned lane, row_bytes;

  __device__ __forceinline__ Lookups(const int* lut, unsigned lane)
      : lane(lane), row_bytes(BANKS * 4) {
    OPAQUE(row_bytes);
    if constexpr (SPREAD) {
#pragma unroll
      for (int t = 0; t < N_COLUMNS; t++) {
        columns[t] = shared_address(lut) + (lane ^ t) % BANKS * 4;
        OPAQUE(columns[t]);
      }
    } else {
      columns[0] = shared_address(lut);
    }
  }

  // The sum over all bytes, the same in any lane: items with the same codes get the same score.
  // Integers may be added in any order. Of floats it takes the tree: bytes t and t xor 1 are of the
  // same two columns in every lane, and so are the halves of each larger block.
  __device__ __forceinline__ auto sum(const ItemCodes<BYTES>& codes) const {
    unsigned own_lane = lane;
    if constexpr (!SPREAD) OPAQUE(own_lane);
    return sum_from<0>(codes, own_lane);
  }

  // Over the segments from byte T on.
  template <int T>
  __device__ __forceinline__ auto sum_from(const ItemCodes<BYTES>& codes,
                                           unsigned own_lane) const {
    constexpr int WIDTH = segment_width(BYTES, T);
    if constexpr (T + WIDTH == BYTES) {
      return sum_of_block<T, WIDTH>(codes, own_lane);
    } else {
      return sum_of_block<T, WIDTH>(codes, own_lane) + sum_from<T + WIDTH>(codes, own_lane);
    }
  }

  // Over N bytes of one segment from byte T on.
  template <int T, int N>
  __device__ __forceinline__ auto sum_of_block(const ItemCodes<BYTES>& codes,
                                               unsigned own_lane) const {
    if constexpr (N == 1) {
      return entry<T>(codes, own_lane);
    } else {
      return sum_of_block<T, N / 2>(codes, own_lane) +
             sum_of_block<T + N / 2, N / 2>(codes, own_lane);
    }
  }

  template <int T>
  __device__ __forceinline__ auto entry(const ItemCodes<BYTES>& codes, unsigned own_lane) const {
    constexpr int STEP = T - segment_start(BYTES, T), WIDTH = segment_width(BYTES, T);
    constexpr int OFFSET = 4 * segment_words<BYTES, SPREAD>(T);
    const unsigned code = __byte_perm(codes.words[T / 4], 0, 0x4440 + T % 4);
    SharedAddress address;
    if constexpr (SPREAD) {
      address = columns[STEP] + code * row_bytes;
    } else {
      address = columns[0] + (code * WIDTH | ((own_lane ^ STEP) & (WIDTH - 1))) * 4;
    }
    const int bits = load_shared<OFFSET>(address);
    if constexpr (FIXED) {
      return bits;
    } else {
      return __int_as_float(bits);
    }
  }
};

// The sum of the lookups of one item whose lane is not the thread's own, from a compact LUT.
template <int BYTES>
__device__ __forceinline__ int sum_of_item(const ItemCodes<BYTES>& codes, const int* lut,
                                           unsigned item_lane) {
  return Lookups<BYTES, false, true>(lut, item_lane).sum(codes);
}
