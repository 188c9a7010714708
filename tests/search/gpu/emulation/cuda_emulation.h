// CUDA C++ on the CPU, for tests: what a kernel's source needs so that g++ compiles and runs it.
//
// Each CUDA thread of a block is a fiber; the fibers of a block share one OS thread and switch only
// where CUDA threads wait for each other (and, in random order, at atomics). Blocks are spread over
// OpenMP threads. tests/search/gpu/emulation/device.py prepares the source, appends the entry points and
// launches.
//
// An error (deadlock, divergence, failed assert, write past shared memory) stops the launch and
// comes back as text: the fibers of its block are left as they are and their memory is released.

#pragma once

#include <math.h>
#include <omp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <new>
#include <type_traits>
#include <utility>

#if !defined(__x86_64__) || defined(EMULATION_UCONTEXT)
#define EMULATION_UCONTEXT 1
#include <ucontext.h>
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// ---- words of the language ---------------------------------------------------------------------

#define CUDA_EMULATION 1

#define __global__ inline  // the others of a file cost no time
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__ __restrict
// device.py rewrites every __shared__ declaration; one that it missed does not compile.

constexpr int warpSize = 32;

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// ---- vector types ------------------------------------------------------------------------------

#define EMULATION_VECTORS(name, scalar)                                       \
  struct name##1 { scalar x; };                                               \
  struct alignas(2 * sizeof(scalar)) name##2 { scalar x, y; };                \
  struct alignas(4 * sizeof(scalar) > 16 ? 16 : 4 * sizeof(scalar)) name##4 { \
    scalar x, y, z, w;                                                        \
  };                                                                          \
  inline name##1 make_##name##1(scalar x) { return {x}; }                     \
  inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }        \
  inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

EMULATION_VECTORS(char, signed char)
EMULATION_VECTORS(uchar, unsigned char)
EMULATION_VECTORS(short, short)
EMULATION_VECTORS(ushort, unsigned short)
EMULATION_VECTORS(int, int)
EMULATION_VECTORS(uint, unsigned)
EMULATION_VECTORS(longlong, long long)
EMULATION_VECTORS(ulonglong, unsigned long long)
EMULATION_VECTORS(float, float)
EMULATION_VECTORS(double, double)

struct int3 {
  int x, y, z;
};
struct float3 {
  float x, y, z;
};
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }

namespace emulation {

// ---- what a launch is --------------------------------------------------------------------------

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
  int n_os_threads;  // 0: as many as OpenMP takes
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

// ---- shared memory -----------------------------------------------------------------------------

// NaN as float, half and bfloat16, no plausible integer: a read of what no thread wrote shows.
constexpr uint16_t kPoison = 0xFFCD;

#ifdef __SANITIZE_ADDRESS__
constexpr size_t kGuardBytes = 0;  // the sanitizer has its own
#else
constexpr size_t kGuardBytes = 256;
#endif

inline void fill_with_poison(void* memory, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) {
    static_cast<uint8_t*>(memory)[i] = static_cast<uint8_t>(kPoison >> 8 * (i & 1));
  }
}

// One allocation of a block: poison between two guards, which no thread may have touched.
class SharedMemory {
 public:
  const void* site = nullptr;  // of a static one: identifies the declaration
  size_t bytes = 0;

  void allocate(size_t n_bytes, size_t alignment) {
    bytes = n_bytes;
    lead_ = kGuardBytes ? (kGuardBytes + alignment - 1) / alignment * alignment : 0;
    void* memory = nullptr;
    if (posix_memalign(&memory, alignment, lead_ + bytes + kGuardBytes)) abort();
    start_ = static_cast<uint8_t*>(memory);
    poison();
  }
  void release() {
    free(start_);
    start_ = nullptr;
  }
  void* data() { return start_ + lead_; }
  void poison() { fill_with_poison(start_, lead_ + bytes + kGuardBytes); }
  bool overwritten() const {
    uint8_t clean[kGuardBytes + 1];
    fill_with_poison(clean, kGuardBytes);
    // Both guards start at an even offset or at `bytes`, where the pattern may be turned.
    const uint8_t* after = start_ + lead_ + bytes;
    for (size_t i = 0; i < kGuardBytes; i++) {
      if (after[i] != clean[(i + bytes) & 1]) return true;
    }
    return memcmp(start_ + lead_ - kGuardBytes, clean, kGuardBytes) != 0;
  }

