// half and bfloat16: intrinsics only, no operators.
#pragma once
#include "bits.h"
#include "language.h"

struct __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};
struct __nv_bfloat16 {
  uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

namespace emulation {

// To float with the last bit set if inexact, so that a second rounding, to fewer bits, is right.
inline float rounded_to_odd(double x) {
  const float nearest = float(x);
  if (!(x == x) || double(nearest) == x) return nearest;
  uint32_t bits = bits_as<uint32_t>(nearest);
  if (fabs(double(nearest)) > fabs(x)) bits--;
  return bits_as<float>(bits | 1);
}

}  // namespace emulation

inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }

inline float __half2float(__half x) {
  const uint32_t sign = (x.bits & 0x8000u) << 16;
  const uint32_t exponent = x.bits >> 10 & 31, mantissa = x.bits & 0x3FF;
  if (exponent == 31) return __uint_as_float(sign | 0x7F800000u | mantissa << 13);
  if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
  const float subnormal = float(mantissa) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}
inline __half __float2half_rn(float x) {
  const uint32_t bits = __float_as_uint(x);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return {0x7FFF};                    // as the hardware writes NaN
  if (magnitude >= 0x477FF000) return {uint16_t(sign | 0x7C00)};  // from 65520 on: infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14: adding 0.5 leaves the subnormal's ten bits, rounded, at the end.
    const float shifted = __uint_as_float(magnitude) + 0.5f;
    return {uint16_t(sign | (__float_as_uint(shifted) - __float_as_uint(0.5f)))};
  }
  const uint32_t rebiased = magnitude - (112u << 23);
  return {uint16_t(sign | (rebiased + 0xFFF + (rebiased >> 13 & 1)) >> 13)};
}
inline __half __float2half(float x) { return __float2half_rn(x); }

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  if (!(x == x)) return {0x7FFF};  // as the hardware writes NaN
  const uint32_t bits = __float_as_uint(x);
  return {uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }

#define EMULATION_HALF_TYPE(T, T2, to_float, from_float, floats_to, float2_to, to_float2, both_to) \
  inline T2 floats_to(float x, float y) { return {from_float(x), from_float(y)}; }                 \
  inline T2 float2_to(float2 pair) { return {from_float(pair.x), from_float(pair.y)}; }            \
  inline T2 both_to(float x) { return {from_float(x), from_float(x)}; }                            \
  inline float2 to_float2(T2 pair) { return {to_float(pair.x), to_float(pair.y)}; }                \
  inline float __low2float(T2 pair) { return to_float(pair.x); }                                   \
  inline float __high2float(T2 pair) { return to_float(pair.y); }                                  \
  inline T __hadd(T a, T b) { return from_float(to_float(a) + to_float(b)); }                      \
  inline T __hsub(T a, T b) { return from_float(to_float(a) - to_float(b)); }                      \
  inline T __hmul(T a, T b) { return from_float(to_float(a) * to_float(b)); }                      \
  inline T __hfma(T a, T b, T c) {                                                                 \
    const double product = double(to_float(a)) * to_float(b);                                      \
    return from_float(emulation::rounded_to_odd(product + to_float(c)));                           \
  }                                                                                                \
  inline T __hneg(T a) { return from_float(-to_float(a)); }                                        \
  inline T __habs(T a) { return from_float(fabsf(to_float(a))); }                                  \
  inline T __hmin(T a, T b) { return from_float(fminf(to_float(a), to_float(b))); }                \
  inline T __hmax(T a, T b) { return from_float(fmaxf(to_float(a), to_float(b))); }                \
  inline bool __hlt(T a, T b) { return to_float(a) < to_float(b); }                                \
  inline bool __hle(T a, T b) { return to_float(a) <= to_float(b); }                               \
  inline bool __hgt(T a, T b) { return to_float(a) > to_float(b); }                                \
  inline bool __hge(T a, T b) { return to_float(a) >= to_float(b); }                               \
  inline bool __heq(T a, T b) { return to_float(a) == to_float(b); }                               \
  inline bool __hisnan(T a) { return isnan(to_float(a)); }                                         \
  inline T2 __hadd2(T2 a, T2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }                   \
  inline T2 __hsub2(T2 a, T2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }                   \
  inline T2 __hmul2(T2 a, T2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }                   \
  inline T2 __hfma2(T2 a, T2 b, T2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }   \
  inline T2 __hmin2(T2 a, T2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }                   \
  inline T2 __hmax2(T2 a, T2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }

EMULATION_HALF_TYPE(__half, __half2, __half2float, __float2half_rn, __floats2half2_rn,
                    __float22half2_rn, __half22float2, __float2half2_rn)
EMULATION_HALF_TYPE(__nv_bfloat16, __nv_bfloat162, __bfloat162float, __float2bfloat16_rn,
                    __floats2bfloat162_rn, __float22bfloat162_rn, __bfloat1622float2,
                    __float2bfloat162_rn)

inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half __low2half(__half2 pair) { return pair.x; }
inline __half __high2half(__half2 pair) { return pair.y; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return {x, x}; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 pair) { return pair.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 pair) { return pair.y; }
