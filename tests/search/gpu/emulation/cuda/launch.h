// What a launch is: its extent, the order in which threads and blocks take turns, its first error.
#pragma once
#include "system.h"

namespace emulation {

enum Order : int { kForward = 0, kReverse = 1, kRandom = 2 };

// As device.py's `_Configuration`.
struct Configuration {
  unsigned grid[3];
  unsigned block[3];
  uint64_t shared_bytes;
  uint64_t shared_bytes_limit;  // of dynamic and static together
  uint64_t seed;
  double preempt;  // in random order: the chance that an atomic lets another thread go first
  int order;
  int n_os_threads;
};

struct Launch {
  const Configuration& configuration;
  void (*body)(void*);
  void* arguments;
  char* message;  // of the first error
  size_t message_bytes;
  int failed = 0;

  bool has_failed() { return __atomic_load_n(&failed, __ATOMIC_RELAXED); }
  bool claim_failure() { return !__atomic_exchange_n(&failed, 1, __ATOMIC_SEQ_CST); }
};

struct Random {
  uint64_t state;

  // splitmix64: any seed will do
  uint64_t next() {
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  uint64_t below(uint64_t n) { return (next() >> 32) * n >> 32; }
  bool chance(double p) { return (next() >> 11) * 0x1p-53 < p; }
};

}  // namespace emulation
