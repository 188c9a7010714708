"""Search on a cluster of worker processes, one of which dies in the middle."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

import dask.dataframe as dd  # noqa: E402

from merlin_poeem import (  # noqa: E402
    Index,
    IVFPQParams,
    open_searcher,
    save_index,
    search_frame,
)
from merlin_poeem.distributed import index_ddf, search_ddf, shard_index  # noqa: E402
from tests.index_factories import random_index, random_queries  # noqa: E402

N, N_PARTS = 60, 6
WAIT = 120  # seconds, for what takes one
ASKED: dict[str, Any] = {"k": 20, "n_probes": 5, "query_id": "user", "backend": "reference"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = str(tmp_path_factory.mktemp("workers"))
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            processes=True,
            dashboard_address=None,
            local_directory=folder,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def index() -> Index:
    return random_index(n_items=400, n_repeated=300)


@pytest.fixture(scope="module")
def frame(index: Index) -> pd.DataFrame:
    columns = {"user": np.arange(N), "embedding": list(random_queries(index, N))}
    return pd.DataFrame(columns)


@pytest.fixture(scope="module", params=["whole", "shards"])
def path(request: pytest.FixtureRequest, index: Index, tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("saved") / request.param
    if request.param == "shards":
        shard_index(index, 3, path)
    else:
        save_index(index, path)
    return path


def parts_of(frame: pd.DataFrame) -> list[pd.DataFrame]:
    rows = len(frame) // N_PARTS
    return [frame.iloc[i * rows : (i + 1) * rows] for i in range(N_PARTS)]


def in_tasks(read: Any, frame: pd.DataFrame, *args: Any) -> Any:
    """A Dask frame whose partitions are ``read(part, *args)``, on a worker."""
    parts = [dask.delayed(read)(part, number, *args) for number, part in enumerate(parts_of(frame))]
    with dask.config.set({"dataframe.convert-string": False}):
        return dd.from_delayed(parts, meta=frame.iloc[:0])


def read(part: pd.DataFrame, number: int) -> pd.DataFrame:
    return part


def read_when_told(part: pd.DataFrame, number: int, told: str) -> pd.DataFrame:
    """The last partition: waits for the file ``told``, so that the search cannot end before."""
    give_up = time.monotonic() + WAIT
    while number == N_PARTS - 1 and not Path(told).exists():
        if time.monotonic() > give_up:
            raise TimeoutError(f"expected {told} within {WAIT} s")
        time.sleep(0.05)
    return part


def a_worker_that_holds_results(client: Any) -> str:
    """The address of a worker that holds what a partition's search found."""
    give_up = time.monotonic() + WAIT
    while time.monotonic() < give_up:
        for worker, keys in client.has_what().items():
            if any("search" in str(key) for key in keys):
                return str(worker)
        time.sleep(0.05)
    raise TimeoutError(f"expected a worker with results within {WAIT} s: {client.has_what()}")


def expected(index: Index, frame: pd.DataFrame) -> pd.DataFrame:
    asked = {name: value for name, value in ASKED.items() if name != "backend"}
    searcher = open_searcher(index, "reference")
    return pd.concat([search_frame(searcher, part, **asked) for part in parts_of(frame)])


def test_workers_find_what_one_process_finds(
    client: Any, index: Index, frame: pd.DataFrame, path: Path
) -> None:
    found = search_ddf(path, in_tasks(read, frame), **ASKED).compute()
    pd.testing.assert_frame_equal(found, expected(index, frame))


def test_items_are_encoded_on_workers(client: Any) -> None:
    index = random_index()
    vectors = random_queries(index, N)
    items = pd.DataFrame({"item_id": np.arange(N), "embedding": list(vectors)})
    params: IVFPQParams = index.params
    got = index_ddf(in_tasks(read, items), params, index.quantization)
    whole = Index.from_vectors(params, index.quantization, np.arange(N), vectors)
    np.testing.assert_array_equal(got.item_ids, whole.item_ids)
    np.testing.assert_array_equal(got.codes, whole.codes)


def test_a_lost_worker_s_part_is_found_again(
    client: Any, index: Index, frame: pd.DataFrame, tmp_path: Path
) -> None:
    shard_index(index, 3, tmp_path / "shards")
    told = tmp_path / "told"
    processes = client.run(os.getpid)
    ddf = in_tasks(read_when_told, frame, str(told))
    searched = client.compute(search_ddf(tmp_path / "shards", ddf, **ASKED))
    os.kill(processes[a_worker_that_holds_results(client)], signal.SIGKILL)
    told.touch()
    pd.testing.assert_frame_equal(searched.result(timeout=WAIT), expected(index, frame))