 private:
  uint8_t* start_ = nullptr;
  size_t lead_ = 0;
};

// ---- fibers ------------------------------------------------------------------------------------

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
    return line != other.line || strcmp(what, other.what) || strcmp(file, other.file);
  }
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

// ---- switching ---------------------------------------------------------------------------------

#ifndef EMULATION_UCONTEXT
// Saves the callee-saved registers on this stack and its top in *from, and takes up `to`.
extern "C" __attribute__((visibility("hidden"))) void emulation_switch(void** from, void* to);
asm(R"(
    .pushsection .text
    .hidden emulation_switch
    .globl emulation_switch
    .type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulation_switch, . - emulation_switch
    .popsection
)");
#endif

// From the scheduler (`from` null) or a fiber to a fiber or (`to` null) the scheduler.
inline void switch_between(Block& block, Fiber* from, Fiber* to) {
#ifdef __SANITIZE_ADDRESS__
  // A null place for the fake stack says that the fiber ends here.
  void** fake_stack = !from        ? &block.scheduler_fake_stack
                      : from->done ? nullptr
                                   : &from->fake_stack;
  __sanitizer_start_switch_fiber(fake_stack, to ? block.stack(to->rank) : block.scheduler_stack,
                                 to ? kStackBytes : block.scheduler_stack_bytes);
#endif
#ifdef EMULATION_UCONTEXT
  swapcontext(from ? block.context(from->rank) : &block.scheduler_context,
              to ? block.context(to->rank) : &block.scheduler_context);
#else
  emulation_switch(from ? &from->stack_pointer : &block.scheduler_stack_pointer,
                   to ? to->stack_pointer : block.scheduler_stack_pointer);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(from ? from->fake_stack : block.scheduler_fake_stack, nullptr,
                                  nullptr);
#endif
}

inline Fiber* next_fiber(Block& block) {
  int rank;
  switch (block.launch->configuration.order) {
    case kForward: rank = block.ready.first(); break;
    case kReverse: rank = block.ready.last(); break;
    default: rank = block.ready.first_from(unsigned(block.random.below(block.n_threads)));
  }
  return rank < 0 ? nullptr : &block.fibers[rank];
}

// Lets the next thread go; comes back when it is this one's turn again.
inline void let_next_go(Block& block, Fiber& fiber) {
  Fiber* next = next_fiber(block);
  if (next != &fiber) switch_between(block, &fiber, next);
}

// The thread may be overtaken here, in random order.
inline void may_be_overtaken() {
  Block& block = current_block();
  const Configuration& configuration = block.launch->configuration;
  if (configuration.order != kRandom || !block.random.chance(configuration.preempt)) return;
  let_next_go(block, current_fiber());
}

// ---- errors ------------------------------------------------------------------------------------

// Notes the first error of the launch, with its block.
__attribute__((format(printf, 2, 3))) inline void note_failure(Block& block, const char* format,
                                                               ...) {
  if (!block.launch->claim_failure()) return;
  char* message = block.launch->message;
  const size_t bytes = block.launch->message_bytes;
  const uint3 index = block.index;
  const int n = snprintf(message, bytes, "block (%u, %u, %u): ", index.x, index.y, index.z);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message + n, bytes - n, format, arguments);
  va_end(arguments);
}

// Leaves the block: the scheduler drops its fibers.
[[noreturn]] inline void abandon_block(Block& block, Fiber& fiber) {
  switch_between(block, &fiber, nullptr);
  abort();
}

[[noreturn]] inline void fail_at(const char* what, const char* file, int line) {
  Block& block = current_block();
  Fiber& fiber = current_fiber();
  const uint3 thread = fiber.thread;
  note_failure(block, "thread (%u, %u, %u): %s at %s:%d", thread.x, thread.y, thread.z, what, file,
               line);
  abandon_block(block, fiber);
}

