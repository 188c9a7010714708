// The built-in variables, shared variables, barriers and collectives, as kernels call them.
#pragma once
#include "collectives.h"

namespace emulation {

inline void* dynamic_shared() { return current_block().dynamic_shared.data(); }

// The block's variable that is declared at `site`.
template <class T, size_t alignment = alignof(T)>
inline T& static_shared(const void* site, const char* file, int line) {
  return *static_cast<T*>(static_variable(site, sizeof(T), alignment, file, line));
}

}  // namespace emulation

#define threadIdx (emulation::current_fiber().thread)
#define blockIdx (emulation::current_block().index)
#define blockDim (emulation::current_block().shape)
#define gridDim (emulation::current_block().grid)

// The place of a call, as the last parameters of what can wait.
#define EMULATION_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define EMULATION_PLACE(what) (emulation::Place{what, file, line})

inline void __syncthreads(EMULATION_CALLER) {
  emulation::block_barrier(false, EMULATION_PLACE("__syncthreads"));
}
inline int __syncthreads_count(int predicate, EMULATION_CALLER) {
  return emulation::block_barrier(predicate, EMULATION_PLACE("__syncthreads_count"));
}
inline int __syncthreads_or(int predicate, EMULATION_CALLER) {
  return emulation::block_barrier(predicate, EMULATION_PLACE("__syncthreads_or")) != 0;
}
inline int __syncthreads_and(int predicate, EMULATION_CALLER) {
  const int n_true = emulation::block_barrier(predicate, EMULATION_PLACE("__syncthreads_and"));
  return n_true == int(emulation::current_block().n_threads);
}

inline void __syncwarp(unsigned mask = ~0u, EMULATION_CALLER) {
  emulation::collective<emulation::SyncWarp>(mask, {}, EMULATION_PLACE("__syncwarp"));
}

// The hardware may say so of any subset of the warp; code that relies on more shows.
inline unsigned __activemask() { return 1u << emulation::current_fiber().rank % 32; }

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __nanosleep(unsigned) {}

[[noreturn]] inline void __trap(EMULATION_CALLER) { emulation::fail_at("__trap", file, line); }

#undef assert
#define assert(condition) \
  ((condition) ? void(0) : emulation::fail_at("assertion failed: " #condition, __FILE__, __LINE__))

#ifndef __clang__
#define __builtin_assume(condition) void(0)
#endif

template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, EMULATION_CALLER) {
  return emulation::shuffle<emulation::Shuffle::kIndex>(mask, value, unsigned(lane), width,
                                                        EMULATION_PLACE("__shfl_sync"));
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATION_CALLER) {
  return emulation::shuffle<emulation::Shuffle::kUp>(mask, value, delta, width,
                                                     EMULATION_PLACE("__shfl_up_sync"));
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                          EMULATION_CALLER) {
  return emulation::shuffle<emulation::Shuffle::kDown>(mask, value, delta, width,
                                                       EMULATION_PLACE("__shfl_down_sync"));
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMULATION_CALLER) {
  return emulation::shuffle<emulation::Shuffle::kXor>(mask, value, unsigned(lanes), width,
                                                      EMULATION_PLACE("__shfl_xor_sync"));
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATION_CALLER) {
  return emulation::collective<emulation::Ballot>(mask, predicate != 0,
                                                  EMULATION_PLACE("__ballot_sync"));
}
inline int __any_sync(unsigned mask, int predicate, EMULATION_CALLER) {
  return emulation::collective<emulation::Vote>(mask, predicate != 0, EMULATION_PLACE("__any_sync"))
      .any;
}
inline int __all_sync(unsigned mask, int predicate, EMULATION_CALLER) {
  return emulation::collective<emulation::Vote>(mask, predicate != 0, EMULATION_PLACE("__all_sync"))
      .all;
}
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value, EMULATION_CALLER) {
  return emulation::collective<emulation::MatchAny<T>>(mask, value,
                                                       EMULATION_PLACE("__match_any_sync"));
}

#define EMULATION_REDUCTION(name, Combine, T)                                  \
  inline T name(unsigned mask, T value, EMULATION_CALLER) {                    \
    return emulation::collective<emulation::Reduction<T, emulation::Combine>>( \
        mask, value, EMULATION_PLACE(#name));                                  \
  }
EMULATION_REDUCTION(__reduce_add_sync, Add, unsigned)
EMULATION_REDUCTION(__reduce_add_sync, Add, int)
EMULATION_REDUCTION(__reduce_min_sync, Min, unsigned)
EMULATION_REDUCTION(__reduce_min_sync, Min, int)
EMULATION_REDUCTION(__reduce_max_sync, Max, unsigned)
EMULATION_REDUCTION(__reduce_max_sync, Max, int)
EMULATION_REDUCTION(__reduce_and_sync, And, unsigned)
EMULATION_REDUCTION(__reduce_or_sync, Or, unsigned)
EMULATION_REDUCTION(__reduce_xor_sync, Xor, unsigned)

// The whole warp's; not CUDA's: kernels define it by PTX where CUDA_EMULATION is not defined.
inline void mma_m16n8k16_bf16(float d[4], const unsigned a[4], const unsigned b[2],
                              EMULATION_CALLER) {
  const emulation::MmaIn in{{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const auto out =
      emulation::collective<emulation::Mma16816>(~0u, in, EMULATION_PLACE("mma_m16n8k16_bf16"));
  for (unsigned i = 0; i < 4; i++) d[i] = out.d[i];
}
