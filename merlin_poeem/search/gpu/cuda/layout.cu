// From the arrays of an index to those that the scan reads; run once, when an index is opened.
#include "code_layout.cuh"
#include "filter.cuh"
#include "block.cuh"
#include "scorer.cuh"

// The list that `row` lies in: the last that starts at or before it and is not empty.
__device__ __forceinline__ unsigned list_of(const unsigned* __restrict__ offsets, unsigned n_lists,
                                            unsigned row) {
  unsigned first = 0, last = n_lists;
  while (last - first > 1) {
    const unsigned middle = (first + last) / 2;
    if (offsets[middle] <= row) {
      first = middle;
    } else {
      last = middle;
    }
  }
  return first;
}

// Puts the codes of rows first_row .. first_row + n - 1 in their groups; one thread a row.
__global__ void __launch_bounds__(THREADS)
arrange_codes(const unsigned char* __restrict__ packed,      // (n, n_packed), of the index
              const unsigned* __restrict__ group_offsets,    // (n_lists + 1,)
              const unsigned* __restrict__ row_offsets,      // (n_lists + 1,)
              int n_lists, unsigned first_row, int n, int n_packed, int n_bytes,
              unsigned char* __restrict__ codes) {           // (n_groups, 32 * n_bytes)
  const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (i >= n) return;
  const unsigned row = first_row + static_cast<unsigned>(i);
  const unsigned list = list_of(row_offsets, n_lists, row);
  const unsigned in_list = row - row_offsets[list], lane = in_list % 32;
  unsigned char* group =
      codes + static_cast<size_t>(group_offsets[list] + in_list / 32) * (32 * n_bytes);
  for (int t = 0; t < n_bytes; t++) {
    const int column = column_of(n_bytes, t, lane);
    group[place_in_group(n_bytes, t, lane)] = column < n_packed ? packed[i * n_packed + column] : 0;
  }
}

// What the score of an item needs beside its list's base and its lookups: 1 / |item| for the
// cosine; |item|^2 - |centroid|^2 for l2, relative to the origin, and from a book that is twice as
// long. Without centroids the codes are of the item itself. One thread a row.
__global__ void __launch_bounds__(THREADS)
item_terms(const unsigned char* __restrict__ packed,         // (n, n_packed)
           const unsigned* __restrict__ row_offsets,         // (n_lists + 1,)
           const float* __restrict__ centroids,              // (n_lists, dim), or null
           const float* __restrict__ book,                   // (byte_len, 256, n_bytes)
           int metric, int n_lists, unsigned first_row, int n, int n_packed, int n_bytes,
           int byte_len, int dim,
           float* __restrict__ terms) {                      // (n_items,)
  const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (i >= n) return;
  const unsigned row = first_row + static_cast<unsigned>(i);
  if (centroids != nullptr) {
    centroids += static_cast<size_t>(list_of(row_offsets, n_lists, row)) * dim;
  }
  float sum = 0.0f;
  for (int j = 0; j < dim; j++) {
    const int byte = j / byte_len, code = packed[i * n_packed + byte];
    float value = book[(static_cast<size_t>(j % byte_len) * BOOK_ROWS + code) * n_bytes + byte];
    const float centre = centroids == nullptr ? 0.0f : centroids[j];
    if (metric == METRIC_L2) {
      // |c + v / 2|^2 - |c|^2, without the square of a centroid that may be far away.
      sum = fmaf(value, fmaf(0.25f, value, centre), sum);
    } else {
      value += centre;
      sum = fmaf(value, value, sum);
    }
  }
  if (metric == METRIC_COSINE) sum = sum > 0.0f ? 1.0f / sqrtf(sum) : 1.0f;
  terms[row] = sum;
}

// A bit for each item of each group: whether `ids` holds it, or with `complement` does not hold it,
// and `mask` (null: all set) had it set. One warp a group.
__global__ void __launch_bounds__(THREADS)
mark_items(const long long* __restrict__ item_ids,           // (n_items,)
           const long long* __restrict__ ids,                // (n_ids,), sorted
           const unsigned* __restrict__ group_offsets,       // (n_lists + 1,)
           const unsigned* __restrict__ row_offsets,         // (n_lists + 1,)
           const unsigned* __restrict__ mask,                // (n_groups,), or null
           int n_lists, unsigned n_groups, long long n_ids, int complement,
           unsigned* __restrict__ marked) {                  // (n_groups,)
  const unsigned group = blockIdx.x * WARPS + warp_id();
  if (group >= n_groups) return;
  const unsigned list = list_of(group_offsets, n_lists, group);
  const unsigned row = row_offsets[list] + (group - group_offsets[list]) * 32 + lane_id();
  bool set = row < row_offsets[list + 1];
  if (set) set = holds(ids, n_ids, item_ids[row]) != (complement != 0);
  const unsigned bits = __ballot_sync(ALL_LANES, set);
  if (lane_id() == 0) marked[group] = mask == nullptr ? bits : bits & mask[group];
}