[[noreturn]] inline void fail_together(Block& block, Fiber& fiber, const Fiber& other,
                                       const char* why) {
  const uint3 a = fiber.thread, b = other.thread;
  note_failure(block,
               "thread (%u, %u, %u) is in %s at %s:%d while thread (%u, %u, %u) waits in %s at "
               "%s:%d: %s",
               a.x, a.y, a.z, fiber.place.what, fiber.place.file, fiber.place.line, b.x, b.y, b.z,
               other.place.what, other.place.file, other.place.line, why);
  abandon_block(block, fiber);
}

// ---- barriers of the block ---------------------------------------------------------------------

inline void wait_in(Block& block, Fiber& fiber) {
  fiber.waits = true;
  block.ready.remove(fiber.rank);
}

inline const Fiber& first_waiting(const Block& block, unsigned mask) {
  unsigned rank = 0;
  while (!block.fibers[rank].waits || block.fibers[rank].mask != mask) rank++;
  return block.fibers[rank];
}

// How many threads came with a true predicate, once all threads of the block have come.
inline int block_barrier(bool predicate, Place place) {
  Block& block = current_block();
  Fiber& fiber = current_fiber();
  Barrier& barrier = block.barrier;
  fiber.place = place;
  fiber.mask = 0;
  if (barrier.n_arrived && barrier.place != place) {
    fail_together(block, fiber, first_waiting(block, 0), "the barrier is divergent");
  }
  barrier.place = place;
  barrier.n_true += predicate;
  wait_in(block, fiber);
  if (++barrier.n_arrived == block.n_threads) {
    barrier.result = barrier.n_true;
    barrier.n_arrived = 0;
    barrier.n_true = 0;
    for (unsigned rank = 0; rank < block.n_threads; rank++) block.fibers[rank].waits = false;
    block.ready.fill(block.n_threads);
  }
  let_next_go(block, fiber);
  return barrier.result;
}

// ---- collectives of a warp ---------------------------------------------------------------------

// Lets the lanes of `mask` go if all of them that have not exited wait for each other.
inline void finish_if_complete(Block& block, unsigned warp, unsigned mask) {
  const unsigned members = mask & block.alive_lanes[warp];
  Fiber* lanes = &block.fibers[warp * kWarp];
  void* offers[kWarp] = {};
  for (unsigned left = members; left; left &= left - 1) {
    const unsigned lane = __builtin_ctz(left);
    if (!lanes[lane].waits || lanes[lane].mask != mask) return;
    offers[lane] = lanes[lane].offer;
  }
  if (!members) return;
  lanes[__builtin_ctz(members)].finish(offers);
  for (unsigned left = members; left; left &= left - 1) lanes[__builtin_ctz(left)].waits = false;
  block.ready.add_lanes(warp, members);
}

inline void wait_for_lanes(unsigned mask, Finish finish, void* offer, Place place) {
  Block& block = current_block();
  Fiber& fiber = current_fiber();
  const unsigned warp = fiber.rank / kWarp;
  if (!(mask >> fiber.rank % kWarp & 1)) {
    char what[96];
    snprintf(what, sizeof what, "%s with mask 0x%08x, which lacks the thread's own lane %u",
             place.what, mask, fiber.rank % kWarp);
    fail_at(what, place.file, place.line);
  }
  fiber.place = place;
  fiber.mask = mask;
  fiber.finish = finish;
  fiber.offer = offer;
  const Fiber* lanes = &block.fibers[warp * kWarp];
  for (unsigned left = mask & block.alive_lanes[warp]; left; left &= left - 1) {
    const Fiber& other = lanes[__builtin_ctz(left)];
    if (!other.waits || other.mask != mask) continue;
    if (other.finish != finish) {
      fail_together(block, fiber, other, "lanes of one mask do different things");
    }
    break;  // those that wait agree with each other
  }
  wait_in(block, fiber);
  finish_if_complete(block, warp, mask);
  let_next_go(block, fiber);
}

// What a lane brings to a collective and takes away from it.
template <class Operation>
struct Offer {
  typename Operation::In in;
  typename Operation::Out out;
};

// The lanes that came, as an operation sees them.
template <class Operation>
struct Lanes {
  void* const* offers;

