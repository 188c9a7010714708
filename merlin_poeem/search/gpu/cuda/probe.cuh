// A list that a query visits, in the numbering of groups that runs through all its lists.
#pragma once

struct Probe {
  unsigned end;          // groups in this and the earlier probes
  unsigned group_shift;  // add to such a number: where the group is stored (mod 2^32)
  unsigned row_shift;    // add to 32 times such a number: the row of the group's first item
  unsigned row_end;      // the row after the list's last
  float base;            // the part of the score that all items of the list share: see scorer
  unsigned list;
};

// How many of the probes end at or before `group`.
__device__ __forceinline__ unsigned probes_before(const Probe* __restrict__ probes,
                                                  unsigned n_probes, unsigned group) {
  unsigned first = 0, last = n_probes;
  while (first < last) {
    const unsigned middle = (first + last) / 2;
    if (probes[middle].end <= group) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  return first;
}
