// From the sum of an item's lookups to its score, by metric.
#pragma once

constexpr int METRIC_INNER_PRODUCT = 0, METRIC_COSINE = 1, METRIC_L2 = 2;

struct Scorer {
  int metric;
  float unit;  // a power of two: the sum's product with it is exact, fused with an addition or not

  // The codes' part of a score, from a sum in fixed point or as it is. The base has no place in the
  // sum: that of one far list would take the digits of all other items.
  __device__ __forceinline__ float part_of(int sum) const { return __int2float_rn(sum) * unit; }
  __device__ __forceinline__ float part_of(float sum) const { return sum; }

  // `base` is the part that all items of the list share. <q, centroid> and <q, residual> are the
  // parts, the cosine's query of unit length, and `term` is 1 / |item|. For l2 they are
  // -|q - centroid|^2 and 2 <q, residual>, and `term` is |item|^2 - |centroid|^2. Rounded as it is,
  // a score does not fall where the codes' part rises.
  __device__ __forceinline__ float score(float base, float part, float term) const {
    // Never above zero, as a squared distance is not below it: rounding may lead there.
    if (metric == METRIC_L2) return fminf(base + (part - term), 0.0f);
    return metric == METRIC_COSINE ? (base + part) * term : base + part;
  }
};