  bool has(unsigned lane) const { return offers[lane]; }
  const typename Operation::In& in(unsigned lane) const {
    return static_cast<Offer<Operation>*>(offers[lane])->in;
  }
  typename Operation::Out& out(unsigned lane) const {
    return static_cast<Offer<Operation>*>(offers[lane])->out;
  }
  template <class Each>
  void each(Each each) const {
    for (unsigned lane = 0; lane < kWarp; lane++) {
      if (has(lane)) each(lane);
    }
  }
};

template <class Operation>
void finish_operation(void* const offers[kWarp]) {
  Operation::finish(Lanes<Operation>{offers});
}

template <class Operation>
inline typename Operation::Out collective(unsigned mask, const typename Operation::In& in,
                                          Place place) {
  Offer<Operation> offer{in, {}};
  wait_for_lanes(mask, &finish_operation<Operation>, &offer, place);
  return offer.out;
}

struct Nothing {};

struct SyncWarp {
  using In = Nothing;
  using Out = Nothing;
  static void finish(Lanes<SyncWarp>) {}
};

enum class Shuffle { kIndex, kUp, kDown, kXor };

template <class T>
struct ShuffleIn {
  T value;
  unsigned argument;  // source lane, delta or lane mask
  unsigned width;
};

template <class T, Shuffle kind>
struct ShuffleOperation {
  using In = ShuffleIn<T>;
  using Out = T;

  static unsigned source(unsigned lane, unsigned argument, unsigned width) {
    const unsigned first = lane & ~(width - 1);
    const unsigned last = lane | (width - 1);
    unsigned source = lane;
    switch (kind) {
      case Shuffle::kIndex: return first | (argument & (width - 1));
      case Shuffle::kUp: return argument > lane - first ? lane : lane - argument;
      case Shuffle::kDown: return argument > last - lane ? lane : lane + argument;
      case Shuffle::kXor: source = lane ^ argument; return source > last ? lane : source;
    }
    return source;
  }
  static void finish(Lanes<ShuffleOperation> lanes) {
    lanes.each([&](unsigned lane) {
      const In& in = lanes.in(lane);
      const unsigned from = source(lane, in.argument, in.width);
      if (from < kWarp && lanes.has(from)) {
        lanes.out(lane) = lanes.in(from).value;
      } else {
        fill_with_poison(&lanes.out(lane), sizeof(T));  // undefined in CUDA
      }
    });
  }
};

template <Shuffle kind, class T>
inline T shuffle(unsigned mask, T value, unsigned argument, int width, Place place) {
  static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 8, "a scalar");
  return collective<ShuffleOperation<T, kind>>(mask, {value, argument, unsigned(width)}, place);
}

struct Ballot {
  using In = bool;
  using Out = unsigned;
  static void finish(Lanes<Ballot> lanes) {
    unsigned votes = 0;
    lanes.each([&](unsigned lane) { votes |= unsigned(lanes.in(lane)) << lane; });
    lanes.each([&](unsigned lane) { lanes.out(lane) = votes; });
  }
};

// Whether none, some or all of the lanes that came voted yes.
struct Votes {
  bool any, all;
};

struct Vote {
  using In = bool;
  using Out = Votes;
  static void finish(Lanes<Vote> lanes) {
    Votes votes{false, true};
    lanes.each([&](unsigned lane) {
      votes.any |= lanes.in(lane);
      votes.all &= lanes.in(lane);
    });
    lanes.each([&](unsigned lane) { lanes.out(lane) = votes; });
  }
};

template <class T, class Combine>
struct Reduction {
  using In = T;
  using Out = T;
  static void finish(Lanes<Reduction> lanes) {
    T result{};
    bool first = true;
    lanes.each([&](unsigned lane) {
      result = first ? lanes.in(lane) : Combine::combine(result, lanes.in(lane));
      first = false;
    });
    lanes.each([&](unsigned lane) { lanes.out(lane) = result; });
  }
};

struct Add {
  template <class T>
  static T combine(T a, T b) {
    return T(unsigned(a) + unsigned(b));  // wraps
  }
};
struct Min {
  template <class T>
  static T combine(T a, T b) {
    return b < a ? b : a;
  }
};
struct Max {
  template <class T>
  static T combine(T a, T b) {
    return a < b ? b : a;
  }
};
struct And {
  template <class T>
  static T combine(T a, T b) {
    return a & b;
  }
};
struct Or {
  template <class T>
  static T combine(T a, T b) {
    return a | b;
  }
};
struct Xor {
  template <class T>
  static T combine(T a, T b) {
    return a ^ b;
  }
};

