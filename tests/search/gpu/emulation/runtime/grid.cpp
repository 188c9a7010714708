// Running the blocks of a launch, which OS threads take one by one.
#include <algorithm>
#include <atomic>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#ifdef __SSE__
#include <xmmintrin.h>
#endif

#include "../cuda/runtime.h"
#include "blocks.h"

namespace emulation {

static char* map_arena() {
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

// Memory for blocks and their fibers. It is kept for the next launch, as fresh pages are slow.
class Arenas {
 public:
  char* take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return map_arena();
    char* arena = free_.back();
    free_.pop_back();
    return arena;
  }
  void give_back(char* arena) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(arena);
  }

 private:
  std::mutex mutex_;
  std::vector<char*> free_;
};

static Arenas arenas;

// What an OS thread needs to run blocks of a launch, one after the other.
class BlockRunner {
 public:
  explicit BlockRunner(Launch& launch) : arena_(arenas.take()), block_(*new (arena_) Block()) {
    const Configuration& configuration = launch.configuration;
    const unsigned* shape = configuration.block;
    block_.launch = &launch;
    block_.grid = dim3(configuration.grid[0], configuration.grid[1], configuration.grid[2]);
    block_.shape = dim3(shape[0], shape[1], shape[2]);
    block_.n_threads = shape[0] * shape[1] * shape[2];
    block_.dynamic_shared.allocate(configuration.shared_bytes, 128);
  }
  ~BlockRunner() {
    block_.dynamic_shared.release();
    for (unsigned i = 0; i < block_.n_static_shared; i++) block_.static_shared[i].release();
#ifdef __SANITIZE_ADDRESS__
    // Fibers that were left in the middle leave their frames marked.
    const size_t bytes = (block_.n_threads + 1) * kStackBytes;
    if (block_.launch->has_failed()) __asan_unpoison_memory_region(arena_, bytes);
#endif
    arenas.give_back(arena_);
  }
  BlockRunner(const BlockRunner&) = delete;
  BlockRunner& operator=(const BlockRunner&) = delete;

  void run(uint64_t number) { run_block(block_, number); }

 private:
  char* arena_;
  Block& block_;
};

// While it lives, subnormal floats are zero in arithmetic of this OS thread, as on a card.
class FlushedSubnormals {
 public:
#ifdef __SSE__
  FlushedSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushResults | kFlushOperands); }
  ~FlushedSubnormals() { _mm_setcsr(before_); }

 private:
  static constexpr unsigned kFlushResults = 0x8000, kFlushOperands = 0x0040;
  unsigned before_;
#endif
};

static std::vector<uint32_t> shuffled(uint64_t n, uint64_t seed) {
  std::vector<uint32_t> numbers(n);
  Random random{seed};
  for (uint64_t i = 0; i < n; i++) {
    const uint64_t j = random.below(i + 1);
    numbers[i] = numbers[j];
    numbers[j] = uint32_t(i);
  }
  return numbers;
}

void run_grid(Launch& launch) {
  const Configuration& configuration = launch.configuration;
  const unsigned* grid = configuration.grid;
  const int64_t n_blocks = int64_t(grid[0]) * grid[1] * grid[2];
  const bool reverse = configuration.order == kReverse;
  std::vector<uint32_t> order;
  if (configuration.order == kRandom) order = shuffled(uint64_t(n_blocks), configuration.seed);
  std::atomic<int64_t> n_taken{0};
  const auto run_blocks = [&] {
    BlockRunner runner(launch);
    const FlushedSubnormals flushed;
    for (int64_t i; !launch.has_failed() && (i = n_taken++) < n_blocks;) {
      runner.run(!order.empty() ? order[i] : reverse ? n_blocks - 1 - i : i);
    }
  };
  std::vector<std::thread> helpers;
  const int64_t n_os_threads = std::min<int64_t>(configuration.n_os_threads, n_blocks);
  for (int64_t i = 1; i < n_os_threads; i++) helpers.emplace_back(run_blocks);
  run_blocks();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace emulation
