// Scans groups of a query's lists into a top-k buffer: the loop that search time goes to.
#pragma once
#include "filter.cuh"
#include "lookups.cuh"
#include "probe.cuh"
#include "scorer.cuh"
#include "top_k.cuh"

constexpr unsigned PROBE_TILE = 128;

// What a scan reads of the index. PLAIN stands for the inner product without filters: no group then
// costs an instruction for what the search does not ask for.
struct ScannedItems {
  const unsigned char* __restrict__ codes;       // (n_groups, 32 * BYTES), see code_layout
  ItemTerms terms;
  const long long* __restrict__ item_ids;        // (n_items,)
  const unsigned* __restrict__ eligible_mask;    // (n_groups,), a bit an item, or null
};

// A warp's place in the lists: the probe that its next group lies in, held in registers.
struct Cursor {
  const Probe* tile;
  Probe probe;

  __device__ __forceinline__ Cursor(const Probe* tile) : tile(tile), probe(*tile) {}

  __device__ __forceinline__ void seek(unsigned group) {
    while (group >= probe.end) probe = *++tile;
  }
};

// The item of one lane, fetched ahead of its turn.
template <int BYTES, bool PLAIN>
struct Fetched {
  ItemCodes<BYTES> codes;
  unsigned row;  // NO_ROW: no item, or none that may be returned
  float base;
  float term;

  __device__ __forceinline__ void fetch(Cursor& cursor, unsigned group, unsigned lane,
                                        const ScannedItems& items) {
    cursor.seek(group);
    const Probe& probe = cursor.probe;
    const unsigned stored = group + probe.group_shift;
    codes.load(items.codes, stored, lane);
    row = group * 32 + lane + probe.row_shift;
    if (row >= probe.row_end) row = NO_ROW;
    base = probe.base;
    if (PLAIN) return;
    term = row != NO_ROW ? items.terms.of(row) : 0.0f;
    if (items.eligible_mask != nullptr) {
      if ((__ldg(items.eligible_mask + stored) >> lane & 1u) == 0) row = NO_ROW;
    }
  }
};

// One warp's scan of its groups: WARPS apart, up to `stop`.
template <int BYTES, bool SPREAD, bool PLAIN, bool FIXED>
struct WarpScan {
  TopK& best;
  const ScannedItems& items;
  const Lookups<BYTES, SPREAD, FIXED>& lookups;
  const Scorer& scorer;
  const IdFilter& filter;
  const unsigned lane;
  unsigned group;
  Cursor cursor;
  unsigned stop;
  // The item that the last turn scored; pending while the buffer has no room for it.
  bool pending = false;
  float score = 0.0f;
  unsigned row = NO_ROW;

  __device__ __forceinline__ WarpScan(TopK& best, const ScannedItems& items,
                                      const Lookups<BYTES, SPREAD, FIXED>& lookups,
                                      const Scorer& scorer, const IdFilter& filter, unsigned group,
                                      const Probe* tile, unsigned stop)
      : best(best), items(items), lookups(lookups), scorer(scorer), filter(filter),
        lane(lane_id()), group(group), cursor(tile), stop(stop) {}

  // Scores and pushes `item`, and fetches the warp's next; false where there is none to score now:
  // no next one, or no room.
  __device__ __forceinline__ bool turn(const Fetched<BYTES, PLAIN>& item,
                                       Fetched<BYTES, PLAIN>& next) {
    group += WARPS;
    const bool more = group < stop;
    if (more) next.fetch(cursor, group, lane, items);
    const float part = scorer.part_of(lookups.sum(item.codes));
    row = item.row;
    score = PLAIN ? item.base + part : scorer.score(item.base, part, item.term);
    pending = score >= best.threshold && row != NO_ROW;
    if (!PLAIN) pending = pending && filter.admits(items.item_ids, row);
    return !best.push(pending, score, row) && more;
  }
};

// What is needed between tiles alone: kept in shared memory, as the loop has use for every register.
// `first`, which changes, lies apart from `stop`: else a compiler reads both at once where another
// thread writes the one.
struct BetweenTiles {
  unsigned first;
  const Probe* probes;
  unsigned stop;
  Probe tile[PROBE_TILE];
};

// Reads `between.tile` from its first probe on. All threads call it; a barrier must follow.
__device__ __forceinline__ void load_tile(BetweenTiles& between, const Probe* __restrict__ probes,
                                          unsigned first, unsigned n_probes) {
  for (unsigned i = threadIdx.x; i < min(PROBE_TILE, n_probes - first); i += THREADS) {
    between.tile[i] = probes[first + i];
  }
}

// Makes `between`, which is shared, ready for groups [group, stop) of `probes`: groups are numbered
// through all lists. All threads call it, early, as it waits for memory; a barrier must follow.
__device__ __forceinline__ void begin_tiles(BetweenTiles& between,
                                            const Probe* __restrict__ probes, unsigned n_probes,
                                            unsigned group, unsigned stop) {
  const bool is_one = n_probes <= PROBE_TILE;
  if (threadIdx.x == 0) {
    // The tiles before the first group are not for this block.
    between.first = is_one ? 0 : probes_before(probes, n_probes, group) / PROBE_TILE * PROBE_TILE;
    between.stop = stop;
    between.probes = probes;
  }
  if (is_one) load_tile(between, probes, 0, n_probes);
}

// Pushes the items of groups [group, between.stop) to `best`. All threads call it, with a barrier
// since `begin_tiles` and since the LUT behind `lookups` was filled. It ends with a barrier.
template <int BYTES, bool SPREAD, bool PLAIN, bool FIXED>
__device__ __forceinline__ void scan_groups(TopK& best, const ScannedItems& items,
                                            const Lookups<BYTES, SPREAD, FIXED>& lookups,
                                            const Scorer& scorer, const IdFilter& filter,
                                            BetweenTiles& between, unsigned n_probes,
                                            unsigned group) {
  group += warp_id();
  bool more = between.stop > 0;
  while (more) {
    if (n_probes > PROBE_TILE) {
      load_tile(between, between.probes, between.first, n_probes);
      __syncthreads();
    }
    const unsigned n_tile = min(PROBE_TILE, n_probes - between.first);
    const Probe* tile = between.tile;
    WarpScan<BYTES, SPREAD, PLAIN, FIXED> scan(best, items, lookups, scorer, filter, group, tile,
                                               min(between.stop, tile[n_tile - 1].end));
    Fetched<BYTES, PLAIN> item, next;
    if (group < scan.stop) item.fetch(scan.cursor, group, scan.lane, items);
    do {
      if (scan.pending) scan.pending = scan.score >= best.threshold;
      const bool full = best.push(scan.pending, scan.score, scan.row);
      // No barrier until every warp is done with the tile or the buffer is full. Two items take
      // turns, as to move one costs instructions.
      while (!full && scan.group < scan.stop) {
        if (!scan.turn(item, next)) {
          item = next;
          break;
        }
        if (!scan.turn(next, item)) break;
      }
    } while (best.make_room(scan.pending));
    group = scan.group;
    more = scan.stop < between.stop;
    // All have read it, as make_room has a barrier.
    if (threadIdx.x == 0) between.first += PROBE_TILE;
    __syncthreads();
  }
}
