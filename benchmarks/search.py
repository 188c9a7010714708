"""Search speed beside the same index in raw Faiss: ``python -m benchmarks.search [--quick]``.

The answers are compared before anything is timed, and the backends take turns, so that another
job on the machine slows all of them. Prints a table and writes ``results/search.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from merlin_poeem import Index, IVFPQParams, Searcher, fit, open_searcher, search_frame
from merlin_poeem.convert.faiss import to_faiss
from merlin_poeem.evaluate import exact_search, recall_at_k
from merlin_poeem.search.ragged import Candidates, IdLists

RESULTS = Path("results/search.json")
RECALL_QUERIES = 100
SETTLE_SECONDS = 0.02
RAW = "faiss (raw)"


@dataclass(frozen=True)
class Setting:
    """One measurement: how the index was made and how it is searched."""

    n_items: int
    dim: int
    pq_dim: int
    n_lists: int
    n_probes: int
    batch: int
    k: int


def main() -> None:
    """Measure, print and save."""
    options = _options()
    rng = np.random.default_rng(options.seed)
    print(f"{options.n_items:,} clustered vectors of {options.dim} dimensions")
    vectors, queries = clustered_vectors(rng, options.n_items, max(options.batches), options.dim)
    started = time.perf_counter()
    index = build(vectors, options)
    print(f"{index} built in {time.perf_counter() - started:.1f} s")
    truth = exact_search(
        index_ids(len(vectors)),
        vectors,
        queries[:RECALL_QUERIES],
        k=options.k,
        metric="inner_product",
    )
    rows = []
    for batch in options.batches:
        for n_probes in options.n_probes:
            setting = Setting(
                options.n_items, options.dim, options.pq_dim, options.n_lists, n_probes, batch,
                options.k,
            )  # fmt: skip
            rows += measure(index, queries[:batch], truth, setting, options.repeats)
    opening = measure_opening(index)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"rows": rows, "opening": opening, "versions": versions()}, indent=1)
    )
    print(f"written to {RESULTS}")


def clustered_vectors(
    rng: np.random.Generator, n_items: int, n_queries: int, dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """Items (n_items, dim) and queries (n_queries, dim), float32, around the same centres."""
    centres = rng.standard_normal((2000, dim), np.float32)

    def draw(n: int) -> np.ndarray:
        around = centres[rng.integers(0, len(centres), n)]
        return around + np.float32(0.5) * rng.standard_normal((n, dim), np.float32)

    return draw(n_items), draw(n_queries)


def index_ids(n_items: int) -> np.ndarray:
    """Item ids above 2**40, not in the order of the vectors' lists."""
    return np.arange(n_items, dtype=np.int64) * 7 + 2**40


