"""A client as an application writes it: raw rows in, ids and titles out, by gRPC."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

EXCLUDE = "exclude"


class Client:
    """Asks one model; of one thread."""

    def __init__(self, address: str, model: str) -> None:
        self._client = grpc.InferenceServerClient(address)
        self._model = model
        told = self._client.get_model_metadata(model)
        self._datatypes = {one.name: one.datatype for one in told.inputs}

    def ask(
        self,
        users: pd.DataFrame,
        *,
        k: int,
        exclude: Sequence[Sequence[str]] | None = None,
        outputs: Sequence[str] = ("item_ids", "titles", "scores", "counts"),
    ) -> tuple[dict[str, np.ndarray], int]:
        """The outputs for raw rows of users, (n, k) each but ``counts``; and the model's version.

        Columns that the model does not know are left out; a null text is an empty one.
        """
        inputs = [self._column(users, name) for name in users if name in self._datatypes]
        inputs.append(self._tensor("k", np.full((len(users), 1), k, np.int32)))
        if exclude is not None:
            inputs += self._lists(EXCLUDE, exclude)
        wanted = [grpc.InferRequestedOutput(name) for name in outputs]
        found = self._client.infer(self._model, inputs, outputs=wanted)
        version = int(found.get_response().model_version)
        return {name: found.as_numpy(name) for name in outputs}, version

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _column(self, users: pd.DataFrame, name: str) -> Any:
        column = users[name]
        dtype = triton_to_np_dtype(self._datatypes[name])
        if dtype == np.object_:
            values = column.fillna("").str.encode("utf-8").to_numpy(object)
        else:
            values = column.to_numpy(dtype)
        return self._tensor(name, values.reshape(-1, 1))

    def _lists(self, name: str, lists: Sequence[Sequence[str]]) -> list[Any]:
        """A matrix of keys as wide as the longest list, and how many of each row count."""
        counts = np.array([len(row) for row in lists], np.int32).reshape(-1, 1)
        matrix = np.full((len(lists), counts.max(initial=0)), b"", object)
        for filled, row in zip(matrix, lists, strict=True):
            filled[: len(row)] = [key.encode() for key in row]
        return [self._tensor(name, matrix), self._tensor(f"{name}_count", counts)]

    def _tensor(self, name: str, array: np.ndarray) -> Any:
        tensor = grpc.InferInput(name, array.shape, self._datatypes[name])
        tensor.set_data_from_numpy(array)
        return tensor


@dataclass
class Load:
    """What several clients saw that asked without a pause."""

    seconds: list[float] = field(default_factory=list)
    versions: Counter[int] = field(default_factory=Counter)
    """Answers of each version."""
    failures: list[str] = field(default_factory=list)
    duration: float = 0.0
    """Seconds in all."""

    def __str__(self) -> str:
        p50, p99 = 1e3 * np.percentile(self.seconds, (50, 99))
        versions = ", ".join(f"{n:,} by version {v}" for v, n in sorted(self.versions.items()))
        return (
            f"{len(self.seconds):,} answers in {self.duration:.1f} s ({versions}), "
            f"{len(self.failures)} failed; p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
            f"{len(self.seconds) / self.duration:,.0f} requests/s"
        )


@contextmanager
def under_load(
    address: str, model: str, users: pd.DataFrame, *, k: int, clients: int
) -> Iterator[Load]:
    """Clients ask for one user after the other within the block; filled when it ends."""
    load, stop, started = Load(), threading.Event(), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        asking: list[Future[Load]] = [
            pool.submit(_ask_on, address, model, users[number::clients], k, stop)
            for number in range(clients)
        ]
        try:
            yield load
        finally:
            stop.set()
    load.duration = time.perf_counter() - started
    for each in asking:
        part = each.result()
        load.seconds += part.seconds
        load.failures += part.failures
        load.versions += part.versions


def _ask_on(address: str, model: str, users: pd.DataFrame, k: int, stop: threading.Event) -> Load:
    found, client, number = Load(), Client(address, model), 0
    rows = [users[i : i + 1] for i in range(len(users))]
    while not stop.is_set():
        started = time.perf_counter()
        try:
            _, version = client.ask(rows[number % len(rows)], k=k, outputs=("item_ids", "scores"))
        except InferenceServerException as error:
            found.failures.append(str(error))
        else:
            found.seconds.append(time.perf_counter() - started)
            found.versions[version] += 1
        number += 1
    client.close()
    return found
