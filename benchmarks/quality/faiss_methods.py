"""Faiss' IVF-PQ, clustered afterwards from the float vectors; as it is, or with our item scales."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache

import faiss
import numpy as np

from benchmarks.quality.afterwards import FAISS_SCALES, PQ_BITS, Way, default_width
from benchmarks.quality.methods import Method, of_vectors, quantized
from benchmarks.quality.trial import Trial
from merlin_poeem import Index
from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.convert.faiss import from_faiss
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import ItemCodes


def built_by_faiss(trial: Trial, way: Way) -> Method:
    """IVF-PQ with OPQ before it, unless the knob ``opq`` is False."""
    has_scales = way.family == FAISS_SCALES
    vectors, queries = trial.item_vectors, trial.queries
    n_codes = way.size - has_scales
    start = time.perf_counter()
    width = way.knobs.get("opq", default_width(vectors.shape[1], n_codes))
    if width:
        matrix = opq_matrix(trial, n_codes, width)
        vectors, queries = vectors @ matrix, queries @ matrix
    metric = faiss.METRIC_L2
    if way.knobs.get("clusters") == "spherical":
        metric = faiss.METRIC_INNER_PRODUCT
    index = ivf_pq(trial.item_ids, vectors, trial.facts["n_lists"], n_codes, metric)
    if has_scales:
        index = with_scales(index, trial.item_ids, vectors)
    return quantized(
        f"{way} {of_vectors(trial)}",
        trial,
        index,
        family=way.family,
        knobs=way.knobs,
        build_seconds=time.perf_counter() - start,
        queries=queries,
    )


@lru_cache(maxsize=1)  # ways that differ in their clusters alone come one after the other
def opq_matrix(trial: Trial, n_codes: int, width: int) -> Float32:
    """(dim, width): Faiss' ``OPQ<n_codes>_<width>`` of the items, for vectors @ it."""
    dim = trial.item_vectors.shape[1]
    opq = faiss.OPQMatrix(dim, n_codes, width)
    codebook = faiss.ProductQuantizer(width, n_codes, PQ_BITS)
    codebook.cp.min_points_per_centroid = 1  # a warning per clustering of a small catalog
    opq.pq = codebook  # a bare pointer: it must have a name, so that it is still there
    opq.train(trial.item_vectors)
    matrix = faiss.vector_to_array(opq.A).reshape(width, dim)
    return np.ascontiguousarray(matrix.T)


def ivf_pq(item_ids: Int64, vectors: Float32, n_lists: int, n_codes: int, metric: int) -> Index:
    """``IVF<n_lists>,PQ<n_codes>x8`` clustered by ``metric``, to be searched by inner product."""
    built = faiss.index_factory(vectors.shape[1], f"IVF{n_lists},PQ{n_codes}x{PQ_BITS}", metric)
    built.do_polysemous_training = False  # only renumbers codewords; takes 20 s
    built.cp.min_points_per_centroid = 1
    built.pq.cp.min_points_per_centroid = 1
    vectors = np.ascontiguousarray(vectors)
    built.train(vectors)
    built.add_with_ids(vectors, item_ids)
    return from_faiss(built, metric="inner_product")


def with_scales(index: Index, item_ids: Int64, vectors: Float32) -> Index:
    """``index`` with a scale for each item, of the (n_items, dim) vectors that it was built from.

    Lists and codes stay as they are.
    """
    rows = index.rows_of(item_ids)
    list_ids, codes = index.list_ids[rows], index.codes[rows]
    exact = coding.exact_scales(index.quantization, vectors, list_ids, codes)
    quantization = replace(index.quantization, scale_range=coding.fit_scale_range(exact))
    scales = coding.nearest_scales(quantization, exact)
    item_codes = ItemCodes(item_ids, list_ids, codes, scales)
    return Index.from_codes(index.params, quantization, item_codes).without_list_lengths()
