// The lists that each query visits.
#include "bitonic_sort.cuh"
#include "probe.cuh"
#include "radix_select.cuh"
#include "registers.cuh"

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

// Of so many lists at most the best are found among the few that reach a bound.
constexpr unsigned MOST_BOUNDED = THREADS / 2;
constexpr unsigned MOST_REACHING = 3 * MOST_BOUNDED;

// The score by which lists are chosen.
__device__ __forceinline__ float list_score(float product, float factor, float bias) {
  return fmaf(product, factor, bias);
}

struct ListsShared {
  SelectShared select;
  unsigned of_warps[WARPS];
  float bound;
  unsigned n_reaching;
  float scores[MOST_REACHING];
  unsigned lists[MOST_REACHING];
};

// Where chosen lists go: best first to `scores` and `lists`, which have `width` places, a power of two;
// or, without these, to `probes` in any order.
struct Chosen {
  float* scores;
  unsigned* lists;
  unsigned width;
  Probe* probes;
};

// The n-th largest of `keys`, OWN a lane, or somewhat less: its lower bits are zeros. By a warp.
template <int OWN>
__device__ __forceinline__ unsigned nth_largest(const unsigned (&keys)[OWN], unsigned n) {
  constexpr int LOWEST_BIT = 12;  // the rest tells few scores apart
  unsigned cut = 0;
  for (int bit = 31; bit >= LOWEST_BIT; bit--) {
    const unsigned higher = cut | 1u << bit;
    unsigned n_reaching = 0;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      n_reaching += __popc(__ballot_sync(ALL_LANES, keys[i] >= higher));
    }
    if (n_reaching >= n) cut = higher;
  }
  return cut;
}

// The scores of one query's lists, four at once.
struct ScoreQuads {
  const float4* __restrict__ products;
  const float4* __restrict__ factors;  // or null
  const float4* __restrict__ biases;   // or null
  unsigned n_lists;

  __device__ __forceinline__ unsigned n_quads() const { return (n_lists + 3) / 4; }

  __device__ __forceinline__ void load(unsigned quad, float (&scores)[4]) const {
    const float4 product = products[quad];
    const float4 factor = factors == nullptr ? make_float4(1, 1, 1, 1) : factors[quad];
    const float4 bias = biases == nullptr ? make_float4(0, 0, 0, 0) : biases[quad];
    scores[0] = list_score(product.x, factor.x, bias.x);
    scores[1] = list_score(product.y, factor.y, bias.y);
    scores[2] = list_score(product.z, factor.z, bias.z);
    scores[3] = list_score(product.w, factor.w, bias.w);
    if (quad * 4 + 4 <= n_lists) return;
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
      if (quad * 4 + i >= n_lists) scores[i] = minus_infinity();
    }
  }
};

// Chooses the n_probes best lists, n_probes <= MOST_BOUNDED; false where too many come close, or too
// few have a score, and nothing is chosen. All threads call it; it ends with a barrier.
//
// Each thread has the best of its own lists. The n_probes-th best of these is a bound that at least
// n_probes lists reach, and hardly more, as there are twice as many threads: two looks at each list.
__device__ bool choose_by_bound(ListsShared& shared, const ScoreQuads& quads, unsigned n_probes,
                                const Chosen& chosen) {
  float best = minus_infinity();
#pragma unroll 4
  for (unsigned quad = threadIdx.x; quad < quads.n_quads(); quad += THREADS) {
    float scores[4];
    quads.load(quad, scores);
#pragma unroll
    for (int i = 0; i < 4; i++) best = fmaxf(best, scores[i]);  // of NaN and a number, the number
  }
  unsigned* keys = shared.select.histogram;  // has a place for every thread
  keys[threadIdx.x] = key_of(best);
  if (threadIdx.x == 0) shared.n_reaching = 0;
  __syncthreads();
  if (warp_id() == 0) {
    unsigned own[WARPS];
#pragma unroll
    for (int i = 0; i < WARPS; i++) own[i] = keys[i * 32 + lane_id()];
    const unsigned cut = nth_largest(own, n_probes);
    if (lane_id() == 0) shared.bound = score_of(cut);
  }
  __syncthreads();
  const float bound = shared.bound;
#pragma unroll 4
  for (unsigned quad = threadIdx.x; quad < quads.n_quads(); quad += THREADS) {
    float scores[4];
    quads.load(quad, scores);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const unsigned list = quad * 4 + i;
      if (!(scores[i] >= bound) || list >= quads.n_lists) continue;
      const unsigned place = atomicAdd(&shared.n_reaching, 1u);
      if (place < MOST_REACHING) {
        shared.scores[place] = scores[i];
        shared.lists[place] = list;
      }
    }
  }
  __syncthreads();
  const unsigned n = shared.n_reaching;
  if (n > MOST_REACHING || n < n_probes) return false;
  for (unsigned i = threadIdx.x; i < n; i += THREADS) {
    const float score = shared.scores[i];
    const unsigned list = shared.lists[i];
    unsigned before = 0;
    for (unsigned j = 0; j < n; j++) {
      const float other = shared.scores[j];
      before += other > score || (other == score && shared.lists[j] < list);
    }
    if (before < n_probes) {
      chosen.scores[before] = score;
      chosen.lists[before] = list;
    }
  }
  __syncthreads();
  return true;
}

