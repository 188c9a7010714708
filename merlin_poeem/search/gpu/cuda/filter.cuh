// Which items a query may return: tested only for those whose score reaches the threshold.
#pragma once

// Whether `id` is among the n sorted ids.
__device__ __forceinline__ bool holds(const long long* __restrict__ ids, long long n,
                                      long long id) {
  long long first = 0, last = n;
  while (first < last) {
    const long long middle = (first + last) / 2;
    if (ids[middle] < id) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  return first < n && ids[first] == id;
}

// The lists of ids that one query must not, or may only, return. Null offsets: no such list.
struct IdFilter {
  const long long *excluded, *allowed;
  long long n_excluded, n_allowed;
  bool has_allowed;

  // Without lists; trivial, so that shared memory can hold one.
  IdFilter() = default;

  __device__ IdFilter(size_t query, const long long* __restrict__ exclude_offsets,
                      const long long* __restrict__ exclude_ids,
                      const long long* __restrict__ allow_offsets,
                      const long long* __restrict__ allow_ids)
      : excluded(exclude_ids), allowed(allow_ids), n_excluded(0), n_allowed(0),
        has_allowed(allow_offsets != nullptr) {
    if (exclude_offsets != nullptr) {
      excluded += exclude_offsets[query];
      n_excluded = exclude_offsets[query + 1] - exclude_offsets[query];
    }
    if (has_allowed) {
      allowed += allow_offsets[query];
      n_allowed = allow_offsets[query + 1] - allow_offsets[query];
    }
  }

  __device__ __forceinline__ bool admits(const long long* __restrict__ item_ids,
                                         unsigned row) const {
    if (n_excluded == 0 && !has_allowed) return true;
    const long long id = item_ids[row];
    if (n_excluded > 0 && holds(excluded, n_excluded, id)) return false;
    return !has_allowed || holds(allowed, n_allowed, id);
  }
};
