"""``search_frame`` in a process with the server's packages, timed on request.

The parent writes a line of JSON on stdin, ``{"batch": 32, "count": 100}`` or ``{"batch": 32,
"during": 2.0}``, and reads one: ``{"seconds": [...]}``, one number a search.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd

from merlin_poeem import load_index, open_searcher, search_frame


def main() -> None:
    """Answer lines until stdin ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path, help="a .npy file")
    parser.add_argument("--k", type=int, required=True)
    parser.add_argument("--n-probes", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.threads)
    searcher = open_searcher(load_index(options.index), "faiss")
    queries = np.load(options.queries)

    def search(rows: slice) -> Any:
        frame = pd.DataFrame({"embedding": list(queries[rows])})
        return search_frame(
            searcher, frame, k=options.k, n_probes=options.n_probes, form="list", progress=False
        )

    for line in sys.stdin:
        asked = json.loads(line)
        spans = spans_of(len(queries), asked.pop("batch"))
        print(json.dumps({"seconds": timed(search, spans, **asked)}), flush=True)


def spans_of(n_queries: int, batch: int) -> Iterator[slice]:
    """Without end: other rows each time, from the start again after the last."""
    while True:
        for start in range(0, n_queries - batch + 1, batch):
            yield slice(start, start + batch)


def timed(
    search: Callable[[slice], Any],
    spans: Iterator[slice],
    *,
    count: int | None = None,
    during: float | None = None,
) -> list[float]:
    """Seconds of each search, of ``count`` of them or as many as begin ``during`` the seconds."""
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) != count if during is None else time.perf_counter() - begun < during:
        started = time.perf_counter()
        search(next(spans))
        seconds.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    main()
