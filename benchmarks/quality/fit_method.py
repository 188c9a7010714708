"""Ours without joint training: ``fit`` and ``refit`` of ready vectors, with item scales."""

from __future__ import annotations

import time
from dataclasses import replace

from benchmarks.quality.afterwards import PQ_BITS, Way
from benchmarks.quality.methods import Method, of_vectors, quantized
from benchmarks.quality.trial import Trial
from benchmarks.quality.variants import TASKS
from merlin_poeem import Index, IVFPQParams, fit, refit
from merlin_poeem.arrays import Float32, normalize
from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import Quantization


def built_by_fit(trial: Trial, way: Way) -> Method:
    """The index of :func:`fitted`, as a method."""
    start = time.perf_counter()
    index = fitted(trial, way)
    return quantized(
        f"{way} {of_vectors(trial)}",
        trial,
        index,
        family=way.family,
        knobs=way.knobs,
        build_seconds=time.perf_counter() - start,
    )


def fitted(trial: Trial, way: Way) -> Index:
    """Clusters and codebook of the vectors, moved to where they fit often wanted items best."""
    params = IVFPQParams(
        n_lists=trial.facts["n_lists"],
        pq_dim=way.size - 1,
        pq_bits=PQ_BITS,
        metric=TASKS[trial.name.task].metric,
    )
    vectors = trial.item_vectors
    if params.metric == "cosine":
        vectors = normalize(vectors)
    quantization = fit(
        params,
        vectors,
        queries=trial.train_queries,
        stretch=way.knobs.get("stretch", 0.0),
        rotation=way.knobs.get("rotation", True),
        progress=False,
    )
    weights = None if way.knobs.get("weights") == "alike" else trial.item_frequencies
    quantization = _with_scale_range(
        refit(quantization, vectors, weights=weights, progress=False), vectors
    )
    return Index.from_vectors(params, quantization, trial.item_ids, vectors, progress=False)


def _with_scale_range(quantization: Quantization, vectors: Float32) -> Quantization:
    """The range of ``fit`` is that of its own codewords."""
    scales = coding.exact_scales(quantization, vectors, *coding.encode(quantization, vectors))
    return replace(quantization, scale_range=coding.fit_scale_range(scales))
