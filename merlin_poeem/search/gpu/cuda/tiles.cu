// Finds, for many queries at once, the items that may be among their k best: the bulk path.
//
// A block decodes a tile of one list to bf16, once, and multiplies it on the tensor cores with all
// queries that probe the list. Products of rounded vectors are not the scores: what reaches the
// query's threshold less a margin that covers the rounding is noted, and rescore.cu scores it from
// its codes. The threshold is that of the k best items of the query's best lists, scanned before.
#include "code_layout.cuh"
#include "block.cuh"
#include "noted.cuh"
#include "probe.cuh"
#include "scorer.cuh"

// A float32 in its upper half: bits, as every compiler knows them.
using bf16 = unsigned short;

constexpr int TILE_QUERIES = 64, TILE_ITEMS = 128;
// The warps of a block stand 2 by 4 over the tile of products; each has 32 by 32 of them, a group
// of items wide.
constexpr int WARP_QUERIES = 32, WARP_ITEMS = 32, PRODUCT_QUERIES = 16, PRODUCT_ITEMS = 8;
constexpr int PRODUCTS = WARP_ITEMS / PRODUCT_ITEMS;
// Of a row in shared memory: rows then start in different banks.
constexpr int ROW_PADDING = 8;
// Threads that copy the row of one query.
constexpr int ROW_THREADS = THREADS / TILE_QUERIES;

#ifdef CUDA_EMULATION
__device__ __forceinline__ void copy_16_bytes_async(bf16* to, const bf16* from) {
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
}
__device__ __forceinline__ void wait_for_copies() {}
#else
// d += a b, a 16 x 16 and b 16 x 8 in bf16; PTX ISA, mma.m16n8k16.
__device__ __forceinline__ void mma_m16n8k16_bf16(float* d, const unsigned* a, const unsigned* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// To shared from global memory, past the registers; PTX ISA, cp.async.
__device__ __forceinline__ void copy_16_bytes_async(bf16* to, const bf16* from) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#endif

// TILE_ITEMS items of one list: the list, and the first of them.
struct Tile {
  unsigned list, first_item;
};

// What is needed of a query of the tile, beside its row.
struct TileQuery {
  int query;             // -1: none
  unsigned first_group;  // the query's number for the list's first group
  float limit;           // what is noted reaches it: a product, or if not PLAIN a score
  float base;            // of the list
  float bound;           // add to a product: the most that the exact one may be
};

__device__ __forceinline__ unsigned pair_of_bf16(const bf16* values) {
  return *reinterpret_cast<const unsigned*>(values);
}

// What is decoded: the codes of 32 items a group, and what each value of each code byte stands for.
struct CodedTile {
  const unsigned char* __restrict__ groups;  // of the tile
  const bf16* __restrict__ book;             // (n_bytes, 256, byte_len)
  unsigned n_items;
  int n_bytes, byte_len, padded_dim;
};

// Copies codewords of one Word, or of several where they are not WHOLE words.
template <class Word, bool WHOLE>
__device__ __forceinline__ void copy_codeword(const bf16* __restrict__ book, unsigned codeword,
                                              int byte_len, bf16* to) {
  Word* words = reinterpret_cast<Word*>(to);
  if constexpr (WHOLE) {
    *words = __ldg(reinterpret_cast<const Word*>(book) + codeword);
  } else {
    const int n_words = byte_len * sizeof(bf16) / sizeof(Word);
    const Word* from = reinterpret_cast<const Word*>(book) + codeword * n_words;
#pragma unroll 1
    for (int i = 0; i < n_words; i++) words[i] = __ldg(from + i);
  }
}

// Writes what the codes of the thread's item stand for to its row; several threads share an item.
template <class Word, bool WHOLE>
__device__ __forceinline__ void decode_item(const CodedTile& coded, bf16* row) {
  const unsigned item = threadIdx.x % TILE_ITEMS, lane = item % 32;
  const int n_bytes = coded.n_bytes;
  const unsigned char* group =
      coded.groups + static_cast<size_t>(item / 32) * (32 * n_bytes);
  const int part = threadIdx.x / TILE_ITEMS;
  for (int t = part * 4; t < n_bytes; t += THREADS / TILE_ITEMS * 4) {
    // The four bytes of a word lie in one segment and one chunk.
    const int start = segment_start(n_bytes, t), width = segment_width(n_bytes, t);
    const unsigned word =
        __ldg(reinterpret_cast<const unsigned*>(group + place_in_group(n_bytes, t, lane)));
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const unsigned column = start + ((lane ^ (t + j - start)) & (width - 1));
      const unsigned code = __byte_perm(word, 0, 0x4440 + j);
      copy_codeword<Word, WHOLE>(coded.book, column * BOOK_ROWS + code, coded.byte_len,
                                 row + column * coded.byte_len);
    }
  }
}

