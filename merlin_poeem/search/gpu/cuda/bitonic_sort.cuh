// Sorting in shared memory by a block (Batcher's bitonic network).
#pragma once
#include "block.cuh"

// Sorts places 0 .. width - 1, `width` a power of two, so that before(i, i + 1) is false nowhere
// but for places of equal content. swap(i, j) exchanges two. Starts and ends with a barrier.
template <class Before, class Swap>
__device__ void bitonic_sort(unsigned width, const Before& before, const Swap& swap) {
  __syncthreads();
  for (unsigned run = 2; run <= width; run <<= 1) {
    for (unsigned step = run >> 1; step > 0; step >>= 1) {
      for (unsigned pair = threadIdx.x; pair < width / 2; pair += THREADS) {
        const unsigned low = 2 * pair - (pair & (step - 1)), high = low + step;
        // Runs rise and fall in turns, until the last is the whole.
        if (low & run ? before(low, high) : before(high, low)) swap(low, high);
      }
      __syncthreads();
    }
  }
}
