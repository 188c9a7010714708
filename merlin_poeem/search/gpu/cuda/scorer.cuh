// From a sum in fixed point to a score, by metric.
#pragma once

constexpr int METRIC_INNER_PRODUCT = 0, METRIC_COSINE = 1, METRIC_L2 = 2;

struct Scorer {
  int metric;
  float unit, query_square;

  __device__ Scorer(int metric, float unit, const float* __restrict__ query_squares, size_t query)
      : metric(metric), unit(unit),
        query_square(metric == METRIC_L2 ? query_squares[query] : 0.0f) {}

  // `sum` is <q, item> in fixed point. `term` is 1 / |item| for the cosine and |item|^2 for l2. The
  // cosine's query is of unit length.
  __device__ __forceinline__ float score(int sum, float term) const {
    return score_of(__int2float_rn(sum) * unit, term);
  }

  // The inner product alone.
  __device__ __forceinline__ float plain_score(int sum) const { return __int2float_rn(sum) * unit; }

  // The same of <q, item> itself; it rises with the product.
  __device__ __forceinline__ float score_of(float product, float term) const {
    if (metric == METRIC_COSINE) return product * term;
    // Never above zero, as a squared distance is not below it: rounding may lead there.
    if (metric == METRIC_L2) return fminf(fmaf(2.0f, product, -(term + query_square)), 0.0f);
    return product;
  }
};
