// Atomics, and loads and stores with cache hints.
#pragma once
#include "runtime.h"

namespace emulation {

// Real ones: blocks run on several OS threads.
template <class T, class Change>
inline T read_modify_write(T* address, Change change) {
  may_be_overtaken();
  T old, changed;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    changed = change(old);
  } while (!__atomic_compare_exchange(address, &old, &changed, false, __ATOMIC_SEQ_CST,
                                      __ATOMIC_RELAXED));
  return old;
}

}  // namespace emulation

#define EMULATION_ATOMIC(name, T, expression)                                             \
  inline T name(T* address, T value) {                                                    \
    return emulation::read_modify_write(address, [=](T old) -> T { return expression; }); \
  }
#define EMULATION_ATOMIC_BITS(T)             \
  EMULATION_ATOMIC(atomicAnd, T, old& value) \
  EMULATION_ATOMIC(atomicOr, T, old | value) \
  EMULATION_ATOMIC(atomicXor, T, old ^ value)
#define EMULATION_ATOMIC_MINMAX(T)                          \
  EMULATION_ATOMIC(atomicMin, T, value < old ? value : old) \
  EMULATION_ATOMIC(atomicMax, T, old < value ? value : old)
#define EMULATION_ATOMIC_CAS(T)                                                   \
  inline T atomicCAS(T* address, T compare, T value) {                            \
    emulation::may_be_overtaken();                                                \
    __atomic_compare_exchange(address, &compare, &value, false, __ATOMIC_SEQ_CST, \
                              __ATOMIC_SEQ_CST);                                  \
    return compare;                                                               \
  }

// The types for which CUDA has them, and no others.
EMULATION_ATOMIC(atomicAdd, int, unsigned(old) + unsigned(value))
EMULATION_ATOMIC(atomicAdd, unsigned, old + value)
EMULATION_ATOMIC(atomicAdd, unsigned long long, old + value)
EMULATION_ATOMIC(atomicAdd, float, old + value)
EMULATION_ATOMIC(atomicAdd, double, old + value)
EMULATION_ATOMIC(atomicSub, int, unsigned(old) - unsigned(value))
EMULATION_ATOMIC(atomicSub, unsigned, old - value)
EMULATION_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
EMULATION_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)
EMULATION_ATOMIC(atomicExch, int, value)
EMULATION_ATOMIC(atomicExch, unsigned, value)
EMULATION_ATOMIC(atomicExch, unsigned long long, value)
EMULATION_ATOMIC(atomicExch, float, value)
EMULATION_ATOMIC_BITS(int)
EMULATION_ATOMIC_BITS(unsigned)
EMULATION_ATOMIC_BITS(unsigned long long)
EMULATION_ATOMIC_MINMAX(int)
EMULATION_ATOMIC_MINMAX(unsigned)
EMULATION_ATOMIC_MINMAX(unsigned long long)
EMULATION_ATOMIC_MINMAX(long long)
EMULATION_ATOMIC_CAS(unsigned short)
EMULATION_ATOMIC_CAS(int)
EMULATION_ATOMIC_CAS(unsigned)
EMULATION_ATOMIC_CAS(unsigned long long)

// ---- loads and stores with cache hints ---------------------------------------------------------

#define EMULATION_LOAD(name)        \
  template <class T>                \
  inline T name(const T* address) { \
    return *address;                \
  }
EMULATION_LOAD(__ldg)
EMULATION_LOAD(__ldca)
EMULATION_LOAD(__ldcg)
EMULATION_LOAD(__ldcs)
EMULATION_LOAD(__ldlu)
EMULATION_LOAD(__ldcv)

#define EMULATION_STORE(name)                                                  \
  template <class T>                                                           \
  inline void name(T* address, typename std::enable_if<true, T>::type value) { \
    *address = value;                                                          \
  }
EMULATION_STORE(__stwb)
EMULATION_STORE(__stcg)
EMULATION_STORE(__stcs)
EMULATION_STORE(__stwt)
