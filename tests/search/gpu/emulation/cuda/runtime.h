// What is the same for every kernel, and compiled once: ../runtime.
#pragma once
#include "block.h"

namespace emulation {

// How many threads came with a true predicate, once all threads of the block have come.
int block_barrier(bool predicate, Place place);

// Comes back when all lanes of `mask` that have not exited have come, and `finish` was called with
// what each of them offers.
void wait_for_lanes(unsigned mask, Finish finish, void* offer, Place place);

// The thread may be overtaken here, in random order.
void may_be_overtaken();

// The block's __shared__ variable that is declared at `site`.
void* static_variable(const void* site, size_t bytes, size_t alignment, const char* file, int line);

// Stops the launch with an error of this thread.
[[noreturn]] void fail_at(const char* what, const char* file, int line);

// Runs all blocks, until one fails.
void run_grid(Launch& launch);

}  // namespace emulation
