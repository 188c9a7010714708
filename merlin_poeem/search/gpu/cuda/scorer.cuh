// From the sum of an item's lookups to its score, by metric.
#pragma once

constexpr int METRIC_INNER_PRODUCT = 0, METRIC_COSINE = 1, METRIC_L2 = 2;

// What a score needs of each item beside its list's base and its lookups: the item's scale, an entry
// of a table of 256; or else a term of its own; or nothing.
struct ItemTerms {
  const unsigned char* __restrict__ scales;  // (n_items,), or null
  const float* __restrict__ scale_table;     // (256,)
  const float* __restrict__ terms;           // (n_items,), or null

  __device__ __forceinline__ float of(unsigned row) const {
    if (scales != nullptr) return __ldg(scale_table + __ldg(scales + row));
    return terms == nullptr ? 0.0f : __ldg(terms + row);
  }
};

struct Scorer {
  int metric;
  float unit;  // a power of two: the sum's product with it is exact, fused with an addition or not

  // The codes' part of a score, from a sum in fixed point or as it is. The base has no place in the
  // sum: that of one far list would take the digits of all other items.
  __device__ __forceinline__ float part_of(int sum) const { return __int2float_rn(sum) * unit; }
  __device__ __forceinline__ float part_of(float sum) const { return sum; }

  // `base` is the part that all items of the list share. <q, centroid> and <q, residual> are the
  // parts, the cosine's query of unit length. With item scales `term` is the scale, whatever the
  // model scores by: `metric` is then the cosine's, whose term without them is 1 / |item|. For l2 they are
  // -|q - centroid|^2 and 2 <q, residual>, and `term` is |item|^2 - |centroid|^2. Rounded as it is,
  // a score does not fall where the codes' part rises.
  __device__ __forceinline__ float score(float base, float part, float term) const {
    // Never above zero, as a squared distance is not below it: rounding may lead there.
    if (metric == METRIC_L2) return fminf(base + (part - term), 0.0f);
    // A product with a scale of zero is zero, not -0, whose key would differ.
    return metric == METRIC_COSINE ? fmaf(base + part, term, 0.0f) : base + part;
  }
};