template <class T>
struct MatchAny {
  using In = T;
  using Out = unsigned;
  static void finish(Lanes<MatchAny> lanes) {
    lanes.each([&](unsigned lane) {
      unsigned same = 0;
      lanes.each([&](unsigned other) {
        same |= unsigned(!memcmp(&lanes.in(lane), &lanes.in(other), sizeof(T))) << other;
      });
      lanes.out(lane) = same;
    });
  }
};

struct MmaIn {
  float d[4];
  unsigned a[4], b[2];
};
struct MmaOut {
  float d[4];
};

// D += A·B with A (16, 16) row-major, B (16, 8) column-major and D (16, 8), in the fragments of
// PTX mma.m16n8k16: the lane is 4 * group + place; a register holds two neighbours along k.
struct Mma16816 {
  using In = MmaIn;
  using Out = MmaOut;

  static float half_of(unsigned pair, unsigned which) {
    const unsigned bits = which ? pair & 0xFFFF0000u : pair << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
  static void finish(Lanes<Mma16816> lanes) {
    float a[16][16], b[8][16];
    for (unsigned lane = 0; lane < kWarp; lane++) {
      const unsigned group = lane / 4, place = lane % 4;
      const MmaIn in = lanes.has(lane) ? lanes.in(lane) : MmaIn{};
      for (unsigned i = 0; i < 8; i++) {
        const unsigned pair = i / 2, k = 2 * place + i % 2;
        a[group + 8 * (pair % 2)][k + 8 * (pair / 2)] = half_of(in.a[pair], i % 2);
      }
      for (unsigned i = 0; i < 4; i++) {
        b[group][2 * place + i % 2 + 8 * (i / 2)] = half_of(in.b[i / 2], i % 2);
      }
    }
    lanes.each([&](unsigned lane) {
      for (unsigned i = 0; i < 4; i++) {
        const unsigned row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        float sum = 0;
        for (unsigned k = 0; k < 16; k++) sum += a[row][k] * b[column][k];
        lanes.out(lane).d[i] = lanes.in(lane).d[i] + sum;
      }
    });
  }
};

// ---- running a block ---------------------------------------------------------------------------

inline void run_thread() {
  Block& block = current_block();
  Fiber& fiber = current_fiber();
#ifdef __SANITIZE_ADDRESS__
  const void* from;
  size_t from_bytes;
  __sanitizer_finish_switch_fiber(nullptr, &from, &from_bytes);
  // The first fiber of a block comes from the scheduler.
  if (!block.scheduler_stack) {
    block.scheduler_stack = from;
    block.scheduler_stack_bytes = from_bytes;
  }
#endif
  block.launch->body(block.launch->arguments);
  fiber.done = true;
  block.n_alive--;
  block.ready.remove(fiber.rank);
  const unsigned warp = fiber.rank / kWarp;
  block.alive_lanes[warp] &= ~(1u << fiber.rank % kWarp);
  // Lanes that wait for this one wait no longer.
  for (unsigned left = block.alive_lanes[warp]; left; left &= left - 1) {
    const Fiber& lane = block.fibers[warp * kWarp + __builtin_ctz(left)];
    if (lane.waits && lane.mask) finish_if_complete(block, warp, lane.mask);
  }
  switch_between(block, &fiber, next_fiber(block));
  abort();
}

inline void prepare_fiber(Block& block, unsigned rank) {
  Fiber& fiber = block.fibers[rank];
  fiber = Fiber{};
  fiber.rank = rank;
  fiber.thread = {rank % block.shape.x, rank / block.shape.x % block.shape.y,
                  rank / (block.shape.x * block.shape.y)};
  // Stacks of equal alignment would compete for the same lines of the cache.
  const size_t stack_bytes = kStackBytes - rank % 31 * 192;
#ifdef EMULATION_UCONTEXT
  ucontext_t* context = block.context(rank);
  getcontext(context);
  context->uc_stack.ss_sp = context + 1;
  context->uc_stack.ss_size = stack_bytes - sizeof(ucontext_t);
  context->uc_link = nullptr;
  makecontext(context, run_thread, 0);
#else
  // As emulation_switch leaves a stack: six registers, and where to go on. A function expects the
  // stack as a call leaves it, 8 bytes off a multiple of 16.
  void** top = reinterpret_cast<void**>(block.stack(rank) + stack_bytes) - 1;
  *--top = reinterpret_cast<void*>(run_thread);
  for (unsigned i = 0; i < 6; i++) *--top = nullptr;
  fiber.stack_pointer = top;
#endif
}

// No thread can go on, and not all are done.
inline void note_deadlock(Block& block) {
  unsigned rank = 0;
  while (!block.fibers[rank].waits) rank++;
  const Fiber& waiting = block.fibers[rank];
  // One that it waits for.
  const unsigned first = waiting.mask ? rank / kWarp * kWarp : 0;
  const unsigned last = waiting.mask ? first + kWarp : block.n_threads;
  const Fiber* missing = &waiting;
  for (rank = first; rank < last && rank < block.n_threads; rank++) {
    const Fiber& other = block.fibers[rank];
    const bool wanted = !waiting.mask || (waiting.mask >> rank % kWarp & 1 && !other.done);
    if (wanted && !(other.waits && other.mask == waiting.mask)) missing = &other;
  }
  const uint3 a = waiting.thread, b = missing->thread;
  if (missing->done) {
    note_failure(block, "thread (%u, %u, %u) waits in %s at %s:%d, but thread (%u, %u, %u) exited",
                 a.x, a.y, a.z, waiting.place.what, waiting.place.file, waiting.place.line, b.x,
                 b.y, b.z);
  } else {
    note_failure(block,
                 "deadlock: thread (%u, %u, %u) waits in %s at %s:%d, thread (%u, %u, %u) in %s "
                 "at %s:%d",
                 a.x, a.y, a.z, waiting.place.what, waiting.place.file, waiting.place.line, b.x,
                 b.y, b.z, missing->place.what, missing->place.file, missing->place.line);
  }
}

inline void run_block(Block& block, uint64_t number) {
  const Configuration& configuration = block.launch->configuration;
  block.index = {unsigned(number % block.grid.x), unsigned(number / block.grid.x % block.grid.y),
                 unsigned(number / (uint64_t(block.grid.x) * block.grid.y))};
  // Its own numbers, whichever OS thread runs it and when.
  block.random = {configuration.seed * 0x2545F4914F6CDD1Du + number};
  block.n_alive = block.n_threads;
  block.barrier = Barrier{};
  block.dynamic_shared.poison();
  for (unsigned i = 0; i < block.n_static_shared; i++) block.static_shared[i].poison();
  for (unsigned rank = 0; rank < block.n_threads; rank++) prepare_fiber(block, rank);
  for (unsigned warp = 0; warp * kWarp < block.n_threads; warp++) {
    const unsigned n_lanes = block.n_threads - warp * kWarp;
    block.alive_lanes[warp] = n_lanes >= kWarp ? ~0u : (1u << n_lanes) - 1;
  }
  block.ready.fill(block.n_threads);
  switch_between(block, nullptr, next_fiber(block));
  // Here all are done, none can go on, or one has failed.
  if (block.launch->has_failed()) return;
  if (block.n_alive) return note_deadlock(block);
  if (block.dynamic_shared.overwritten()) {
    return note_failure(block, "a thread wrote outside the %zu bytes of dynamic shared memory",
                        block.dynamic_shared.bytes);
  }
  for (unsigned i = 0; i < block.n_static_shared; i++) {
    if (block.static_shared[i].overwritten()) {
      return note_failure(block, "a thread wrote outside a __shared__ variable of %zu bytes",
                          block.static_shared[i].bytes);
    }
  }
}

inline char* map_arena() {
  const size_t bytes = 2 * kArenaBytes;  // of which one aligned arena is kept
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) abort();
  char* start = static_cast<char*>(mapped);
  const size_t lead = -reinterpret_cast<uintptr_t>(start) & (kArenaBytes - 1);
  if (lead) munmap(start, lead);
  munmap(start + lead + kArenaBytes, kArenaBytes - lead);
  return start + lead;
}

