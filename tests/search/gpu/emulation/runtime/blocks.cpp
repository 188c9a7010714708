#include "blocks.h"

#include "failures.h"
#include "waiting.h"

namespace emulation {

static void run_thread() {
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

static void prepare_fiber(Block& block, unsigned rank) {
  Fiber& fiber = block.fibers[rank];
  fiber = Fiber{};
  fiber.rank = rank;
  fiber.thread = {rank % block.shape.x, rank / block.shape.x % block.shape.y,
                  rank / (block.shape.x * block.shape.y)};
  // Stacks of equal alignment would compete for the same lines of the cache.
  const size_t stack_bytes = kStackBytes - rank % 31 * 192;
#ifdef __SANITIZE_ADDRESS__
  // The frame of run_thread, which never returns, is still marked from the block before.
  constexpr size_t page = 4096;
  __asan_unpoison_memory_region(block.stack(rank) + stack_bytes - page, page);
#endif
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
static void note_deadlock(Block& block) {
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

void run_block(Block& block, uint64_t number) {
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

}  // namespace emulation
