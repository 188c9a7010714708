"""Train a Quantization on fixed vectors: the way in for ready-made embeddings, and the baseline.

Faiss does the clustering; the codes are ours.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from merlin_poeem.arrays import Float32, Int64, as_vectors, largest_value, normalize
from merlin_poeem.optional import needed_by
from merlin_poeem.progress import Progress
from merlin_poeem.quantization import coding, openmp
from merlin_poeem.quantization.item_codes import Quantization
from merlin_poeem.quantization.params import TRAINABLE_PQ_BITS, IVFPQParams
from merlin_poeem.quantization.stretch import STRETCH, check_stretch
from merlin_poeem.quantization.stretch import stretch as stretch_along

KMEANS_ITERATIONS = 25
MAX_POINTS_PER_CENTROID = 256

# Here, because all that uses Faiss imports this module.
os.register_at_fork(after_in_child=openmp.keep_to_one_thread)


def fit(
    params: IVFPQParams,
    vectors: Float32,
    *,
    queries: Any = None,
    stretch: float = STRETCH,
    rotation: bool = True,
    item_scales: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Quantization:
    """Cluster raw (n, dim) float32 ``vectors`` into coarse centroids and a residual codebook.

    With ``rotation``, an OPQ rotation of the residuals is found first (Ge et al., CVPR 2013). At
    most 256 vectors per centroid are used, drawn with ``seed``. With ``queries``, raw (n, dim)
    float32, such as a few thousand of those that will be searched for, lists and codes are made for
    what these look along: fewer items have to be scanned, and scores are nearer to the exact ones.
    ``stretch`` says how far the queries count, from 0, not at all, to 1 (see
    :func:`~merlin_poeem.quantization.stretch.stretch`); without queries it does nothing. With
    ``item_scales``, items get a scale each, a byte more (see :class:`~merlin_poeem.Quantization`);
    by ``l2``, whose distances no scale mends, never. With ``progress``, work of more than two
    seconds shows a bar on stderr.

    Raises
    ------
    TypeError, ValueError
        Vectors or queries not finite float32 (n, dim), values above 1e15 in size unless the metric
        is cosine, queries that count where the metric is l2, or cosine without scales, a
        ``stretch`` below 0 or above 1, fewer vectors than ``n_lists``, ``pq_dim`` not dividing
        ``dim``, or ``pq_bits`` other than 4 and 8.
    ImportError
        faiss-cpu is not installed.
    """
    faiss = import_faiss()
    vectors = as_vectors("vectors", vectors, largest=largest_value(params.metric))
    dim = vectors.shape[1]
    check_stretch(stretch)
    stretched = None
    if queries is not None and stretch:
        stretched = _stretched(params, queries, stretch, dim, item_scales)
    params.pq_len(dim)
    if params.pq_bits not in TRAINABLE_PQ_BITS:
        raise ValueError(f"pq_bits: expected one of {TRAINABLE_PQ_BITS}, got {params.pq_bits}")
    if len(vectors) < params.n_lists:
        raise ValueError(
            f"vectors: expected at least n_lists = {params.n_lists}, got {len(vectors)}: take "
            f"fewer lists, as suggest_params({len(vectors)}, {dim}) does"
        )
    n_points = MAX_POINTS_PER_CENTROID * max(params.n_lists, params.pq_book_size)
    vectors = _sample(vectors, n_points, seed)
    if params.metric == "cosine":
        vectors = normalize(vectors)
    raw = vectors
    if stretched is not None:
        vectors = vectors @ stretched[0]
    has_scales = item_scales and params.metric != "l2"
    with Progress("fit", 2 + rotation + has_scales, "steps", shown=progress) as bar:
        bar.doing(f"{params.n_lists} lists of {len(vectors)} vectors")
        centroids = _kmeans(faiss, vectors, params.n_lists, seed)
        bar.update()
        matrix, x_rot = None, vectors
        if rotation:
            bar.doing("rotation")
            residuals = vectors - centroids[_assign(faiss, vectors, centroids)]
            matrix = _opq_rotation(faiss, residuals, params)
            x_rot = vectors @ matrix
            centroids = centroids @ matrix
            bar.update()
        bar.doing("codebook")
        residuals = x_rot - centroids[_assign(faiss, x_rot, centroids)]
        codebook = _train_codebook(faiss, residuals, params)
        of_items, of_queries = _rotations(matrix, stretched)
        quantization = Quantization(centroids, codebook, of_items, query_rotation=of_queries)
        bar.update()
        if has_scales:
            bar.doing("scales")
            quantization = _with_scale_range(quantization, raw)
            bar.update()
    return quantization


def _stretched(
    params: IVFPQParams, queries: Any, amount: float, dim: int, item_scales: bool
) -> tuple[Float32, Float32]:
    if params.metric == "l2":
        raise ValueError(
            "queries: expected None where the metric is l2: a stretched space keeps no distances"
        )
    if params.metric == "cosine" and not item_scales:
        raise ValueError("item_scales: expected True beside queries where the metric is cosine")
    queries = as_vectors("queries", queries, dim, largest=largest_value(params.metric))
    return stretch_along(normalize(queries) if params.metric == "cosine" else queries, amount)


def _rotations(
    matrix: Float32 | None, stretched: tuple[Float32, Float32] | None
) -> tuple[Float32 | None, Float32 | None]:
    """``rotation`` and ``query_rotation``, where ``matrix`` rotates the ``stretched`` space."""
    if stretched is None:
        return matrix, None
    of_items, of_queries = stretched
    return stretched if matrix is None else (of_items @ matrix, of_queries @ matrix)


def _with_scale_range(quantization: Quantization, vectors: Float32) -> Quantization:
    scales = coding.exact_scales(quantization, vectors, *coding.encode(quantization, vectors))
    return replace(quantization, scale_range=coding.fit_scale_range(scales))


def import_faiss() -> ModuleType:
    """The faiss module; ``ImportError`` that says what to install where there is none."""
    with needed_by("search on the CPU, fit or a file of Faiss", "cpu"):
        faiss = import_module("faiss")
    return faiss


def _sample(vectors: Float32, n_points: int, seed: int) -> Float32:
    if len(vectors) <= n_points:
        return vectors
    rows = np.random.default_rng(seed).choice(len(vectors), n_points, replace=False)
    return vectors[np.sort(rows)]


def _kmeans(faiss: ModuleType, vectors: Float32, n_clusters: int, seed: int) -> Float32:
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        n_clusters,
        niter=KMEANS_ITERATIONS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=MAX_POINTS_PER_CENTROID,
    )
    kmeans.train(vectors)
    return np.asarray(kmeans.centroids, np.float32)


def _assign(faiss: ModuleType, vectors: Float32, centroids: Float32) -> Int64:
    flat = faiss.IndexFlatL2(vectors.shape[1])
    flat.add(centroids)
    return np.asarray(flat.search(vectors, 1)[1][:, 0], np.int64)


def _opq_rotation(faiss: ModuleType, residuals: Float32, params: IVFPQParams) -> Float32:
    dim = residuals.shape[1]
    opq = faiss.OPQMatrix(dim, params.pq_dim)
    codebook = faiss.ProductQuantizer(dim, params.pq_dim, params.pq_bits)
    opq.pq = codebook
    codebook.cp.min_points_per_centroid = 1
    opq.train(_at_least(residuals, params.pq_book_size))
    return np.ascontiguousarray(faiss.vector_to_array(opq.A).reshape(dim, dim).T)


def _train_codebook(faiss: ModuleType, residuals: Float32, params: IVFPQParams) -> Float32:
    dim = residuals.shape[1]
    pq = faiss.ProductQuantizer(dim, params.pq_dim, params.pq_bits)
    pq.cp.min_points_per_centroid = 1
    pq.train(_at_least(residuals, params.pq_book_size))
    shape = (params.pq_dim, params.pq_book_size, params.pq_len(dim))
    return np.asarray(faiss.vector_to_array(pq.centroids).reshape(shape), np.float32)


def _at_least(vectors: Float32, n: int) -> Float32:
    """``vectors`` repeated until there are ``n``: Faiss asks for one a codeword."""
    return np.resize(vectors, (max(n, len(vectors)), vectors.shape[1]))