// What an OS thread needs to run blocks of a launch, one after the other.
class BlockRunner {
 public:
  explicit BlockRunner(Launch& launch) : arena_(map_arena()), block_(*new (arena_) Block) {
    const Configuration& configuration = launch.configuration;
    const unsigned* shape = configuration.block;
    block_.launch = &launch;
    block_.grid = dim3(configuration.grid[0], configuration.grid[1], configuration.grid[2]);
    block_.shape = dim3(shape[0], shape[1], shape[2]);
    block_.n_threads = shape[0] * shape[1] * shape[2];
    block_.n_static_shared = 0;
    block_.dynamic_shared.allocate(configuration.shared_bytes, 128);
  }
  ~BlockRunner() {
    block_.dynamic_shared.release();
    for (unsigned i = 0; i < block_.n_static_shared; i++) block_.static_shared[i].release();
#ifdef __SANITIZE_ADDRESS__
    // Fibers that were left in the middle leave their frames marked.
    if (block_.launch->has_failed()) __asan_unpoison_memory_region(arena_, kArenaBytes);
#endif
    munmap(arena_, kArenaBytes);
  }
  BlockRunner(const BlockRunner&) = delete;
  BlockRunner& operator=(const BlockRunner&) = delete;

  void run(uint64_t number) { run_block(block_, number); }

