// A block and its fibers, one a CUDA thread.
#pragma once
#include "language.h"
#include "launch.h"
#include "shared_memory.h"

namespace emulation {

constexpr unsigned kWarp = 32;
constexpr unsigned kMaxThreads = 1024;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 128 << 10;
#endif
constexpr size_t kArenaBytes = 512
                               << 20;  // a power of two that holds a slot for each thread, and one
static_assert(kStackBytes * (kMaxThreads + 1) <= kArenaBytes, "");

struct Block;

// Where in the source a thread waits.
struct Place {
  const char* what;
  const char* file;
  int line;

  bool operator!=(const Place& other) const {
    return line != other.line || differ(what, other.what) || differ(file, other.file);
  }
  static bool differ(const char* a, const char* b) { return a != b && strcmp(a, b); }
};

// What the lanes of a mask do once all have arrived: `waiting` are their Fiber::offer.
using Finish = void (*)(void* const waiting[kWarp]);

struct Fiber {
  uint3 thread;
  unsigned rank;
  bool done;
  bool waits;
  Place place;    // where it waits
  unsigned mask;  // of the warp collective that it waits in; 0: in a barrier of the block
  Finish finish;
  void* offer;
#ifndef EMULATION_UCONTEXT
  void* stack_pointer;
#endif
#ifdef __SANITIZE_ADDRESS__
  void* fake_stack;
#endif
};

// The threads that can go on.
class Ready {
 public:
  void fill(unsigned n) {
    for (unsigned word = 0; word < kWords; word++) {
      const unsigned left = n > 64 * word ? n - 64 * word : 0;
      words_[word] = left >= 64 ? ~uint64_t(0) : (uint64_t(1) << left) - 1;
    }
  }
  void add(unsigned rank) { words_[rank / 64] |= uint64_t(1) << rank % 64; }
  void remove(unsigned rank) { words_[rank / 64] &= ~(uint64_t(1) << rank % 64); }
  void add_lanes(unsigned warp, unsigned lanes) {
    words_[warp / 2] |= uint64_t(lanes) << 32 * (warp % 2);
  }
  // Rank of the first, or -1.
  int first() const {
    for (unsigned word = 0; word < kWords; word++) {
      if (words_[word]) return int(64 * word) + __builtin_ctzll(words_[word]);
    }
    return -1;
  }
  int last() const {
    for (unsigned word = kWords; word-- > 0;) {
      if (words_[word]) return int(64 * word) + 63 - __builtin_clzll(words_[word]);
    }
    return -1;
  }
  int first_from(unsigned rank) const {
    unsigned word = rank / 64;
    uint64_t bits = words_[word] & ~uint64_t(0) << rank % 64;
    while (!bits && ++word < kWords) bits = words_[word];
    return bits ? int(64 * word) + __builtin_ctzll(bits) : first();
  }

 private:
  static constexpr unsigned kWords = kMaxThreads / 64;
  uint64_t words_[kWords];
};

struct Barrier {
  unsigned n_arrived;
  int n_true;  // predicates of those that arrived
  int result;  // n_true of the last barrier: none overwrites it before all have read it
  Place place;
};

// A block and its fibers: the head of an arena whose slots 1, 2, … are the fibers' stacks.
//
// The arena is aligned to its size, so that a fiber finds its block and its rank in the address of
// its stack: no thread-local variable, which a compiler could keep over a switch.
struct Block {
  static constexpr unsigned kMaxStaticShared = 64;

  Launch* launch;
  dim3 grid, shape;
  uint3 index;
  unsigned n_threads, n_alive;
  Ready ready;
  Random random;
  Barrier barrier;
  unsigned alive_lanes[kMaxThreads / kWarp];
  SharedMemory dynamic_shared;
  SharedMemory static_shared[kMaxStaticShared];
  unsigned n_static_shared;
  Fiber fibers[kMaxThreads];
#ifdef EMULATION_UCONTEXT
  ucontext_t scheduler_context;
#else
  void* scheduler_stack_pointer;
#endif
#ifdef __SANITIZE_ADDRESS__
  void* scheduler_fake_stack;
  const void* scheduler_stack;
  size_t scheduler_stack_bytes;
#endif

  char* stack(unsigned rank) { return reinterpret_cast<char*>(this) + (rank + 1) * kStackBytes; }
#ifdef EMULATION_UCONTEXT
  // A stack grows down; what stands at its low end is too large for Fiber.
  ucontext_t* context(unsigned rank) { return reinterpret_cast<ucontext_t*>(stack(rank)); }
#endif
};
static_assert(sizeof(Block) <= kStackBytes, "");

inline Block& current_block() {
  const auto address = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  return *reinterpret_cast<Block*>(address & ~(kArenaBytes - 1));
}

inline Fiber& current_fiber() {
  const auto address = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  return current_block().fibers[(address & (kArenaBytes - 1)) / kStackBytes - 1];
}

}  // namespace emulation
