// Finds, for many queries at once, the items that may be among their k best: the bulk path.
//
// A block decodes a tile of one list to bf16, once, and multiplies it on the tensor cores with all
// queries that probe the list. Products of rounded vectors are not the scores: what reaches the
// query's threshold less a margin that covers the rounding is noted, and rescore.cu scores it from
// its codes. The threshold is that of the k best items of the query's best lists, scanned before.
#include "code_layout.cuh"
#include "block.cuh"
#include "probe.cuh"
#include "scorer.cuh"

// A float32 in its upper half: bits, as every compiler knows them.
using bf16 = unsigned short;

constexpr int TILE_QUERIES = 64, TILE_ITEMS = 128;
// The warps of a block stand 2 by 4 over the tile of products; each has 32 by 32 of them.
constexpr int WARP_QUERIES = 32, WARP_ITEMS = 32;
// Of a row in shared memory: rows then start in different banks.
constexpr int ROW_PADDING = 8;

#ifndef CUDA_EMULATION
// d += a b, a 16 x 16 and b 16 x 8 in bf16; PTX ISA, mma.m16n8k16.
__device__ __forceinline__ void mma_m16n8k16_bf16(float* d, const unsigned* a, const unsigned* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// To the nearest, of two to the even one.
__device__ __forceinline__ bf16 to_bf16(float value) {
  const unsigned bits = __float_as_uint(value);
  return static_cast<bf16>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// What the epilogue needs of a query of the tile.
struct TileQuery {
  int query;           // -1: none
  unsigned begin;      // the query's number for the list's first group
  float base, margin;  // add to a product: the most that the exact one may be
  float threshold, square;
};

__device__ __forceinline__ unsigned pair_of_bf16(const bf16* values) {
  return *reinterpret_cast<const unsigned*>(values);
}

// Grid (n_lists, tiles of the longest list). Shared memory: (TILE_QUERIES + TILE_ITEMS) rows of
// padded_dim + ROW_PADDING bf16; padded_dim is a multiple of 16.
__global__ void __launch_bounds__(THREADS, 2)
find_candidates(const float* __restrict__ queries,           // (n, dim), rotated
                const float* __restrict__ units,             // (n,)
                const float* __restrict__ squares,           // (n,)
                const float* __restrict__ margins,           // (n,)
                const float* __restrict__ thresholds,        // (n,)
                const Probe* __restrict__ probes,            // (n, n_probes)
                const int* __restrict__ pair_ends,           // (n_lists,)
                const int* __restrict__ pairs,               // by list: query * n_probes + i
                const unsigned* __restrict__ group_offsets,  // (n_lists + 1,)
                const unsigned* __restrict__ row_offsets,    // (n_lists + 1,)
                const unsigned char* __restrict__ codes,     // (n_groups, 32 * n_bytes)
                const float* __restrict__ terms,             // (n_items,), or null
                const unsigned* __restrict__ eligible_mask,  // (n_groups,), or null
                const bf16* __restrict__ book,      // (n_bytes, 256, byte_len)
                int metric, int dim, int padded_dim, int n_bytes, int byte_len, int n_probes,
                int capacity,
                unsigned* __restrict__ candidates,           // (n, capacity), 32 * group + lane
                int* __restrict__ candidate_counts) {        // (n,), zeros; may exceed the capacity
  extern __shared__ __align__(16) bf16 rows[];
  __shared__ TileQuery tile[TILE_QUERIES];
  __shared__ float item_terms[TILE_ITEMS];
  __shared__ unsigned item_masks[TILE_ITEMS / 32];
  const unsigned list = blockIdx.x;
  const int first_pair = list == 0 ? 0 : pair_ends[list - 1], last_pair = pair_ends[list];
  const unsigned n_items = row_offsets[list + 1] - row_offsets[list];
  const unsigned first_item = blockIdx.y * TILE_ITEMS;
  if (first_pair == last_pair || first_item >= n_items) return;

  const int stride = padded_dim + ROW_PADDING;
  bf16* item_rows = rows + TILE_QUERIES * stride;
  const unsigned tile_items = min(static_cast<unsigned>(TILE_ITEMS), n_items - first_item);
  const unsigned first_group = group_offsets[list] + first_item / 32;
  for (int i = threadIdx.x; i < TILE_ITEMS * stride; i += THREADS) {
    item_rows[i] = 0;
  }
  for (unsigned i = threadIdx.x; i < TILE_ITEMS; i += THREADS) {
    const bool inside = i < tile_items;
    item_terms[i] = inside && terms != nullptr ? terms[row_offsets[list] + first_item + i] : 0.0f;
  }
  if (threadIdx.x < TILE_ITEMS / 32) {
    const unsigned i = threadIdx.x * 32;
    const unsigned left = i < tile_items ? tile_items - i : 0;
    const unsigned mask = left >= 32 ? ALL_LANES : (1u << left) - 1u;
    const bool masked = left > 0 && eligible_mask != nullptr;
    item_masks[threadIdx.x] = masked ? mask & eligible_mask[first_group + threadIdx.x] : mask;
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < tile_items * n_bytes; i += THREADS) {
    const unsigned item = i % tile_items, byte = i / tile_items, lane = item % 32;
    const unsigned char* group =
        codes + static_cast<size_t>(first_group + item / 32) * (32 * n_bytes);
    const int column = column_of(n_bytes, byte, lane);
    const unsigned code = group[place_in_group(n_bytes, byte, lane)];
    const bf16* codeword =
        book + (static_cast<size_t>(column) * BOOK_ROWS + code) * byte_len;
    bf16* to = item_rows + item * stride + column * byte_len;
    for (int j = 0; j < byte_len && column * byte_len + j < dim; j++) to[j] = codeword[j];
  }

  const unsigned lane = lane_id(), in_row = lane / 4, in_column = lane % 4 * 2;
  const unsigned warp_query = warp_id() / 4 * WARP_QUERIES, warp_item = warp_id() % 4 * WARP_ITEMS;
  for (int first = first_pair; first < last_pair; first += TILE_QUERIES) {
    __syncthreads();
    if (threadIdx.x < TILE_QUERIES) {
      TileQuery& own = tile[threadIdx.x];
      const int place = first + threadIdx.x;
      own.query = -1;
      if (place < last_pair) {
        const int pair = pairs[place], query = pair / n_probes;
        own.begin = pair % n_probes == 0 ? 0 : probes[pair - 1].end;
        // Lists count as empty for a query that is not finite.
        if (probes[pair].end > own.begin) own.query = query;
        own.base = __int2float_rn(probes[pair].base) * units[query];
        own.margin = margins[query] + fabsf(own.base) * 1e-6f;
        own.threshold = thresholds[query];
        own.square = squares[query];
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE_QUERIES * padded_dim; i += THREADS) {
      const int row = i / padded_dim, column = i % padded_dim, query = tile[row].query;
      const bool inside = query >= 0 && column < dim;
      rows[row * stride + column] = to_bf16(
          inside ? __ldg(queries + static_cast<size_t>(query) * dim + column) : 0.0f);
    }
    __syncthreads();

    float products[WARP_QUERIES / 16][WARP_ITEMS / 8][4] = {};
    for (int k = 0; k < padded_dim; k += 16) {
      unsigned a[WARP_QUERIES / 16][4], b[WARP_ITEMS / 8][2];
#pragma unroll
      for (int m = 0; m < WARP_QUERIES / 16; m++) {
        const bf16* from = rows + (warp_query + m * 16 + in_row) * stride + k + in_column;
        a[m][0] = pair_of_bf16(from);
        a[m][1] = pair_of_bf16(from + 8 * stride);
        a[m][2] = pair_of_bf16(from + 8);
        a[m][3] = pair_of_bf16(from + 8 * stride + 8);
      }
#pragma unroll
      for (int n = 0; n < WARP_ITEMS / 8; n++) {
        const bf16* from =
            item_rows + (warp_item + n * 8 + in_row) * stride + k + in_column;
        b[n][0] = pair_of_bf16(from);
        b[n][1] = pair_of_bf16(from + 8);
      }
#pragma unroll
      for (int m = 0; m < WARP_QUERIES / 16; m++) {
#pragma unroll
        for (int n = 0; n < WARP_ITEMS / 8; n++) mma_m16n8k16_bf16(products[m][n], a[m], b[n]);
      }
    }

    const unsigned mask = item_masks[warp_item / 32];
#pragma unroll
    for (int row = 0; row < WARP_QUERIES / 8; row++) {
      const TileQuery& own = tile[warp_query + row * 8 + in_row];
      if (own.query < 0) continue;
      const Scorer scorer(metric, 0.0f, &own.square, 0);
#pragma unroll
      for (int i = 0; i < WARP_ITEMS / 4; i++) {
        const unsigned in_warp = i / 2 * 8 + in_column + i % 2, item = warp_item + in_warp;
        const float product = products[row / 2][i / 2][row % 2 * 2 + i % 2];
        const float most = scorer.score_of(product + own.base + own.margin, item_terms[item]);
        if (most >= own.threshold && mask >> in_warp & 1u) {
          const int place = atomicAdd(candidate_counts + own.query, 1);
          if (place < capacity) {
            candidates[static_cast<size_t>(own.query) * capacity + place] =
                own.begin * 32 + first_item + item;
          }
        }
      }
    }
  }
}