 private:
  char* arena_;
  Block& block_;
};

inline uint32_t* shuffled(uint64_t n, uint64_t seed) {
  uint32_t* numbers = static_cast<uint32_t*>(malloc(n * sizeof(uint32_t)));
  Random random{seed};
  for (uint64_t i = 0; i < n; i++) {
    const uint64_t j = random.below(i + 1);
    numbers[i] = numbers[j];
    numbers[j] = uint32_t(i);
  }
  return numbers;
}

inline void run_grid(Launch& launch) {
  const Configuration& configuration = launch.configuration;
  const unsigned* grid = configuration.grid;
  const int64_t n_blocks = int64_t(grid[0]) * grid[1] * grid[2];
  uint32_t* order = nullptr;
  if (configuration.order == kRandom) order = shuffled(uint64_t(n_blocks), configuration.seed);
  int n_os_threads =
      configuration.n_os_threads ? configuration.n_os_threads : omp_get_max_threads();
  if (n_os_threads > n_blocks) n_os_threads = int(n_blocks);
#pragma omp parallel num_threads(n_os_threads)
  {
    BlockRunner runner(launch);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n_blocks; i++) {
      if (launch.has_failed()) continue;
      runner.run(order ? order[i] : configuration.order == kReverse ? n_blocks - 1 - i : i);
    }
  }
  free(order);
}

// ---- shared memory, as device.py rewrites it ---------------------------------------------------

inline void* dynamic_shared() { return current_block().dynamic_shared.data(); }

// The block's variable that is declared at `site`.
template <class T, size_t alignment = alignof(T)>
inline T& static_shared(const void* site, const char* file, int line) {
  Block& block = current_block();
  unsigned i = 0;
  size_t bytes = sizeof(T);
  while (i < block.n_static_shared && block.static_shared[i].site != site) {
    bytes += block.static_shared[i++].bytes;
  }
  if (i == block.n_static_shared) {
    if (i == Block::kMaxStaticShared) fail_at("too many __shared__ variables", file, line);
    if (bytes > 48 << 10) fail_at("more than 49152 bytes of __shared__ variables", file, line);
    const Configuration& configuration = block.launch->configuration;
    if (bytes + configuration.shared_bytes > configuration.shared_bytes_limit) {
      char what[128];
      snprintf(what, sizeof what, "%zu bytes of dynamic and static shared memory; the limit is %zu",
               size_t(bytes + configuration.shared_bytes),
               size_t(configuration.shared_bytes_limit));
      fail_at(what, file, line);
    }
    block.static_shared[i].site = site;
    block.static_shared[i].allocate(sizeof(T), alignment < 16 ? 16 : alignment);
    block.n_static_shared++;
  }
  return *static_cast<T*>(block.static_shared[i].data());
}

}  // namespace emulation

// ---- the built-in variables and synchronisation ------------------------------------------------

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

// ---- atomics -----------------------------------------------------------------------------------

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

// ---- bits --------------------------------------------------------------------------------------

