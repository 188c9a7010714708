// Running a block: its fibers, until all are done or none can go on.
#pragma once
#include "../cuda/block.h"

namespace emulation {

// Runs the block of this number; an error is its launch's.
void run_block(Block& block, uint64_t number);

}  // namespace emulation
