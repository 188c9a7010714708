// From fiber to fiber.
#pragma once
#include "../cuda/block.h"

#ifndef EMULATION_UCONTEXT
extern "C" __attribute__((visibility("hidden"))) void emulation_switch(void** from, void* to);
#endif

namespace emulation {

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

}  // namespace emulation
