"""A process that has searched and then forks: its children answer as it does, and none waits.

OpenMP's, Arrow's and BLAS' threads are gone in a child, and so are all that other libraries hold.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from merlin_poeem import (
    Candidates,
    IVFPQParams,
    Searcher,
    fit,
    index_frame,
    load_index,
    open_searcher,
    save_index,
    with_items,
)
from merlin_poeem.convert.faiss import from_faiss, to_faiss
from merlin_poeem.evaluate import exact_search
from merlin_poeem.frames.text_index import TextIndex
from merlin_poeem.quantization import openmp
from merlin_poeem.quantization.params import METRICS
from tests.index_factories import random_index, random_queries

faiss = pytest.importorskip("faiss")

# Python 3.12 warns of what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

PATIENCE_S = 60
DIM = 16
N_ITEMS = 600
N_THREADS = 3
# Of one thread, of OpenMP's, of the searcher's own; a matrix product in Faiss starts at 20.
BATCHES = (0, 1, 2, 8, 19, 20, 32, 33, 200, 1000)


def rotation_of(vectors: np.ndarray) -> np.ndarray:
    params = IVFPQParams(n_lists=4, pq_dim=4, pq_bits=4)
    rotation = fit(params, vectors).rotation
    assert rotation is not None
    return rotation


@pytest.fixture(autouse=True, scope="module")
def threads_in_use() -> Iterator[None]:
    """The parent has used every library with all its threads."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(N_THREADS)
    vectors = np.random.default_rng(0).standard_normal((2000, DIM)).astype(np.float32)
    rotation_of(vectors)
    vectors @ vectors.T
    index_frame(frame_of(json_strings(vectors[:N_ITEMS])))
    yield
    faiss.omp_set_num_threads(before)


