// Scans the lists that a query probes, and keeps the k best items: the kernel that search time goes
// to. One LUT serves all lists of a query, as the score of an item is the score of its list plus
// one lookup a code byte (Jégou et al., PAMI 2011, section 4.2, asymmetric distance computation).
#include "registers.cuh"
#include "scan_groups.cuh"

// Blocks that a multiprocessor should have the registers for: with one more the compiler spills.
__host__ __device__ constexpr int blocks_at_once(int n_bytes, bool spread) {
  return !spread ? 2 : n_bytes <= 8 ? 4 - FEWER_BLOCKS : n_bytes <= 16 ? 3 : 2;
}

// One block scans part `blockIdx.x % n_parts` of the first n_probes lists of query
// `blockIdx.x / n_parts`. With `scores` it writes the result. Without, it writes its k best in any
// order to part_scores and part_rows (n, n_parts, k), and how many there are to part_counts. PLAIN:
// for the inner product, without any filter. FIXED: the LUTs are in fixed point, not float32.
template <int BYTES, bool SPREAD, bool PLAIN, bool FIXED>
__global__ void __launch_bounds__(THREADS, blocks_at_once(BYTES, SPREAD))
scan(const int* __restrict__ luts,                     // (n, 256, BYTES), see Lookups
     const float* __restrict__ units,                  // (n,), score of 1 in fixed point
     const Probe* __restrict__ probes,                 // (n, probe_stride)
     const unsigned char* __restrict__ codes,          // (n_groups, 32 * BYTES), see code_layout
     const unsigned char* __restrict__ scales,         // (n_items,), or null: see ItemTerms
     const float* __restrict__ scale_table,            // (256,)
     const float* __restrict__ terms,                  // (n_items,), or null
     const long long* __restrict__ item_ids,           // (n_items,)
     const unsigned* __restrict__ eligible_mask,       // (n_groups,), a bit an item, or null
     const long long* __restrict__ exclude_offsets,    // (n + 1,), or null
     const long long* __restrict__ exclude_ids,        // sorted within each query
     const long long* __restrict__ allow_offsets,      // (n + 1,), or null
     const long long* __restrict__ allow_ids,          // sorted within each query
     int metric, int probe_stride, int n_probes, int n_parts, int k, int capacity,
     float* __restrict__ part_scores, unsigned* __restrict__ part_rows,
     int* __restrict__ part_counts,                    // (n, n_parts)
     float* __restrict__ part_thresholds,              // (n, n_parts), TopK::threshold, or null
     float* __restrict__ scores,                       // (n, k), or null
     long long* __restrict__ ids,                      // (n, k)
     int* __restrict__ counts) {                       // (n,)
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ TopKShared shared;
  __shared__ BetweenTiles between;
  constexpr int LUT_WORDS = segment_words<BYTES, SPREAD>(BYTES);
  int* lut = reinterpret_cast<int*>(memory);
  const unsigned query_number = n_parts == 1 ? blockIdx.x : blockIdx.x / n_parts;
  const unsigned part = blockIdx.x - query_number * n_parts;
  const size_t query = query_number;
  probes += query * probe_stride;
  // All that is read before the first item is asked for at once.
  const unsigned long long n_groups = probes[n_probes - 1].end;
  const Scorer scorer{metric, units[query]};
  load_lut<BYTES, SPREAD>(lut, luts + query * (BOOK_ROWS * BYTES));
  const bool shares = n_parts > 1;  // divisions take long
  const unsigned first = shares ? n_groups * part / n_parts : 0;
  const unsigned stop = shares ? n_groups * (part + 1) / n_parts : n_groups;
  begin_tiles(between, probes, n_probes, first, stop);
  // Read for pushed items alone: the loop has use for every register.
  __shared__ IdFilter filter;
  if (!PLAIN && threadIdx.x == 0) {
    filter = IdFilter(query, exclude_offsets, exclude_ids, allow_offsets, allow_ids);
  }
  // Its barrier shows all of it to all.
  TopK best(shared, memory + LUT_WORDS * 4, item_ids, capacity, k);
  const Lookups<BYTES, SPREAD, FIXED> lookups(lut, lane_id());

  scan_groups<BYTES, SPREAD, PLAIN>(best, {codes, {scales, scale_table, terms}, item_ids, eligible_mask},
                                    lookups, scorer, filter, between, n_probes, first);
  const size_t place = blockIdx.x;  // of the part, or of the query, which then has one part
  if (scores != nullptr) {
    best.finish(scores + place * k, ids + place * k, counts + place);
  } else {
    best.finish_part(part_scores + place * k, part_rows + place * k, part_counts + place);
    if (part_thresholds != nullptr && threadIdx.x == 0) part_thresholds[place] = best.threshold;
  }
}