def build(vectors: np.ndarray, options: argparse.Namespace) -> Index:
    """An index of all ``vectors``, its quantization trained on a tenth of them.

    Without what raw Faiss has not: item scales, and list lengths.
    """
    params = IVFPQParams(n_lists=options.n_lists, pq_dim=options.pq_dim, metric="inner_product")
    sample = vectors[: max(len(vectors) // 10, 256)]
    quantization = fit(params, sample, rotation=False, item_scales=False)
    index = Index.from_vectors(params, quantization, index_ids(len(vectors)), vectors)
    return index.without_list_lengths()


def measure(
    index: Index, queries: np.ndarray, truth: Candidates, setting: Setting, repeats: int
) -> list[dict[str, Any]]:
    """A row per backend, in ``repeats`` rounds of all of them."""
    backends = open_backends(index, queries, setting)
    recalls = check_answers(index, queries, truth, setting)
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    for search in backends.values():
        search()
    for _ in range(repeats):
        for name, search in backends.items():
            # OpenMP's threads go on spinning for a while: not into the next backend's time.
            time.sleep(SETTLE_SECONDS)
            started = time.perf_counter()
            search()
            seconds[name].append(time.perf_counter() - started)
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        # Of each round's own ratio: what slows the machine then slows both sides.
        ratio = statistics.median(a / b for a, b in zip(times, seconds[RAW], strict=True))
        rows.append(
            {
                "backend": name,
                **vars(setting),
                "queries_per_second": setting.batch / median,
                "recall": recalls[name],
                "seconds": median,
                "ratio_to_raw": ratio,
            }
        )
        print_row(rows[-1])
    return rows


def open_backends(
    index: Index, queries: np.ndarray, setting: Setting
) -> dict[str, Callable[[], Any]]:
    """One search of ``queries`` by each backend, as a function to be timed."""
    import pandas as pd

    raw = to_faiss(index)
    raw.nprobe = setting.n_probes
    searcher = open_searcher(index, "faiss")
    frame = pd.DataFrame({"user_id": np.arange(len(queries)), "embedding": list(queries)})
    arguments = {"k": setting.k, "n_probes": setting.n_probes}
    return {
        RAW: lambda: raw.search(queries, setting.k),
        "faiss": lambda: searcher.search(queries, **arguments),
        "faiss (frames)": lambda: search_frame(searcher, frame, query_id="user_id", **arguments),
    }


def check_answers(
    index: Index, queries: np.ndarray, truth: Candidates, setting: Setting
) -> dict[str, float]:
    """Recall of each backend; ``AssertionError`` where their answers are not the same."""
    searches = open_backends(index, queries, setting)
    scores, _ = searches[RAW]()
    found = searches["faiss"]()
    frame = searches["faiss (frames)"]()
    np.testing.assert_allclose(found.padded(setting.k, fill_id=-1)[0], scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(frame["item_id"].to_numpy(), found.item_ids)
    judged = min(len(truth), setting.batch)
    relevant = IdLists.from_rows([truth[i][1] for i in range(judged)])
    first = found.padded(setting.k, fill_id=-1)[1][:judged]
    recall = recall_at_k(first, relevant, setting.k)
    raw_recall = recall_at_k(searches[RAW]()[1][:judged], relevant, setting.k)
    return {RAW: raw_recall, "faiss": recall, "faiss (frames)": recall}


def measure_opening(index: Index) -> dict[str, Any]:
    """Seconds to load a saved index and to open it for search, and the bytes that loading reads."""
    from merlin_poeem import load_index, save_index

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        save_index(index, path)
        on_disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        before, started = bytes_read(), time.perf_counter()
        loaded = load_index(path)
        load_seconds, read = time.perf_counter() - started, bytes_read() - before
        mapped = bytes_mapped(path)
        started = time.perf_counter()
        searcher: Searcher = open_searcher(loaded, "faiss")
        open_seconds = time.perf_counter() - started
        del searcher, loaded
    print(
        f"load_index: {load_seconds * 1e3:.1f} ms, {read / 1e6:.2f} MB read and {mapped / 1e6:.2f} "
        f"MB of the map touched, of {on_disk / 1e6:.1f} MB; open_searcher: {open_seconds:.2f} s"
    )
    return {
        "load_seconds": load_seconds,
        "bytes_read": read,
        "bytes_touched_in_map": mapped,
        "bytes_on_disk": on_disk,
        "open_searcher_seconds": open_seconds,
    }


def bytes_read() -> int:
    """Bytes that this process has read by system calls (Linux; 0 elsewhere)."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return int(dict(line.split(": ") for line in lines)["rchar"])


def bytes_mapped(path: Path) -> int:
    """Bytes of the files under ``path`` that memory maps hold resident (Linux; 0 elsewhere)."""
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return 0
    resident, ours = 0, False
    for line in lines:
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):
            ours = str(path) in line
        elif ours and first == "Rss:":
            resident += 1024 * int(line.split()[1])
    return resident


def versions() -> dict[str, str]:
    """What the figures were measured with."""
    import faiss
    import pandas as pd

    import merlin_poeem

    return {
        "merlin_poeem": merlin_poeem.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pandas": pd.__version__,
        "faiss": faiss.__version__,
        "threads": str(faiss.omp_get_max_threads()),
    }


def print_row(row: dict[str, Any]) -> None:
    """One line of the table."""
    print(
        f"{row['backend']:15s} n_probes {row['n_probes']:3d}  batch {row['batch']:5d}  "
        f"k {row['k']}  {row['seconds'] * 1e3:8.2f} ms  {row['queries_per_second']:9.0f} queries/s"
        f"  recall {row['recall']:.4f}  ratio {row['ratio_to_raw']:.3f}",
        flush=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the items and rounds")
    parser.add_argument("--n-items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--pq-dim", type=int, default=16)
    parser.add_argument("--n-lists", type=int, default=1024)
    parser.add_argument("--n-probes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--batches", type=int, nargs="+", default=[1000])
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.quick:
        options.n_items, options.n_lists, options.repeats = 100_000, 256, 5
    return options


if __name__ == "__main__":
    main()
