// What a kernel calls while it runs: barriers, collectives, shared variables, errors.
#include "../cuda/runtime.h"

#include "failures.h"
#include "waiting.h"

namespace emulation {

void fail_at(const char* what, const char* file, int line) {
  Block& block = current_block();
  Fiber& fiber = current_fiber();
  const uint3 thread = fiber.thread;
  note_failure(block, "thread (%u, %u, %u): %s at %s:%d", thread.x, thread.y, thread.z, what, file,
               line);
  abandon_block(block, fiber);
}

void may_be_overtaken() {
  Block& block = current_block();
  const Configuration& configuration = block.launch->configuration;
  if (configuration.order != kRandom || !block.random.chance(configuration.preempt)) return;
  let_next_go(block, current_fiber());
}

inline void wait_in(Block& block, Fiber& fiber) {
  fiber.waits = true;
  block.ready.remove(fiber.rank);
}

inline const Fiber& first_waiting(const Block& block, unsigned mask) {
  unsigned rank = 0;
  while (!block.fibers[rank].waits || block.fibers[rank].mask != mask) rank++;
  return block.fibers[rank];
}

int block_barrier(bool predicate, Place place) {
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

void finish_if_complete(Block& block, unsigned warp, unsigned mask) {
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

void wait_for_lanes(unsigned mask, Finish finish, void* offer, Place place) {
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

void* static_variable(const void* site, size_t bytes, size_t alignment, const char* file,
                      int line) {
  Block& block = current_block();
  unsigned i = 0;
  size_t all_bytes = bytes;
  while (i < block.n_static_shared && block.static_shared[i].site != site) {
    all_bytes += block.static_shared[i++].bytes;
  }
  if (i == block.n_static_shared) {
    if (i == Block::kMaxStaticShared) fail_at("too many __shared__ variables", file, line);
    if (all_bytes > 48 << 10) fail_at("more than 49152 bytes of __shared__ variables", file, line);
    const Configuration& configuration = block.launch->configuration;
    if (all_bytes + configuration.shared_bytes > configuration.shared_bytes_limit) {
      char what[128];
      snprintf(what, sizeof what, "%zu bytes of dynamic and static shared memory; the limit is %zu",
               size_t(all_bytes + configuration.shared_bytes),
               size_t(configuration.shared_bytes_limit));
      fail_at(what, file, line);
    }
    block.static_shared[i].site = site;
    block.static_shared[i].allocate(bytes, alignment < 16 ? 16 : alignment);
    block.n_static_shared++;
  }
  return block.static_shared[i].data();
}

}  // namespace emulation
