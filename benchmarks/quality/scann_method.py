"""ScaNN as a method, where it is installed: its lists and codes at the same bytes an item.

Anisotropic codes of 4 bits (Guo et al., ICML 2020) in a tree with as many leaves as the others have
lists; its own second pass over float vectors is left out, as all methods get the same one. ScaNN
takes no seed: built again from the same vectors, it differs a little.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.afterwards import SCANN_BITS, Way
from benchmarks.quality.lists import Lists, dead_codewords
from benchmarks.quality.methods import Method, of_vectors, without_excluded
from benchmarks.quality.relevance import MANY
from benchmarks.quality.trial import Trial
from merlin_poeem import Candidates
from merlin_poeem.arrays import Float32, Int64

THRESHOLD = 0.2


def built_by_scann(trial: Trial, way: Way) -> Method:
    """With as many blocks as fit into the bytes; ``ImportError`` where ScaNN is not installed.

    The knob ``threshold`` is that of the anisotropic loss, None without.
    """
    import scann

    n_items, dim = trial.item_vectors.shape
    width = -(-dim * SCANN_BITS // (8 * way.size))
    threshold = way.knobs.get("threshold", THRESHOLD)
    start = time.perf_counter()
    builder = scann.scann_ops_pybind.builder(trial.item_vectors, MANY, "dot_product")
    builder.set_n_training_threads(1)
    # ScaNN's own least size of a leaf, 50, spoils its lists where a catalog is small.
    builder.tree(trial.facts["n_lists"], 1, training_sample_size=n_items, min_partition_size=1)
    builder.score_ah(
        width,
        anisotropic_quantization_threshold=math.nan if threshold is None else threshold,
    )
    searcher = builder.build()
    return _method(trial, way, searcher, -(-dim // width), time.perf_counter() - start)


def _method(trial: Trial, way: Way, searcher: Any, n_blocks: int, build_seconds: float) -> Method:
    lists, codes = _read(searcher, trial.queries)

    def search(n_probes: int, k: int) -> Candidates:
        def find(queries: Float32, k: int) -> tuple[Float32, Int64]:
            rows, scores = searcher.search_batched(
                queries, final_num_neighbors=k, leaves_to_search=n_probes
            )
            return scores, rows.astype(np.int64)

        return without_excluded(find, trial, k)

    return Method(
        f"{way} {of_vectors(trial)}",
        f"{n_blocks}x{SCANN_BITS}",
        n_blocks * SCANN_BITS / 8,
        search,
        lists,
        way.family,
        way.knobs,
        build_seconds,
        {"dead_codewords": dead_codewords(codes, 1 << SCANN_BITS)},
    )


def _read(searcher: Any, queries: Float32) -> tuple[Lists, NDArray[np.uint8]]:
    """The tree's lists and the items' codes, out of the files that ScaNN saves.

    A query visits the leaves whose centres have the largest inner products with it; a test asks
    ScaNN for everything that it scans and finds as many items.
    """
    from scann.partitioning.partitioner_pb2 import SerializedPartitioner

    with TemporaryDirectory() as name:
        folder = Path(name)
        searcher.serialize(name)
        saved = SerializedPartitioner.FromString(
            (folder / "serialized_partitioner.pb").read_bytes()
        )
        list_ids = np.load(folder / "datapoint_to_token.npy")
        codes = np.load(folder / "hashed_dataset.npy")
    centers = saved.kmeans.kmeans_tree.root.centers
    centroids = np.array([center.dimension for center in centers], np.float32)
    sizes = np.bincount(list_ids, minlength=len(centroids))
    return Lists(sizes, queries @ centroids.T), codes
