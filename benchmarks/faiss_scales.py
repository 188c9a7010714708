"""Item scales by Faiss beside raw Faiss: ``python -m benchmarks.faiss_scales [--quick]``.

Raw Faiss searches the same lists and codes: with as many subspaces as we scan, the scale's being
one of them, and with one fewer, without scales. The answers are compared with the definition's
before anything is timed, and the searches take turns. Prints a table, writes
``results/faiss_scales.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalogs import Catalog, build_index
from benchmarks.search import SETTLE_SECONDS, versions
from merlin_poeem import IdLists, Index, open_searcher
from merlin_poeem.arrays import normalize
from merlin_poeem.convert.faiss import build_ivfpq
from merlin_poeem.evaluate import exact_search, recall_at_k
from merlin_poeem.search import reference
from merlin_poeem.search.faiss.searcher import FaissSearcher
from merlin_poeem.search.ragged import Candidates

RESULTS = Path("results/faiss_scales.json")
FOLDER = Path("results/catalogs")
CHECKED_QUERIES, RECALL_QUERIES = 10, 200
RAW, WITHOUT, OURS = "raw Faiss", "raw Faiss, no scale", "with scales"


class UnitCatalog(Catalog):
    """The same catalog with items of length 1."""

    def _chunk(self, number: int) -> np.ndarray:
        return normalize(super()._chunk(number))


def main() -> None:
    """Measure, print and save."""
    options = _options()
    rows = []
    for metric, kind in (("inner_product", Catalog), ("cosine", UnitCatalog)):
        catalog = kind("clustered", options.n_items, options.dim, options.seed)
        index = build_index(
            catalog,
            code_bytes=options.pq_dim * options.pq_bits // 8,
            n_lists=options.n_lists,
            pq_bits=options.pq_bits,
            item_scales=True,
            folder=FOLDER / metric,
        )
        queries = catalog.queries(options.batch)
        rows += measure(index.with_metric(metric), catalog, queries, options)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"rows": rows, "versions": versions()}, indent=1))
    print(f"written to {RESULTS}")


def measure(
    index: Index, catalog: Catalog, queries: np.ndarray, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row per search and ``n_probes``, from ``repeats`` rounds of all of them."""
    searcher = open_searcher(index, "faiss")
    vectors = np.concatenate(list(catalog.chunks()))
    truth = exact_search(
        catalog.item_ids(), vectors, queries[:RECALL_QUERIES], k=options.k,
        metric=index.params.metric,
    )  # fmt: skip
    rows = []
    for n_probes in options.n_probes:
        check(searcher, queries, options.k, n_probes)
        found = searcher.search(queries, k=options.k, n_probes=n_probes)
        searches = searches_of(searcher, queries, options.k, n_probes)
        seconds = take_turns(searches, options.repeats)
        for name in searches:
            rows.append(
                {
                    "metric": index.params.metric,
                    "n_probes": n_probes,
                    "search": name,
                    "milliseconds": 1e3 * statistics.median(seconds[name]),
                    "fastest": 1e3 * min(seconds[name]),
                    # Of each round's own ratio: what slows the machine then slows both sides.
                    "ratio": statistics.median(
                        a / b for a, b in zip(seconds[name], seconds[RAW], strict=True)
                    ),
                    "ratio_of_fastest": min(seconds[name]) / min(seconds[RAW]),
                    "recall": recall(found, truth, options.k) if name == OURS else None,
                }
            )
            print_row(rows[-1])
    return rows


def check(searcher: Any, queries: np.ndarray, k: int, n_probes: int) -> None:
    """``AssertionError`` where the answers are not the definition's."""
    some = queries[:CHECKED_QUERIES]
    found = searcher.search(some, k=k, n_probes=n_probes)
    expected = reference.search(searcher.index, some, k=k, n_probes=n_probes)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)
    assert (found.item_ids == expected.item_ids).mean() > 0.99


def searches_of(
    searcher: FaissSearcher, queries: np.ndarray, k: int, n_probes: int
) -> dict[str, Callable[[], Any]]:
    """One search of ``queries`` by each, as a function to be timed."""
    index = searcher.index
    raw, wide = raw_with_scales(searcher, queries, k, n_probes)
    without = raw_faiss(index, index.quantization, None)
    for each in (raw, without):
        each.nprobe = n_probes
    plain = np.ascontiguousarray(wide[:, : index.dim])
    return {
        RAW: lambda: raw.search(wide, k),
        WITHOUT: lambda: without.search(plain, k),
        OURS: lambda: searcher.search(queries, k=k, n_probes=n_probes),
    }


def raw_with_scales(
    searcher: FaissSearcher, queries: np.ndarray, k: int, n_probes: int
) -> tuple[Any, np.ndarray]:
    """Faiss' index of what ``searcher`` scans, and ``queries`` as it scans for them."""
    index, scales = searcher.index, searcher._scales
    assert scales is not None
    if index.params.metric == "cosine":
        queries = normalize(queries)
    batch = searcher._open_batch(index.quantization.rotate_queries(queries), n_probes, None)
    scales.aim(batch, k)
    return raw_faiss(index, scales.quantization, scales.packed_codes), batch.queries_rot


def raw_faiss(index: Index, quantization: Any, packed_codes: Any) -> Any:
    """An IndexIVFPQ that chooses lists as the ``index`` does, so that it scans as many items.

    Its scores are with the centroids that lists are chosen by.
    """
    centroids = quantization.coarse_centroids
    if index.params.metric == "cosine":
        centroids = normalize(centroids)
    elif index.list_factors is not None:
        centroids = centroids * index.list_factors[:, None]
    chosen_alike = replace(quantization, coarse_centroids=centroids)
    rows = np.arange(index.n_items)
    return build_ivfpq(index, chosen_alike, rows, "inner_product", packed_codes)


def take_turns(searches: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each search in each of ``repeats`` rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for search in searches.values():
        search()
    for _ in range(repeats):
        for name, search in searches.items():
            # OpenMP's threads go on spinning for a while: not into the next search's time.
            time.sleep(SETTLE_SECONDS)
            started = time.perf_counter()
            search()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def recall(found: Candidates, truth: Candidates, k: int) -> float:
    """Share of the exact first ``k`` found."""
    relevant = IdLists.from_rows([truth[i][1] for i in range(len(truth))])
    return recall_at_k(found.padded(k, fill_id=-1)[1][: len(truth)], relevant, k)


def print_row(row: dict[str, Any]) -> None:
    """One line of the table."""
    found = "" if row["recall"] is None else f"  recall {row['recall']:.3f}"
    print(
        f"{row['metric']:<14} {row['n_probes']:>3} probes  {row['search']:<20} "
        f"{row['milliseconds']:>7.1f} ms  {row['ratio']:.3f}x  "
        f"(fastest {row['fastest']:.1f} ms, {row['ratio_of_fastest']:.3f}x){found}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--pq-dim", type=int, default=16)
    parser.add_argument("--pq-bits", type=int, default=8)
    parser.add_argument("--n-lists", type=int, default=1024)
    parser.add_argument("--n-probes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a small catalog, few repeats")
    options = parser.parse_args()
    if options.quick:
        options.n_items, options.n_lists, options.repeats = 50_000, 128, 3
    return options


if __name__ == "__main__":
    main()