// Decodes the tile's items to rows of `stride`; zeros after the last codeword.
__device__ __forceinline__ void decode_tile(const CodedTile& coded, int stride, bf16* rows) {
  const unsigned item = threadIdx.x % TILE_ITEMS;
  if (item >= coded.n_items) return;
  bf16* row = rows + item * stride;
  const int byte_len = coded.byte_len, used_dim = coded.n_bytes * byte_len;
#pragma unroll 1
  for (int i = used_dim + threadIdx.x / TILE_ITEMS; i < coded.padded_dim;
       i += THREADS / TILE_ITEMS) {
    row[i] = 0;
  }
  if (byte_len == 8) {
    decode_item<uint4, true>(coded, row);
  } else if (byte_len == 4) {
    decode_item<uint2, true>(coded, row);
  } else if (byte_len == 2) {
    decode_item<unsigned, true>(coded, row);
  } else if (byte_len % 8 == 0) {
    decode_item<uint4, false>(coded, row);
  } else {
    decode_item<bf16, false>(coded, row);
  }
}

// A warp's items as the tensor cores take them, 16 dimensions a step. Those of up to STEPS steps
// stay in registers for all queries; with 0 they are read again each time.
template <int STEPS>
struct ItemFragments {
  unsigned held[STEPS > 0 ? STEPS : 1][PRODUCTS][2];
  const bf16* rows;  // of the lane: its item, its dimensions
  int stride;

  __device__ __forceinline__ ItemFragments(const bf16* rows, int stride)
      : rows(rows), stride(stride) {}

  __device__ __forceinline__ void hold(int padded_dim) {
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      if (step * 16 < padded_dim) read(step, held[step]);
    }
  }

  __device__ __forceinline__ void read(int step, unsigned (&to)[PRODUCTS][2]) const {
#pragma unroll
    for (int n = 0; n < PRODUCTS; n++) {
      const bf16* from = rows + n * PRODUCT_ITEMS * stride + step * 16;
      to[n][0] = pair_of_bf16(from);
      to[n][1] = pair_of_bf16(from + 8);
    }
  }
};

// Adds the products of 16 queries with the warp's items in one step: `query_rows` is of the lane.
__device__ __forceinline__ void multiply_step(const bf16* query_rows, int stride,
                                              const unsigned (&items)[PRODUCTS][2],
                                              float (&products)[PRODUCTS][4]) {
  const unsigned queries[4] = {pair_of_bf16(query_rows), pair_of_bf16(query_rows + 8 * stride),
                               pair_of_bf16(query_rows + 8),
                               pair_of_bf16(query_rows + 8 * stride + 8)};
#pragma unroll
  for (int n = 0; n < PRODUCTS; n++) mma_m16n8k16_bf16(products[n], queries, items[n]);
}

template <int STEPS>
__device__ __forceinline__ void multiply(const bf16* query_rows, const ItemFragments<STEPS>& items,
                                         int padded_dim, float (&products)[PRODUCTS][4]) {
  if constexpr (STEPS > 0) {
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      if (step * 16 < padded_dim) {
        multiply_step(query_rows + step * 16, items.stride, items.held[step], products);
      }
    }
  } else {
    for (int step = 0; step * 16 < padded_dim; step++) {
      unsigned read[PRODUCTS][2];
      items.read(step, read);
      multiply_step(query_rows + step * 16, items.stride, read, products);
    }
  }
}

