"""What is timed: a model on the server, asked by gRPC, and ``search_frame`` without one."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import np_to_triton_dtype

from benchmarks.serving.in_process import spans_of, timed

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = ("item_ids", "scores")
Tensors = dict[str, np.ndarray]


class Contender(Protocol):
    """One that answers queries, in batches of the same ones as the others."""

    name: str

    def latencies(self, batch: int, count: int) -> list[float]:
        """Seconds of each of ``count`` requests, one after the other."""
        ...

    def rate(self, batch: int, seconds: float) -> float:
        """Requests a second where the next is asked for while one is answered."""
        ...


@dataclass(frozen=True)
class Served:
    """A model on a Triton server."""

    name: str
    address: str
    model: str
    n_queries: int
    tensors: Callable[[slice], Tensors]
    """The tensors of a request for some of the queries."""
    clients: int

    def item_ids(self, rows: slice) -> np.ndarray:
        """(n, k) ids of the items found for these queries."""
        with grpc.InferenceServerClient(self.address) as client:
            return np.asarray(self._ask(client, self._request(rows)).as_numpy("item_ids"))

    def latencies(self, batch: int, count: int) -> list[float]:
        """See :meth:`Contender.latencies`; requests are put together before the clock starts."""
        with grpc.InferenceServerClient(self.address) as client:
            return timed(self._asking(client, batch), spans_of(self.n_queries, batch), count=count)

    def rate(self, batch: int, seconds: float) -> float:
        """See :meth:`Contender.rate`: all ``clients`` ask without a pause."""

        def ask_on(number: int) -> int:
            spans = spans_of(self.n_queries, batch)
            for _ in range(number):
                next(spans)
            with grpc.InferenceServerClient(self.address) as client:
                return len(timed(self._asking(client, batch), spans, during=seconds))

        with ThreadPoolExecutor(self.clients) as pool:
            started = time.perf_counter()
            answered = sum(pool.map(ask_on, range(self.clients)))
            return answered / (time.perf_counter() - started)

    def _asking(self, client: Any, batch: int) -> Callable[[slice], Any]:
        spans = spans_of(self.n_queries, batch)
        first = [next(spans) for _ in range(min(256, self.n_queries // batch))]
        requests = {rows.start: self._request(rows) for rows in first}

        def ask(rows: slice) -> Any:
            request = requests.get(rows.start)
            return self._ask(client, self._request(rows) if request is None else request)

        return ask

    def _ask(self, client: Any, inputs: list[Any]) -> Any:
        outputs = [grpc.InferRequestedOutput(name) for name in OUTPUTS]
        return client.infer(self.model, inputs, outputs=outputs)

    def _request(self, rows: slice) -> list[Any]:
        inputs = []
        for name, array in self.tensors(rows).items():
            inputs.append(grpc.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
            inputs[-1].set_data_from_numpy(array)
        return inputs


@dataclass(frozen=True)
class InProcess:
    """``search_frame`` in a process of its own, without a server."""

    name: str
    process: subprocess.Popen[str]

    def latencies(self, batch: int, count: int) -> list[float]:
        """See :meth:`Contender.latencies`."""
        return self._timed(batch=batch, count=count)

    def rate(self, batch: int, seconds: float) -> float:
        """See :meth:`Contender.rate`, of one thread."""
        found = self._timed(batch=batch, during=seconds)
        return len(found) / sum(found)

    def _timed(self, **asked: float) -> list[float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return list(json.loads(self.process.stdout.readline())["seconds"])


@contextmanager
def in_process(
    name: str, python: Path, index: Path, queries: Path, k: int, n_probes: int, threads: int
) -> Iterator[InProcess]:
    """``search_frame`` by another Python, until the block ends."""
    command: list[Any] = [python, "-m", "benchmarks.serving.in_process", index, queries]
    command += [f"--k={k}", f"--n-probes={n_probes}", f"--threads={threads}"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield InProcess(name, process)
        finally:
            process.terminate()
