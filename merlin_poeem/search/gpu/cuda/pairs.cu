// Which queries probe a list: the (query, probe) pairs, grouped by list. Probes of no item, which
// all of a query without an answer are, count for none.
#include "block.cuh"
#include "probe.cuh"

// The pair that thread i has, of `own` probes a query from `first` on.
__device__ __forceinline__ size_t pair_of(unsigned i, unsigned own, int n_probes, int first) {
  return static_cast<size_t>(i / own) * n_probes + first + i % own;
}

// Groups numbered before those of the pair's list.
__device__ __forceinline__ unsigned begin_of(const Probe* __restrict__ probes, size_t pair,
                                             int n_probes) {
  return pair % n_probes == 0 ? 0 : probes[pair - 1].end;
}

// Counts the pairs of each list, of the probes from `first` on; one thread a pair.
__global__ void __launch_bounds__(THREADS)
count_pairs(const Probe* __restrict__ probes,          // (n, n_probes)
            int n, int n_probes, int first,
            int* __restrict__ counts) {                // (n_lists,), zeros
  const unsigned i = blockIdx.x * THREADS + threadIdx.x, own = n_probes - first;
  if (i >= n * own) return;
  const size_t pair = pair_of(i, own, n_probes, first);
  if (probes[pair].end > begin_of(probes, pair, n_probes)) {
    atomicAdd(counts + probes[pair].list, 1);
  }
}

// Where the pairs of each list end; one block.
__global__ void __launch_bounds__(THREADS)
end_lists(const int* __restrict__ counts,              // (n_lists,)
          int n_lists,
          int* __restrict__ ends) {                    // (n_lists,), running sum of the counts
  __shared__ unsigned of_warps[WARPS];
  unsigned n_pairs = 0;
  for (int start = 0; start < n_lists; start += THREADS) {
    const int list = start + threadIdx.x;
    unsigned total;
    const unsigned own = list < n_lists ? counts[list] : 0;
    const unsigned end = n_pairs + block_running_sum(own, of_warps, total);
    if (list < n_lists) ends[list] = static_cast<int>(end);
    n_pairs += total;
    __syncthreads();
  }
}

// Puts each pair in its list's place, in any order.
__global__ void __launch_bounds__(THREADS)
place_pairs(const Probe* __restrict__ probes,          // (n, n_probes)
            int n, int n_probes, int first,
            const int* __restrict__ ends,              // (n_lists,)
            int* __restrict__ counts,                  // (n_lists,), as counted; left at zero
            int* __restrict__ pairs) {                 // (n * (n_probes - first),)
  const unsigned i = blockIdx.x * THREADS + threadIdx.x, own = n_probes - first;
  if (i >= n * own) return;
  const size_t pair = pair_of(i, own, n_probes, first);
  if (probes[pair].end == begin_of(probes, pair, n_probes)) return;
  const unsigned list = probes[pair].list;
  pairs[ends[list] - atomicAdd(counts + list, -1)] = static_cast<int>(pair);
}