// Which of the lane's eight items of one row reach the query's limit, a bit an item of the warp.
template <bool PLAIN>
__device__ __forceinline__ unsigned hits_of_row(const float (&products)[PRODUCTS][4], int row,
                                                const TileQuery& own, int metric,
                                                const float* item_terms, unsigned in_column) {
  unsigned hits = 0;
#pragma unroll
  for (int i = 0; i < 2 * PRODUCTS; i++) {
    const int in_warp = i / 2 * PRODUCT_ITEMS + i % 2;
    const float product = products[i / 2][row * 2 + i % 2];
    bool hit;
    if constexpr (PLAIN) {
      hit = product >= own.limit;
    } else {
      const Scorer scorer{metric, 0.0f};
      const float term = item_terms[in_warp + in_column];
      hit = scorer.score(own.base, product + own.bound, term) >= own.limit;
    }
    hits |= hit ? 1u << in_warp : 0u;
  }
  return hits << in_column;
}

// Where the queries of a tile come from. Their rows are copied while those of the tile before are
// multiplied.
struct ProbingQueries {
  const bf16* __restrict__ queries;          // (n, padded_dim)
  const float* __restrict__ margins;         // (n,)
  const float* __restrict__ thresholds;      // (n,)
  const Probe* __restrict__ probes;          // (n, n_probes)
  const int* __restrict__ pairs;             // by list: query * n_probes + i
  int n_probes, padded_dim, stride;

  // Starts to copy the rows of the pairs from `first` on; four threads a pair.
  template <bool PLAIN>
  __device__ __forceinline__ void load(int first, int last, bf16* rows, TileQuery* tile) const {
    const int row = threadIdx.x / ROW_THREADS, own_part = threadIdx.x % ROW_THREADS;
    const int place = first + row, pair = place < last ? pairs[place] : -1;
    const int query = pair < 0 ? -1 : pair / n_probes;
    if (own_part == 0) tile[row] = described<PLAIN>(pair, query);
    if (query < 0) return;
    const bf16* from = queries + static_cast<size_t>(query) * padded_dim;
    for (int i = own_part * 8; i < padded_dim; i += ROW_THREADS * 8) {
      copy_16_bytes_async(rows + row * stride + i, from + i);
    }
  }

  template <bool PLAIN>
  __device__ __forceinline__ TileQuery described(int pair, int query) const {
    TileQuery own{-1, 0, infinity(), 0.0f, 0.0f};
    if (query < 0) return own;
    const float threshold = thresholds[query];
    const float margin = margins[query] * 1.00001f;  // a product and it are rounded, added
    own.query = query;
    own.first_group = pair % n_probes == 0 ? 0 : probes[pair - 1].end;
    own.base = probes[pair].base;
    own.bound = margin;
    own.limit = threshold;
    if (PLAIN) {
      // What this sum and that of the score may be rounded by, too.
      own.limit -= own.base + margin + (fabsf(own.base) + fabsf(threshold)) * 1e-6f;
    }
    return own;
  }
};

