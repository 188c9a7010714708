// How the codes of 32 items lie in memory, and how their lookups avoid each other.
//
// A LUT row (one code value) holds a column for every code byte. The columns come in segments of
// 32, 16, 8 or 4; in shared memory a SPREAD segment is repeated to fill all 32 banks. Were byte t
// of every item the code of column t, the 32 lanes of a warp would all read one column, at random
// rows: random banks, about 3 of them in one. So byte t of the item in lane i is the code of column
// (i xor t) of its segment: in every step the 32 lanes read 32 different columns, that is 32
// different banks, whatever the codes are.
//
// A group is 32 items of one list. Its bytes come in chunks of 16, 8 or 4 bytes an item, as large
// as fit, and a chunk of all 32 items lies together: a warp reads it in one coalesced access.
#pragma once
#include "block.cuh"

constexpr int BOOK_ROWS = 256;
constexpr int BANKS = 32;

// Where the segment of 32, 16, 8 or 4 columns that byte t of `n_bytes` lies in starts.
__host__ __device__ constexpr int segment_start(int n_bytes, int t) {
  return t < (n_bytes & ~31) ? t & ~31
         : t < (n_bytes & ~15) ? n_bytes & ~31
         : t < (n_bytes & ~7)  ? n_bytes & ~15
                               : n_bytes & ~7;
}

// How many columns it has.
__host__ __device__ constexpr int segment_width(int n_bytes, int t) {
  return t < (n_bytes & ~31) ? 32 : t < (n_bytes & ~15) ? 16 : t < (n_bytes & ~7) ? 8 : 4;
}

// The column whose code is byte t of the item in `lane`.
__host__ __device__ constexpr int column_of(int n_bytes, int t, int lane) {
  const int start = segment_start(n_bytes, t), width = segment_width(n_bytes, t);
  return start + ((lane ^ (t - start)) & (width - 1));
}

// Words between two rows of the segment of byte t in shared memory.
template <int BYTES, bool SPREAD>
__host__ __device__ constexpr int row_words(int t) {
  return SPREAD ? BANKS : segment_width(BYTES, t);
}

// Words of shared memory before the segment of byte t; of t = BYTES, all words of the LUT.
template <int BYTES, bool SPREAD>
__host__ __device__ constexpr int segment_words(int t) {
  int words = 0;
  for (int start = 0; start < BYTES && start < t;) {
    const int width = segment_width(BYTES, start);
    if (t < start + width) break;
    words += BOOK_ROWS * (SPREAD ? BANKS : width);
    start += width;
  }
  return words;
}

// Bytes from the start of a group to byte t of the item in `lane`.
__host__ __device__ constexpr int place_in_group(int n_bytes, int t, int lane) {
  const int in_16 = n_bytes & ~15, in_8 = n_bytes & ~7;
  const int chunk = t < in_16 ? 16 : t < in_8 ? 8 : 4;
  const int start = t < in_16 ? t & ~15 : t < in_8 ? in_16 : in_8;
  return start * 32 + lane * chunk + t - start;
}

// The code bytes of one item, four to a word.
template <int BYTES>
struct ItemCodes {
  unsigned words[BYTES / 4];

  // Of the item in `lane` of group `group` of `codes`.
  __device__ __forceinline__ void load(const unsigned char* __restrict__ codes, unsigned group,
                                       unsigned lane) {
    constexpr size_t GROUP_BYTES = 32 * BYTES;
    constexpr int IN_16 = BYTES / 16 * 16, IN_8 = BYTES / 8 * 8;
    // The lane comes first: that much of the address is the same for all groups.
    const unsigned char* of_16 = codes + lane * 16 + group * GROUP_BYTES;
#pragma unroll
    for (int t = 0; t + 16 <= BYTES; t += 16) {
      const uint4 chunk = __ldg(reinterpret_cast<const uint4*>(of_16 + t * 32));
      words[t / 4] = chunk.x;
      words[t / 4 + 1] = chunk.y;
      words[t / 4 + 2] = chunk.z;
      words[t / 4 + 3] = chunk.w;
    }
    if (IN_8 > IN_16) {
      const unsigned char* of_8 = codes + (IN_16 * 32 + lane * 8) + group * GROUP_BYTES;
      const uint2 chunk = __ldg(reinterpret_cast<const uint2*>(of_8));
      words[IN_16 / 4] = chunk.x;
      words[IN_16 / 4 + 1] = chunk.y;
    }
    if (BYTES > IN_8) {
      const unsigned char* of_4 = codes + (IN_8 * 32 + lane * 4) + group * GROUP_BYTES;
      words[IN_8 / 4] = __ldg(reinterpret_cast<const unsigned*>(of_4));
    }
  }
};

// Stores four neighbouring columns of one LUT row wherever their segment repeats them. Rows begin with
// another copy each: eight threads that store at once then have all banks between them.
template <int BYTES, bool SPREAD, int T = 0>
__device__ __forceinline__ void store_quad(int* shared_lut, int row, int t, int4 quad) {
  if constexpr (T < BYTES) {
    if (t != T) return store_quad<BYTES, SPREAD, T + 4>(shared_lut, row, t, quad);
    constexpr int WIDTH = segment_width(BYTES, T), STRIDE = row_words<BYTES, SPREAD>(T);
    int* segment = shared_lut + segment_words<BYTES, SPREAD>(T) + row * STRIDE;
    segment += T - segment_start(BYTES, T);
#pragma unroll
    for (int copy = 0; copy < STRIDE; copy += WIDTH) {
      *reinterpret_cast<int4*>(segment + (row * WIDTH + copy) % STRIDE) = quad;
    }
  }
}

// The LUT of one query in shared memory, filled by the whole block from (256, BYTES) in memory.
template <int BYTES, bool SPREAD>
__device__ __forceinline__ void load_lut(int* shared_lut, const int* __restrict__ lut) {
  constexpr int QUADS = BYTES / 4, AT_ONCE = QUADS < 4 ? QUADS : 4;
#pragma unroll 1
  for (int i = threadIdx.x; i < BOOK_ROWS * QUADS; i += AT_ONCE * THREADS) {
    int4 quads[AT_ONCE];  // all on their way before the first is stored
#pragma unroll
    for (int turn = 0; turn < AT_ONCE; turn++) {
      const int place = i + turn * THREADS;
      if (place < BOOK_ROWS * QUADS) quads[turn] = __ldg(reinterpret_cast<const int4*>(lut) + place);
    }
#pragma unroll
    for (int turn = 0; turn < AT_ONCE; turn++) {
      const int place = i + turn * THREADS;
      if (place >= BOOK_ROWS * QUADS) continue;
      store_quad<BYTES, SPREAD>(shared_lut, place / QUADS, place % QUADS * 4, quads[turn]);
    }
  }
}
