"""The host's share of a search: ``python -m benchmarks.host_time``; no GPU needed.

A device that records launches and does nothing stands in for the card, so that what is timed is our
own Python: checks, plans, views and the calls themselves. What CuPy adds for each launch, copy and
allocation is not in it; those are counted, in a column of their own, and with ``--cupy`` times a
cost that is assumed, not measured. ``PYTHONPATH`` names another checkout to be measured by the same
program.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import merlin_poeem
from merlin_poeem import Index, ItemCodes, IVFPQParams, Quantization
from merlin_poeem.search.gpu.card import Card
from merlin_poeem.search.gpu.searcher import GpuSearcher

H100 = Card("no card", (9, 0), 132, 232448, 233472, 80 << 30)
BATCHES = (1, 32, 1000, 1024, 4096, 16384)
K, N_PROBES, DIM, N_LISTS, N_ITEMS = 100, 8, 64, 1024, 4096
ROUNDS, LEAST_SECONDS = 5, 0.2
CUPY_MICROSECONDS = 5.0
"""Assumed of CuPy's part of a launch, a copy or an allocation."""


class NoArray:
    """A device array's shape and dtype: views of it cost Python, its content nothing."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, calls: Counter[str]) -> None:
        self.shape, self.dtype, self.calls = shape, np.dtype(dtype), calls

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Of the array."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Of the array."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __getitem__(self, key: Any) -> NoArray:
        if not isinstance(key, slice):
            return self
        start, stop, _ = key.indices(self.shape[0])
        return NoArray((max(0, stop - start), *self.shape[1:]), self.dtype, self.calls)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.calls["copy"] += 1

    def view(self, dtype: Any) -> NoArray:
        """As NumPy's, of the last axis."""
        size = np.dtype(dtype).itemsize
        last = self.shape[-1] * self.dtype.itemsize // size
        return NoArray((*self.shape[:-1], last), dtype, self.calls)

    def reshape(self, *shape: Any) -> NoArray:
        """As NumPy's."""
        sizes = shape[0] if isinstance(shape[0], tuple) else shape
        return NoArray(tuple(sizes), self.dtype, self.calls)

    def copy(self) -> NoArray:
        """An allocation and a copy."""
        self.calls["allocation"] += 1
        self.calls["copy"] += 1
        return NoArray(self.shape, self.dtype, self.calls)

    def ravel(self) -> NoArray:
        """As NumPy's."""
        return self.reshape(int(np.prod(self.shape)))

    def astype(self, dtype: Any, **_: Any) -> NoArray:
        """An allocation and a launch."""
        self.calls["allocation"] += 1
        self.calls["launch"] += 1
        return NoArray(self.shape, dtype, self.calls)


class NoLibrary:
    """The part of CuPy that a search calls, counted; arrays of its own pass through."""

    def __init__(self, calls: Counter[str]) -> None:
        self._calls = calls

    def asarray(self, array: Any) -> Any:
        """Its own as they are."""
        if isinstance(array, NoArray):
            return array
        given = np.asarray(array)
        return NoArray(given.shape, given.dtype, self._calls)

    ascontiguousarray = asarray

    def empty(self, shape: Any, dtype: Any) -> NoArray:
        """An allocation."""
        self._calls["allocation"] += 1
        return NoArray(shape if isinstance(shape, tuple) else (shape,), dtype, self._calls)

    def zeros(self, shape: Any, dtype: Any) -> NoArray:
        """An allocation and a launch."""
        self._calls["launch"] += 1
        return self.empty(shape, dtype)

    def cumsum(self, array: NoArray, dtype: Any) -> NoArray:
        """An allocation and a launch."""
        self._calls["launch"] += 1
        return self.empty(array.shape, dtype)


class RecordingDevice:
    """A ``merlin_poeem.search.gpu.device.Device`` that counts what it is asked for."""

    card = H100

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.xp: Any = NoLibrary(self.calls)

    def kernel(self, file: str, name: str) -> Callable[..., None]:
        """One that does nothing."""
        return self._launch

    def _launch(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared_bytes: int = 0,
    ) -> None:
        self.calls["launch"] += 1

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """A graph is one launch, however much it holds."""
        work()

        def replay() -> None:
            self.calls["launch"] += 1

        return replay

    def view(self, memory: Any, start: int, shape: tuple[int, ...], dtype: Any) -> NoArray:
        """An array, without a call of CUDA."""
        return NoArray(shape, dtype, self.calls)

    def copy(self, target: Any, source: Any) -> None:
        """A copy."""
        self.calls["copy"] += 1

    def stream_id(self) -> int:
        """Always the same."""
        return 0

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def free_bytes(self) -> int:
        """All of it."""
        return self.card.memory_bytes


def open_searcher() -> tuple[GpuSearcher, RecordingDevice]:
    """A small index: the host's work does not depend on its items."""
    rng = np.random.default_rng(0)
    codebook = rng.standard_normal((16, 256, DIM // 16)).astype(np.float32)
    quantization = Quantization(rng.standard_normal((N_LISTS, DIM)).astype(np.float32), codebook)
    codes = ItemCodes(
        np.arange(N_ITEMS),
        np.arange(N_ITEMS, dtype=np.int32) % N_LISTS,
        rng.integers(0, 256, (N_ITEMS, 16), dtype=np.uint8),
    )
    params = IVFPQParams(n_lists=N_LISTS, pq_dim=16, n_probes=N_PROBES)
    device = RecordingDevice()
    index = Index.from_codes(params, quantization, codes)
    return GpuSearcher(index, device), device


def measure(searcher: GpuSearcher, device: RecordingDevice, batch: int) -> dict[str, Any]:
    """Microseconds of a ``search_padded``, a median, and what it asks the device for."""
    queries = NoArray((batch, DIM), np.float32, device.calls)

    def search() -> None:
        searcher.search_padded(queries, k=K, n_probes=N_PROBES)

    search()  # plans, records
    device.calls.clear()
    search()
    calls = dict(device.calls)
    rounds = []
    for _ in range(ROUNDS):
        n, started = 0, time.perf_counter()
        while (seconds := time.perf_counter() - started) < LEAST_SECONDS / ROUNDS:
            search()
            n += 1
        rounds.append(seconds / n * 1e6)
    return {"batch": batch, "microseconds": statistics.median(rounds), **calls}


def main(arguments: list[str] | None = None) -> None:
    """Print a row a batch."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--cupy", type=float, default=CUPY_MICROSECONDS, help="assumed, each call")
    parser.add_argument("--output", type=Path, default=Path("results/host_time.json"))
    options = parser.parse_args(arguments)
    searcher, device = open_searcher()
    rows = [measure(searcher, device, batch) for batch in options.batches]
    print(f"merlin_poeem {Path(merlin_poeem.__file__).parent}, k {K}, {N_PROBES} probes")
    print(f"{'batch':>6} {'our µs':>8} {'launches':>9} {'copies':>7} {'allocations':>12}", end=" ")
    print(f"{'with CuPy, assumed':>19}")
    for row in rows:
        launches, copies = row.get("launch", 0), row.get("copy", 0)
        allocations = row.get("allocation", 0)
        modelled = row["microseconds"] + options.cupy * (launches + copies + allocations)
        row["modelled_microseconds"] = modelled
        print(f"{row['batch']:6} {row['microseconds']:8.1f} {launches:9} {copies:7}", end=" ")
        print(f"{allocations:12} {modelled:19.0f}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