// Grid (tiles of the index, parts that share the queries of a tile). Shared memory: 2 *
// TILE_QUERIES + TILE_ITEMS rows of padded_dim + ROW_PADDING bf16; padded_dim is a multiple of 16.
// STEPS is padded_dim / 16 or more, or 0. PLAIN: for the inner product.
template <int STEPS, bool PLAIN>
__global__ void __launch_bounds__(THREADS, 2)
find_candidates(const bf16* __restrict__ queries,            // (n, padded_dim), rotated
                const float* __restrict__ margins,           // (n,), of products
                const float* __restrict__ thresholds,        // (n,)
                const Probe* __restrict__ probes,            // (n, n_probes)
                const int* __restrict__ pair_ends,           // (n_lists,)
                const int* __restrict__ pairs,               // by list: query * n_probes + i
                const Tile* __restrict__ tiles,              // of all lists
                const unsigned* __restrict__ group_offsets,  // (n_lists + 1,)
                const unsigned* __restrict__ row_offsets,    // (n_lists + 1,)
                const unsigned char* __restrict__ codes,     // (n_groups, 32 * n_bytes)
                const unsigned char* __restrict__ scales,    // (n_items,), or null
                const float* __restrict__ scale_table,       // (256,)
                const float* __restrict__ terms,             // (n_items,), or null
                const unsigned* __restrict__ eligible_mask,  // (n_groups,), or null
                const bf16* __restrict__ book,               // (n_bytes, 256, byte_len)
                int metric, int padded_dim, int n_bytes, int byte_len, int n_probes,
                int capacity,
                Noted* __restrict__ noted,                   // (n, capacity)
                int* __restrict__ noted_counts) {            // (n,), zeros; may exceed the capacity
  extern __shared__ __align__(16) bf16 rows[];
  __shared__ TileQuery query_tiles[2][TILE_QUERIES];
  __shared__ float item_terms[TILE_ITEMS];
  const Tile tile = tiles[blockIdx.x];
  const unsigned list = tile.list;
  const int last_pair = pair_ends[list];
  int first = (list == 0 ? 0 : pair_ends[list - 1]) + blockIdx.y * TILE_QUERIES;
  if (first >= last_pair) return;

  const int stride = padded_dim + ROW_PADDING, next_tile = gridDim.y * TILE_QUERIES;
  bf16* item_rows = rows + 2 * TILE_QUERIES * stride;
  const unsigned left_in_list = row_offsets[list + 1] - row_offsets[list] - tile.first_item;
  const unsigned n_items = min(static_cast<unsigned>(TILE_ITEMS), left_in_list);
  const unsigned group_in_list = tile.first_item / 32;
  const unsigned first_group = group_offsets[list] + group_in_list;
  const ProbingQueries probing{queries, margins,  thresholds, probes,
                              pairs,   n_probes, padded_dim, stride};
  probing.template load<PLAIN>(first, last_pair, rows, query_tiles[0]);
  decode_tile({codes + static_cast<size_t>(first_group) * (32 * n_bytes), book, n_items, n_bytes,
               byte_len, padded_dim},
              stride, item_rows);
  if (!PLAIN && threadIdx.x < TILE_ITEMS) {
    const ItemTerms of_items{scales, scale_table, terms};
    item_terms[threadIdx.x] =
        threadIdx.x < n_items ? of_items.of(row_offsets[list] + tile.first_item + threadIdx.x) : 0.0f;
  }

  const unsigned lane = lane_id(), in_row = lane / 4, in_column = lane % 4 * 2;
  const unsigned warp_query = warp_id() / 4 * WARP_QUERIES, warp_item = warp_id() % 4 * WARP_ITEMS;
  // The warp's items that there are, and that may be returned.
  const unsigned left = warp_item < n_items ? n_items - warp_item : 0;
  unsigned mask = left >= 32 ? ALL_LANES : (1u << left) - 1u;
  if (left > 0 && eligible_mask != nullptr) mask &= eligible_mask[first_group + warp_item / 32];

  ItemFragments<STEPS> items(item_rows + (warp_item + in_row) * stride + in_column, stride);
  __syncthreads();
  items.hold(padded_dim);
  for (int turn = 0; first < last_pair; first += next_tile, turn ^= 1) {
    wait_for_copies();
    // The rows of this turn are here, and nobody reads those of the turn before any more.
    __syncthreads();
    if (first + next_tile < last_pair) {
      probing.template load<PLAIN>(first + next_tile, last_pair,
                                   rows + (turn ^ 1) * TILE_QUERIES * stride,
                                   query_tiles[turn ^ 1]);
    }
    const bf16* query_rows =
        rows + (turn * TILE_QUERIES + warp_query + in_row) * stride + in_column;
#pragma unroll 1
    for (int m = 0; m < WARP_QUERIES; m += PRODUCT_QUERIES) {
      float products[PRODUCTS][4] = {};
      multiply(query_rows + m * stride, items, padded_dim, products);
      // The two rows of a lane are 8 apart. Of the four lanes of a row, the even ones get the hits
      // of all in the first row, the odd ones those in the second.
      const TileQuery* of_row = query_tiles[turn] + warp_query + m + in_row;
      unsigned hits = hits_of_row<PLAIN>(products, 0, of_row[0], metric, item_terms + warp_item,
                                         in_column);
      unsigned other = hits_of_row<PLAIN>(products, 1, of_row[8], metric, item_terms + warp_item,
                                          in_column);
      if (lane & 1u) {
        const unsigned of_first = hits;
        hits = other;
        other = of_first;
      }
      hits |= __shfl_xor_sync(ALL_LANES, other, 1);
      hits |= __shfl_xor_sync(ALL_LANES, hits, 2);
      hits &= mask;
      const TileQuery& own = of_row[lane & 1u ? 8 : 0];
      if (lane % 4 < 2 && hits != 0 && own.query >= 0) {
        const int place = atomicAdd(noted_counts + own.query, 1);
        if (place < capacity) {
          noted[static_cast<size_t>(own.query) * capacity + place] = {
              own.first_group + group_in_list + warp_item / 32, hits};
        }
      }
    }
  }
}