def in_child(work: Callable[[], None], report: Path) -> None:
    """``work`` done in a forked child; a test that fails where it raises or does not end."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            report.write_text(traceback.format_exc())
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert not status, f"the child failed: {report.read_text()}"
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail(f"the child did not end in {PATIENCE_S} s")


@pytest.fixture
def forked(tmp_path: Path) -> Callable[[Callable[[], None]], None]:
    """Runs a function in a child."""
    return lambda work: in_child(work, tmp_path / "report")


def in_new_thread(work: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def assert_same(got: Candidates, expected: Candidates) -> None:
    np.testing.assert_array_equal(got.counts, expected.counts)
    np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-4, atol=1e-4)
    assert (got.item_ids == expected.item_ids).mean() > 0.99 or not len(got.item_ids)


def searches_of(searcher: Searcher, queries: np.ndarray) -> Callable[[], None]:
    """A function that repeats searches of every batch size, all answered here first."""
    expected = {n: searcher.search(queries[:n], k=10) for n in BATCHES}

    def search() -> None:
        for n, answer in expected.items():
            assert_same(searcher.search(queries[:n], k=10), answer)

    return search


def frame_of(embedding: Any) -> pd.DataFrame:
    ids = np.arange(len(embedding))
    titles = [f"item {i}" for i in ids]
    return pd.DataFrame({"item_id": ids, "embedding": embedding, "title": titles})


def json_strings(vectors: np.ndarray) -> list[str]:
    return [str(vector.tolist()) for vector in vectors]


def some_vectors(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N_ITEMS, DIM)).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
def test_searches(metric: str, forked: Any) -> None:
    index = random_index(metric, n_items=3000)
    forked(searches_of(open_searcher(index, "faiss"), random_queries(index, max(BATCHES))))


@pytest.mark.parametrize("metric", METRICS)
def test_searches_of_another_thread(metric: str, forked: Any) -> None:
    index = random_index(metric, n_items=3000)
    search = searches_of(open_searcher(index, "faiss"), random_queries(index, max(BATCHES)))

    def from_either() -> None:
        in_new_thread(search)
        search()
        in_new_thread(search)

    forked(from_either)


def test_a_thread_that_forks(forked: Any) -> None:
    index = random_index("l2", n_items=3000)
    searcher, queries = open_searcher(index, "faiss"), random_queries(index, max(BATCHES))
    in_new_thread(lambda: forked(searches_of(searcher, queries)))


def test_a_child_of_a_child(forked: Any, tmp_path: Path) -> None:
    index = random_index("cosine", n_items=3000)
    search = searches_of(open_searcher(index, "faiss"), random_queries(index, max(BATCHES)))

    def fork_again() -> None:
        in_child(search, tmp_path / "grandchild")
        search()
        assert openmp.n_threads(faiss) == N_THREADS

    forked(fork_again)


def test_large_batches_stay_parallel(forked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    index = random_index()
    searcher, queries, used = open_searcher(index, "faiss"), random_queries(index, 1000), set()
    search_batch = type(searcher)._search_batch

    def record(self: Any, *arguments: Any) -> Any:
        used.add(threading.get_ident())
        time.sleep(0.01)  # long enough for every thread to get a share
        return search_batch(self, *arguments)

    monkeypatch.setattr(type(searcher), "_search_batch", record)

    def search() -> None:
        searcher.search(queries, k=10)
        assert len(used) == N_THREADS

    forked(search)


@pytest.mark.parametrize("metric", METRICS)
def test_opening(metric: str, forked: Any) -> None:
    index = random_index(metric, rotation=True)
    queries = random_queries(index, max(BATCHES))
    expected = open_searcher(index, "faiss").search(queries, k=10)
    forked(lambda: assert_same(open_searcher(index, "faiss").search(queries, k=10), expected))


def test_exported(forked: Any) -> None:
    # Answered by Faiss itself, small batches and large ones.
    index = random_index("l2", n_items=3000)
    queries, exported = random_queries(index, max(BATCHES)), to_faiss(index)

    def search() -> None:
        back = from_faiss(exported)
        for n in BATCHES[1:]:
            for answering in (exported, to_faiss(back)):
                assert (answering.search(queries[:n], 5)[1] >= 0).all()

    search()
    forked(search)


def test_fitting(forked: Any) -> None:
    vectors = some_vectors()
    expected = rotation_of(vectors)
    forked(lambda: np.testing.assert_allclose(rotation_of(vectors), expected, atol=0.1))


@pytest.mark.parametrize("form", [json_strings, list], ids=["json", "lists"])
@pytest.mark.parametrize("metric", METRICS)
def test_frames_and_files(
    metric: str, form: Callable[[np.ndarray], Any], forked: Any, tmp_path: Path
) -> None:
    vectors = some_vectors()

    def whole_way() -> None:
        frame = frame_of(form(vectors))
        index = index_frame(frame, item_table=["title"], metric=metric)  # type: ignore[arg-type]
        save_index(index, tmp_path / "items.index")
        loaded = load_index(tmp_path / "items.index")
        found = open_searcher(loaded, "faiss").search(vectors, k=5, n_probes=loaded.n_lists)
        exact = exact_search(np.arange(N_ITEMS), vectors, vectors, k=5, metric=metric)
        assert np.isin(found.item_ids, exact.item_ids).mean() > 0.5
        items = pd.DataFrame({"item_id": found.item_ids})
        assert (with_items(items, loaded).title == "item " + items.item_id.astype(str)).all()

    whole_way()
    forked(whole_way)


def encoder(texts: list[str]) -> np.ndarray:
    seeds = [zlib.crc32(text.encode()) for text in texts]
    drawn = [np.random.default_rng(seed).standard_normal(DIM) for seed in seeds]
    return np.array(drawn, np.float32).reshape(-1, DIM)


@pytest.mark.parametrize("project_to", [None, 8])
def test_texts(project_to: int | None, forked: Any) -> None:
    if project_to is not None:
        pytest.importorskip("sklearn")
    frame = pd.DataFrame({"item_id": range(300), "text": [f"text {i}" for i in range(300)]})

    def search() -> None:
        built = TextIndex.build(frame, encoder, project_to=project_to, backend="faiss")
        found = built.search(["text 5", "text 17"], k=3)
        assert found[found["rank"] == found["rank"].min()].text.tolist() == ["text 5", "text 17"]

    search()
    forked(search)


def test_threads_of_dask(forked: Any, tmp_path: Path) -> None:
    dask = pytest.importorskip("dask")
    import dask.dataframe as dd

    from merlin_poeem.distributed import search_ddf

    index = random_index()
    save_index(index, tmp_path / "items.index")
    queries = pd.DataFrame({"embedding": list(random_queries(index, 40))})

    def search() -> pd.DataFrame:
        with dask.config.set({"dataframe.convert-string": False}), ThreadPoolExecutor(2) as pool:
            frame = dd.from_pandas(queries, npartitions=4)
            found = search_ddf(tmp_path / "items.index", frame, k=5, backend="faiss")
            # A pool of its own: Dask's is gone in a child, and Dask waits for it.
            return found.compute(scheduler="threads", pool=pool)

    expected = search()
    forked(lambda: pd.testing.assert_frame_equal(search(), expected))
