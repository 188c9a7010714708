// What lets waiting lanes go on, beside the last of them that comes.
#pragma once
#include "../cuda/block.h"

namespace emulation {

// Lets the lanes of `mask` go if all of them that have not exited wait for each other.
void finish_if_complete(Block& block, unsigned warp, unsigned mask);

}  // namespace emulation
