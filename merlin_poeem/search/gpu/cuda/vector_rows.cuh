// Stored vectors as kernels read them: rows of float32, float16 or int8, 16 bytes at a time.
#pragma once

constexpr int QUAD_BYTES = 16;

#ifdef CUDA_EMULATION
__device__ __forceinline__ float half_to_float(unsigned short bits) {
  return __half2float(__ushort_as_half(bits));
}
#else
// Subnormals too, which -ftz leaves alone here; PTX ISA, cvt.
__device__ __forceinline__ float half_to_float(unsigned short bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
#endif

// Byte `place` of a word, as the signed number that it is: under the exponent of 2^23 it is that
// much and 128 more. Conversions of bytes have few units.
__device__ __forceinline__ float signed_byte(unsigned word, unsigned place) {
  const unsigned bits = __byte_perm(word ^ 0x80808080u, 0x4b000000u, 0x7540u + place);
  return __uint_as_float(bits) - 8388736.0f;
}

// The values of 16 bytes of a vector, of so many BYTES each: float32, float16, or int8.
template <int BYTES>
struct Quad {
  static constexpr int N = QUAD_BYTES / BYTES;

  float values[N];

  __device__ __forceinline__ Quad(const uint4& words) {
    widen(words.x, 0);
    widen(words.y, 1);
    widen(words.z, 2);
    widen(words.w, 3);
  }

  __device__ __forceinline__ void widen(unsigned word, int number) {
    float* own = values + number * (N / 4);
    if constexpr (BYTES == 4) {
      own[0] = __uint_as_float(word);
    } else if constexpr (BYTES == 2) {
      own[0] = half_to_float(static_cast<unsigned short>(word));
      own[1] = half_to_float(static_cast<unsigned short>(word >> 16));
    } else {
#pragma unroll
      for (unsigned place = 0; place < 4; place++) own[place] = signed_byte(word, place);
    }
  }
};