namespace emulation {

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace emulation

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) {
  return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64;
}

inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (unsigned i = 0; i < 32; i++) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}

inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t(y) << 32 | x;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; i++) {
    const unsigned choice = selector >> 4 * i & 15;
    unsigned byte = bytes >> 8 * (choice & 7) & 0xFF;
    if (choice & 8) byte = byte & 0x80 ? 0xFF : 0;  // the sign, repeated
    result |= byte << 8 * i;
  }
  return result;
}

inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift) {
  return unsigned((uint64_t(high) << 32 | low) << (shift < 32 ? shift : 32) >> 32);
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift) {
  return unsigned((uint64_t(high) << 32 | low) >> (shift < 32 ? shift : 32));
}

inline int __dp4a(int a, int b, int c) {
  unsigned sum = unsigned(c);
  for (unsigned i = 0; i < 4; i++) sum += unsigned(int8_t(a >> 8 * i) * int8_t(b >> 8 * i));
  return int(sum);
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (unsigned i = 0; i < 4; i++) c += (a >> 8 * i & 0xFF) * (b >> 8 * i & 0xFF);
  return c;
}

inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

inline unsigned __float_as_uint(float x) { return emulation::bits_as<unsigned>(x); }
inline int __float_as_int(float x) { return emulation::bits_as<int>(x); }
inline float __uint_as_float(unsigned x) { return emulation::bits_as<float>(x); }
inline float __int_as_float(int x) { return emulation::bits_as<float>(x); }
inline long long __double_as_longlong(double x) { return emulation::bits_as<long long>(x); }
inline double __longlong_as_double(long long x) { return emulation::bits_as<double>(x); }

// ---- arithmetic --------------------------------------------------------------------------------

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

// ---- half and bfloat16: intrinsics only, no operators ------------------------------------------

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

// ---- entry points ------------------------------------------------------------------------------

namespace emulation {

// As device.py's `_Parameter`. A kind is p(ointer), f(loat), i(nteger), b(ool), v(oid) or c(lass).
struct Parameter {
  const char* type_text;  // … "with T = <the type>]"
  uint64_t size;
  uint64_t pointee_size;
  uint64_t pointee_alignment;
  char kind;
  char pointee_kind;
  char pointee_is_const;
};

template <class T>
const char* type_text() {
  return __PRETTY_FUNCTION__;
}

template <class T>
constexpr char kind_of() {
  using U = std::remove_cv_t<T>;
  if (std::is_pointer<U>::value) return 'p';
  if (std::is_void<U>::value) return 'v';
  if (std::is_same<U, bool>::value) return 'b';
  if (std::is_floating_point<U>::value || std::is_same<U, __half>::value) return 'f';
  if (std::is_integral<U>::value || std::is_enum<U>::value) return 'i';
  if (std::is_same<U, __nv_bfloat16>::value) return 'i';  // NumPy has none: its bits
  return 'c';
}

template <class T>
Parameter parameter() {
  using Pointee = std::remove_pointer_t<T>;
  using Measured = std::conditional_t<std::is_void<Pointee>::value, char, Pointee>;
  return {type_text<T>(),
          sizeof(T),
          sizeof(Measured),
          alignof(Measured),
          kind_of<T>(),
          kind_of<Pointee>(),
          std::is_const<Pointee>::value};
}

template <class... T>
const Parameter* parameters(void (*)(T...), int* n) {
  static const Parameter all[] = {parameter<T>()..., Parameter{}};
  *n = int(sizeof...(T));
  return all;
}

template <class... T>
struct Call {
  void (*kernel)(T...);
  void** arguments;

  template <size_t... I>
  void make(std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_cv_t<T>*>(arguments[I])...);
  }
  static void body(void* call) { static_cast<Call*>(call)->make(std::index_sequence_for<T...>{}); }
};

// 0, or 1 and the message of the first error.
template <class... T>
int launch(void (*kernel)(T...), const Configuration& configuration, void** arguments,
           char* message, size_t message_bytes) {
  Call<T...> call{kernel, arguments};
  Launch launch{configuration, &Call<T...>::body, &call, message, message_bytes};
  run_grid(launch);
  return launch.failed;
}

}  // namespace emulation
