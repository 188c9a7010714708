// Which queries probe a list: the (query, probe) pairs, grouped by list.
#include "block.cuh"
#include "probe.cuh"

// Counts the pairs of each list, of the probes from `first` on; one thread a pair.
__global__ void __launch_bounds__(THREADS)
count_pairs(const Probe* __restrict__ probes,          // (n, n_probes)
            int n, int n_probes, int first,
            int* __restrict__ counts) {                // (n_lists,), zeros
  const unsigned i = blockIdx.x * THREADS + threadIdx.x, own = n_probes - first;
  if (i >= n * own) return;
  const size_t pair = static_cast<size_t>(i / own) * n_probes + first + i % own;
  atomicAdd(counts + probes[pair].list, 1);
}

// Puts each pair in its list's place, in any order.
__global__ void __launch_bounds__(THREADS)
place_pairs(const Probe* __restrict__ probes,          // (n, n_probes)
            int n, int n_probes, int first,
            const int* __restrict__ ends,              // (n_lists,), running sum of the counts
            int* __restrict__ counts,                  // (n_lists,), as counted; left at zero
            int* __restrict__ pairs) {                 // (n * (n_probes - first),)
  const unsigned i = blockIdx.x * THREADS + threadIdx.x, own = n_probes - first;
  if (i >= n * own) return;
  const size_t pair = static_cast<size_t>(i / own) * n_probes + first + i % own;
  const unsigned list = probes[pair].list;
  pairs[ends[list] - atomicAdd(counts + list, -1)] = static_cast<int>(pair);
}
