// Scans groups of a query's lists into a top-k buffer: the loop that search time goes to.
#pragma once
#include "filter.cuh"
#include "lookups.cuh"
#include "probe.cuh"
#include "scorer.cuh"
#include "top_k.cuh"

constexpr unsigned PROBE_TILE = 128;

// What a scan reads of the index.
struct ScannedItems {
  const unsigned char* __restrict__ codes;       // (n_groups, 32 * BYTES), see code_layout
  const float* __restrict__ terms;               // (n_items,), or null: see scorer
  const long long* __restrict__ item_ids;        // (n_items,)
  const unsigned* __restrict__ eligible_mask;    // (n_groups,), a bit an item, or null
};

// One warp's place in the lists: which of the tile's probes its next group lies in.
struct Cursor {
  const Probe* probes;
  unsigned i;

  __device__ __forceinline__ const Probe& seek(unsigned group) {
    while (group >= probes[i].end) i++;
    return probes[i];
  }
};

// The item of one lane, fetched ahead of its turn.
template <int BYTES>
struct Fetched {
  ItemCodes<BYTES> codes;
  unsigned row;
  int base;
  float term;
  bool eligible;

  __device__ __forceinline__ void fetch(Cursor& cursor, unsigned group, const ScannedItems& items) {
    const Probe& probe = cursor.seek(group);
    const unsigned lane = lane_id(), stored = group + probe.group_shift;
    codes.load(items.codes + static_cast<size_t>(stored) * (32 * BYTES), lane);
    row = group * 32 + lane + probe.row_shift;
    base = probe.base;
    eligible = row < probe.row_end;
    term = items.terms != nullptr && eligible ? __ldg(items.terms + row) : 0.0f;
    if (items.eligible_mask != nullptr) {
      eligible = eligible && (__ldg(items.eligible_mask + stored) >> lane & 1u);
    }
  }
};

// Pushes the items of groups [group, stop) of `probes` to `best`: groups are numbered through all
// lists. All threads call it; `tile` is shared, and the LUT behind `lookups` filled. It ends with a
// barrier.
template <int BYTES, bool SPREAD>
__device__ __forceinline__ void scan_groups(TopK& best, const ScannedItems& items,
                                            const Lookups<BYTES, SPREAD>& lookups,
                                            const Scorer& scorer, const IdFilter& filter,
                                            Probe (&tile)[PROBE_TILE],
                                            const Probe* __restrict__ probes, unsigned n_probes,
                                            unsigned group, unsigned stop) {
  // The tiles before the first group are not for this block.
  unsigned first = probes_before(probes, n_probes, group) / PROBE_TILE * PROBE_TILE;
  group += warp_id();
  for (unsigned tile_end = 0; tile_end < stop; first += PROBE_TILE) {
    const unsigned n_tile = min(PROBE_TILE, n_probes - first);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < n_tile; i += THREADS) tile[i] = probes[first + i];
    __syncthreads();
    tile_end = tile[n_tile - 1].end;
    const unsigned tile_stop = min(stop, tile_end);
    Cursor cursor{tile, 0};
    Fetched<BYTES> next;
    if (group < tile_stop) next.fetch(cursor, group, items);
    bool pending = false;
    float score = 0.0f;
    unsigned row = NO_ROW;
    do {
      if (pending) pending = score >= best.threshold;
      bool full = best.push(pending, score, row);
      // No barrier until every warp is done with the tile or the buffer is full.
      while (group < tile_stop && !full) {
        const Fetched<BYTES> item = next;
        group += WARPS;
        if (group < tile_stop) next.fetch(cursor, group, items);
        score = scorer.score(item.base + lookups.sum(item.codes), item.term);
        row = item.row;
        pending = item.eligible && score >= best.threshold && filter.admits(items.item_ids, row);
        full = best.push(pending, score, row);
      }
    } while (best.make_room(pending));
  }
  __syncthreads();
}