// Chooses the n_probes best of any number of lists, by a radix select and a sort. All threads call it;
// it ends with a barrier.
template <class ScoreAt>
__device__ void choose_by_digits(ListsShared& shared, const ScoreAt& score_at, unsigned n_lists,
                                 unsigned n_probes, const Chosen& chosen) {
  Cut cut{0, 0, 0};
  if (n_probes < n_lists) {
    const auto key_at = [&](unsigned list) { return key_of(score_at(list)); };
    cut = find_cut(shared.select, key_at, n_lists, n_probes);
  }
  float* scores = chosen.scores;
  unsigned* lists = chosen.lists;
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
    if (kept && lists != nullptr) {
      scores[place] = score;
      lists[place] = list;
    } else if (kept) {
      chosen.probes[place].list = list;
    }
    __syncthreads();
  }
  if (lists == nullptr) return;
  for (unsigned i = n_probes + threadIdx.x; i < chosen.width; i += THREADS) {
    scores[i] = minus_infinity();
    lists[i] = 0xffffffffu;
  }
  bitonic_sort(
      chosen.width,
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

// Chooses the n_probes best lists of each query, equal scores by lower number; one block a query.
// With `sorted`, best first (2 * the power of two from n_probes on, in words of shared memory).
// Blocks a multiprocessor: without a number some compilers spill.
__global__ void __launch_bounds__(THREADS, 6 - FEWER_BLOCKS)
choose_lists(const float* __restrict__ products,       // (n, n_padded)
             const float* __restrict__ factors,        // (n_padded,), or null: 1
             const float* __restrict__ biases,         // (n_padded,), or null: 0
             int has_bases,                            // items' scores have the product for a part
             const float* __restrict__ queries,        // (n, dim), rotated, for l2; or null
             const float* __restrict__ centroids,      // (n_lists, dim), for l2, or null
             const float* __restrict__ scales,         // (n,), NaN: the query has no answer
             const unsigned* __restrict__ group_offsets,  // (n_lists + 1,)
             const unsigned* __restrict__ row_offsets,    // (n_lists + 1,)
             int n_lists, int n_padded, int n_probes, int sorted, int dim,  // n_padded: of quads
             Probe* __restrict__ probes) {             // (n, n_probes)
  extern __shared__ float memory[];
  __shared__ ListsShared shared;
  const size_t query = blockIdx.x;
  products += query * n_padded;
  probes += query * n_probes;
  const auto score_at = [=](unsigned list) {
    const float score = list_score(products[list], factors == nullptr ? 1.0f : factors[list],
                                   biases == nullptr ? 0.0f : biases[list]);
    // A card's NaN would rank highest, and break the order of the sort.
    if (isnan(score)) return minus_infinity();
    return score + 0.0f;  // -0 and 0 are equal, and get one key
  };

  unsigned width = 1;
  while (sorted && width < n_probes) width <<= 1;
  unsigned* lists = sorted ? reinterpret_cast<unsigned*>(memory + width) : nullptr;
  const Chosen chosen{sorted ? memory : nullptr, lists, width, probes};
  const bool bounded = sorted && n_probes < n_lists && n_probes <= MOST_BOUNDED;
  const ScoreQuads quads{reinterpret_cast<const float4*>(products),
                         reinterpret_cast<const float4*>(factors),
                         reinterpret_cast<const float4*>(biases),
                         static_cast<unsigned>(n_lists)};
  if (!bounded || !choose_by_bound(shared, quads, n_probes, chosen)) {
    choose_by_digits(shared, score_at, n_lists, n_probes, chosen);
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
      probe.base = has_bases ? products[list] : 0.0f;
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
