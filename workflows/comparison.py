"""One table for every demo: the learned index beside exact search and Faiss built afterwards."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from merlin_poeem import Candidates, Index, IVFPQParams, open_searcher
from merlin_poeem.arrays import Float32, Int64
from merlin_poeem.convert.faiss import from_faiss
from merlin_poeem.evaluate import exact_search, items_scanned, list_balance

Quality = Callable[[Candidates], dict[str, float]]
Row = dict[str, Any]

OURS = "merlin_poeem"
PACKAGES = (
    "merlin-poeem",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "faiss-cpu",
    "scann",
    "tensorflow-cpu",
    "merlin-models",
)


@dataclass
class Comparison:
    """Rows of results over one set of queries and one catalog, all searched the same way."""

    queries: Float32
    """(n_queries, dim) float32, the query tower's output."""
    k: int
    n_probes: tuple[int, ...]
    quality: Quality
    """What a search is worth: names, such as ``precision_at_100``, and values."""
    seed: int
    exclude: Any = None
    """Per query, the ids that are never shown; as of ``Searcher.search``."""
    rows: list[Row] = field(default_factory=list)

    def add_baselines(
        self, params: IVFPQParams, item_ids: Int64, vectors: Float32, suffix: str = ""
    ) -> None:
        """Exact search, and what Faiss builds at the size of ``params`` with and without rotation.

        ``suffix`` ends the names of the methods.
        """
        factory = f"IVF{params.n_lists},PQ{params.pq_dim}x{params.pq_bits}"
        rotated = f"OPQ{params.pq_dim},{factory}"
        self.add_exact("exact" + suffix, item_ids, vectors)
        self.add_faiss("Faiss IVF-PQ" + suffix, factory, item_ids, vectors)
        self.add_faiss("Faiss OPQ+IVF-PQ" + suffix, rotated, item_ids, vectors)

    def add_exact(self, method: str, item_ids: Int64, vectors: Float32) -> None:
        """Exact search over float item vectors."""
        start = time.perf_counter()
        found = exact_search(
            item_ids, vectors, self.queries, k=self.k, metric="inner_product", exclude=self.exclude
        )
        self._add(
            method,
            found,
            microseconds_per_query=self._microseconds_since(start),
            bytes_per_item=vectors.shape[1] * 4,
            items_scanned=float(len(vectors)),
            build_seconds=0.0,
        )

    def add_faiss(self, method: str, factory: str, item_ids: Int64, vectors: Float32) -> None:
        """An index that Faiss builds afterwards from float item vectors, at the same size."""
        start = time.perf_counter()
        index = faiss_index(item_ids, vectors, factory)
        self.add_index(method, index, time.perf_counter() - start)

    def add_index(self, method: str, index: Index, build_seconds: float) -> None:
        """A quantized index, searched at every ``n_probes``."""
        searcher = open_searcher(index, "faiss")
        params = index.params
        for n_probes in sorted({min(n, params.n_lists) for n in self.n_probes}):
            start = time.perf_counter()
            found = searcher.search(self.queries, k=self.k, n_probes=n_probes, exclude=self.exclude)
            self._add(
                method,
                found,
                microseconds_per_query=self._microseconds_since(start),
                n_lists=params.n_lists,
                pq_dim=params.pq_dim,
                pq_bits=params.pq_bits,
                n_probes=n_probes,
                bytes_per_item=params.pq_dim * params.pq_bits / 8 + (index.scales is not None),
                max_over_mean_list=list_balance(index).max_over_mean,
                items_scanned=float(np.mean(items_scanned(index, self.queries, n_probes))),
                build_seconds=build_seconds,
            )

    def table(self) -> str:
        """The rows as text, one line a method and ``n_probes``."""
        titles = {
            "method": "method",
            "n_probes": "n_probes",
            **{name: name for name in self.quality_names},
            "bytes_per_item": "bytes/item",
            "max_over_mean_list": "max/mean list",
            "items_scanned": "scanned",
            "microseconds_per_query": "µs/query",
            "build_seconds": "build s",
        }
        lines = [
            [*titles.values()],
            *([_text(key, row[key]) for key in titles] for row in self.rows),
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )

    def save(self, path: Path) -> None:
        """Write the rows and the versions that made them as JSON."""
        save_rows(self.rows, path)

    @property
    def quality_names(self) -> tuple[str, ...]:
        """Names of the quality columns."""
        known = {"method", "seed", *_SHAPE}
        return tuple(name for name in self.rows[0] if name not in known)

    def _microseconds_since(self, start: float) -> float:
        """Per query of the batch; one run, so a rough figure."""
        return 1e6 * (time.perf_counter() - start) / len(self.queries)

    def _add(self, method: str, found: Candidates, **facts: Any) -> None:
        shape: Mapping[str, Any] = {**dict.fromkeys(_SHAPE), **facts}
        self.rows.append({"method": method, "seed": self.seed, **self.quality(found), **shape})


_SHAPE = (
    "n_lists",
    "pq_dim",
    "pq_bits",
    "n_probes",
    "bytes_per_item",
    "max_over_mean_list",
    "items_scanned",
    "build_seconds",
    "microseconds_per_query",
)


def save_rows(rows: list[Row], path: Path) -> None:
    """Write ``{"rows": [...], "versions": {...}}`` as JSON, folders made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows, "versions": versions()}, indent=1) + "\n")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter to the figures."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def faiss_index(item_ids: Int64, vectors: Float32, factory: str) -> Index:
    """What Faiss builds from float item vectors (n_items, dim), to be searched by inner product.

    It clusters by distance. The centroids that it makes for the inner product are of length 1 and
    leave more to the codes: they find less, see docs/trials.md.
    """
    built = _untrained(vectors.shape[1], factory)
    built.train(vectors)
    built.add_with_ids(vectors, item_ids)
    return from_faiss(built, metric="inner_product")


def _untrained(dim: int, factory: str) -> faiss.Index:
    """Without what costs time and lines but changes no result."""
    built = faiss.index_factory(dim, factory, faiss.METRIC_L2)
    ivfpq = faiss.downcast_index(faiss.extract_index_ivf(built))
    ivfpq.do_polysemous_training = False  # only renumbers codewords; takes 20 s
    ivfpq.cp.min_points_per_centroid = 1  # a warning per clustering of a small catalog
    ivfpq.pq.cp.min_points_per_centroid = 1
    if isinstance(built, faiss.IndexPreTransform):
        opq = faiss.downcast_VectorTransform(built.chain.at(0))
        codebook = faiss.ProductQuantizer(dim, ivfpq.pq.M, ivfpq.pq.nbits)
        codebook.cp.min_points_per_centroid = 1
        codebook.this.disown()  # Faiss holds a bare pointer, and never frees it
        opq.pq = codebook
    return built


_DIGITS = {
    "n_probes": 0,
    "items_scanned": 0,
    "bytes_per_item": 0,
    "max_over_mean_list": 2,
    "microseconds_per_query": 0,
    "build_seconds": 2,
}


def _text(key: str, value: Any) -> str:
    if value is None:
        return "all" if key == "n_probes" else "–"
    if isinstance(value, str):
        return value
    return f"{value:.{_DIGITS.get(key, 4)}f}"
