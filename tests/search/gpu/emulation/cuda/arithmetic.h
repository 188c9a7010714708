// Arithmetic intrinsics, conversions, min and max. Floats that are subnormal count as zero, and become
// zero, as in kernels that are compiled with -ftz=true: grid.cpp tells the processor.
#pragma once
#include "bits.h"
#include "language.h"

namespace emulation {

// A library function's result, which may be subnormal.
inline float flushed(float x) {
  volatile float one = 1.0f;
  return x * one;
}

// PTX ISA, min and max: a NaN loses, two NaNs give the card's; -0 is below 0.
inline float least(float a, float b) {
  if (isnan(a)) return isnan(b) ? bits_as<float>(kNaN) : flushed(b);
  if (isnan(b)) return flushed(a);
  return flushed(a < b || (a == b && signbit(a)) ? a : b);
}
inline float most(float a, float b) {
  if (isnan(a)) return isnan(b) ? bits_as<float>(kNaN) : flushed(b);
  if (isnan(b)) return flushed(a);
  return flushed(a < b || (a == b && signbit(a)) ? b : a);
}
inline float scaled(float x, int exponent) { return flushed(::ldexpf(flushed(x), exponent)); }

}  // namespace emulation

#define fminf emulation::least
#define fmaxf emulation::most
#define ldexpf emulation::scaled

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float rsqrtf(float a) { return float(1.0 / sqrt(double(a))); }
inline float __frsqrt_rn(float a) { return rsqrtf(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float a) { return expf(a); }
inline float __logf(float a) { return logf(a); }
inline float __log2f(float a) { return log2f(a); }
inline float __saturatef(float a) { return fminf(fmaxf(a, 0.0f), 1.0f); }

namespace emulation {

// As the hardware converts: to the nearest that there is; NaN to 0 (of 32 bits).
template <class Integer>
inline Integer saturated(double rounded) {
  constexpr double low = double(std::is_signed<Integer>::value ? -0x1p31 : 0.0);
  constexpr double high = std::is_signed<Integer>::value ? 0x1p31 - 1 : 0x1p32 - 1;
  if (!(rounded == rounded)) return 0;
  return Integer(rounded < low ? low : rounded > high ? high : rounded);
}

}  // namespace emulation

inline int __float2int_rn(float x) { return emulation::saturated<int>(nearbyint(double(x))); }
inline int __float2int_rz(float x) { return emulation::saturated<int>(trunc(double(x))); }
inline int __float2int_rd(float x) { return emulation::saturated<int>(floor(double(x))); }
inline int __float2int_ru(float x) { return emulation::saturated<int>(ceil(double(x))); }
inline unsigned __float2uint_rn(float x) {
  return emulation::saturated<unsigned>(nearbyint(double(x)));
}
inline unsigned __float2uint_rz(float x) {
  return emulation::saturated<unsigned>(trunc(double(x)));
}
inline unsigned __float2uint_rd(float x) {
  return emulation::saturated<unsigned>(floor(double(x)));
}
inline unsigned __float2uint_ru(float x) { return emulation::saturated<unsigned>(ceil(double(x))); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline float __ll2float_rn(long long x) { return float(x); }
inline float __ull2float_rn(unsigned long long x) { return float(x); }
inline float __double2float_rn(double x) { return float(x); }

#define EMULATION_MIN_MAX(T, A, B)  \
  inline T min(A first, B second) { \
    const T a = first, b = second;  \
    return b < a ? b : a;           \
  }                                 \
  inline T max(A first, B second) { \
    const T a = first, b = second;  \
    return a < b ? b : a;           \
  }
EMULATION_MIN_MAX(int, int, int)
EMULATION_MIN_MAX(unsigned, unsigned, unsigned)
EMULATION_MIN_MAX(unsigned, int, unsigned)
EMULATION_MIN_MAX(unsigned, unsigned, int)
EMULATION_MIN_MAX(long, long, long)
EMULATION_MIN_MAX(unsigned long, unsigned long, unsigned long)
EMULATION_MIN_MAX(unsigned long, long, unsigned long)
EMULATION_MIN_MAX(unsigned long, unsigned long, long)
EMULATION_MIN_MAX(long long, long long, long long)
EMULATION_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
EMULATION_MIN_MAX(unsigned long long, long long, unsigned long long)
EMULATION_MIN_MAX(unsigned long long, unsigned long long, long long)
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax(a, b); }
inline double min(double a, float b) { return fmin(a, b); }
inline double max(double a, float b) { return fmax(a, b); }
inline unsigned umin(unsigned a, unsigned b) { return min(a, b); }
inline unsigned umax(unsigned a, unsigned b) { return max(a, b); }
