// The lists that each query visits.
#include "bitonic_sort.cuh"
#include "probe.cuh"
#include "radix_select.cuh"

// |query - centroid|^2, or |query|^2 without a centroid; by a warp. From the differences, not from
// squares: those of a list far from the origin have no digits left for the distance.
__device__ __forceinline__ float square_distance(const float* __restrict__ query,
                                                 const float* __restrict__ centroid, int dim) {
  float square = 0.0f;
  for (int i = lane_id(); i < dim; i += 32) {
    const float part = query[i] - (centroid == nullptr ? 0.0f : centroid[i]);
    square = fmaf(part, part, square);
  }
  return warp_sum(square);
}

struct ListsShared {
  SelectShared select;
  unsigned of_warps[WARPS], n_kept;
};

// Chooses the n_probes best lists of each query, equal scores by lower number; one block a query.
// With `sorted`, best first (2 * the power of two from n_probes on, in words of shared memory).
// Blocks a multiprocessor: without a number some compilers spill.
__global__ void __launch_bounds__(THREADS, 6)
choose_lists(const float* __restrict__ products,       // (n, n_lists)
             const float* __restrict__ biases,         // (n_lists,), or null: added to products
             const float* __restrict__ base_factors,   // (n_lists,), base / product, or null
             const float* __restrict__ queries,        // (n, dim), rotated, for l2; or null
             const float* __restrict__ centroids,      // (n_lists, dim), for l2, or null
             const float* __restrict__ scales,         // (n,), NaN: the query has no answer
             const unsigned* __restrict__ group_offsets,  // (n_lists + 1,)
             const unsigned* __restrict__ row_offsets,    // (n_lists + 1,)
             int n_lists, int n_probes, int sorted, int dim,
             Probe* __restrict__ probes) {             // (n, n_probes)
  extern __shared__ float memory[];
  __shared__ ListsShared shared;
  const size_t query = blockIdx.x;
  products += query * n_lists;
  probes += query * n_probes;
  const auto score_at = [=](unsigned list) {
    const float score = products[list] + (biases == nullptr ? 0.0f : biases[list]);
    // A card's NaN would rank highest, and break the order of the sort.
    if (isnan(score)) return minus_infinity();
    return score + 0.0f;  // -0 and 0 are equal, and get one key
  };

  unsigned width = 1;
  while (sorted && width < n_probes) width <<= 1;
  float* scores = memory;
  unsigned* lists = reinterpret_cast<unsigned*>(memory + width);

  Cut cut{0, 0, 0};
  if (n_probes < n_lists) {
    const auto key_at = [&](unsigned list) { return key_of(score_at(list)); };
    cut = find_cut(shared.select, key_at, n_lists, n_probes);
  }
  // In the order of the lists, so that of those at the cut the lowest numbers are taken.
  const bool breaks_ties = cut.n_ties < cut.n_equal;
  unsigned n_kept = 0, n_ties = 0;
  for (unsigned start = 0; start < n_lists; start += THREADS) {
    const unsigned list = start + threadIdx.x;
    const float score = list < n_lists ? score_at(list) : 0.0f;
    const unsigned key = key_of(score);
    bool kept = list < n_lists && key >= cut.key;
    unsigned total;
    if (breaks_ties) {
      const bool tied = kept && key == cut.key;
      const unsigned number = n_ties + block_running_sum(tied, shared.of_warps, total);
      n_ties += total;
      kept = kept && !(tied && number > cut.n_ties);
      __syncthreads();
    }
    const unsigned place = n_kept + block_running_sum(kept, shared.of_warps, total) - 1;
    n_kept += total;
    if (kept && sorted) {
      scores[place] = score;
      lists[place] = list;
    } else if (kept) {
      probes[place].list = list;
    }
    __syncthreads();
  }
  if (sorted) {
    for (unsigned i = n_probes + threadIdx.x; i < width; i += THREADS) {
      scores[i] = minus_infinity();
      lists[i] = 0xffffffffu;
    }
    bitonic_sort(
        width,
        [=](unsigned i, unsigned j) {
          return scores[i] != scores[j] ? scores[i] > scores[j] : lists[i] < lists[j];
        },
        [=](unsigned i, unsigned j) {
          const float score = scores[i];
          const unsigned list = lists[i];
          scores[i] = scores[j];
          lists[i] = lists[j];
          scores[j] = score;
          lists[j] = list;
        });
  }
  const bool finite = !isnan(scales[query]);  // else all lists count as empty
  unsigned n_groups = 0;
  for (unsigned start = 0; start < n_probes; start += THREADS) {
    const unsigned i = start + threadIdx.x;
    unsigned list = i >= n_probes ? 0 : sorted ? lists[i] : probes[i].list;
    list = min(list, static_cast<unsigned>(n_lists) - 1);  // whatever came, read no other memory
    const unsigned first = group_offsets[list];
    const unsigned n_own = i < n_probes && finite ? group_offsets[list + 1] - first : 0;
    unsigned total;
    const unsigned end = n_groups + block_running_sum(n_own, shared.of_warps, total);
    if (i < n_probes) {
      const unsigned begin = end - n_own;
      Probe probe;
      probe.end = end;
      probe.group_shift = first - begin;
      probe.row_shift = row_offsets[list] - begin * 32;
      probe.row_end = row_offsets[list + 1];
      probe.base = base_factors == nullptr ? 0.0f : products[list] * base_factors[list];
      probe.list = list;
      probes[i] = probe;
    }
    n_groups += total;
    __syncthreads();
  }
  if (queries == nullptr) return;
  for (unsigned i = warp_id(); i < n_probes; i += WARPS) {
    const size_t list = probes[i].list;
    const float* centroid = centroids == nullptr ? nullptr : centroids + list * dim;
    const float square = square_distance(queries + query * dim, centroid, dim);
    if (lane_id() == 0) probes[i].base = -square;
  }
}
