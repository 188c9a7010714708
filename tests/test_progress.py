"""Bars: for work that takes long and nothing else, on stderr, without a part in the results."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from merlin_poeem import (
    FlatIndex,
    Index,
    IVFPQParams,
    TextIndex,
    fit,
    index_frame,
    like_items,
    like_rows,
    open_searcher,
    refit,
    search_frame,
    tune,
)
from merlin_poeem import progress as bars
from merlin_poeem.evaluate import exact_search
from merlin_poeem.frames import portions, text_index
from merlin_poeem.frames.text_index import embed
from merlin_poeem.progress import Progress

faiss = pytest.importorskip("faiss")

N, DIM, K = 300, 8, 5
PARAMS = IVFPQParams(n_lists=4, pq_dim=4, pq_bits=4, n_probes=2)
IDS = np.arange(N)
VECTORS = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
FRAME = pd.DataFrame({"item_id": IDS, "embedding": list(VECTORS)})
TEXTS = pd.DataFrame({"item_id": IDS, "text": [f"text {i}" for i in IDS]})


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make small problems slow on a busy machine."""
    n_threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(n_threads)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "PORTION", 70)
    monkeypatch.setattr(text_index, "BATCH_SIZE", 70)


def encoder(texts: list[str]) -> np.ndarray:
    """A text's vector is drawn by it; whatever comes beside it."""
    return np.stack(
        [np.random.default_rng(list(text.encode())).standard_normal(DIM) for text in texts]
    ).astype(np.float32)


def made(index: Index) -> list[Any]:
    return [index.codes, index.item_ids, index.quantization.codebook]


QUANTIZATION = fit(PARAMS, VECTORS)
INDEX = Index.from_vectors(PARAMS, QUANTIZATION, IDS, VECTORS)
FLAT = FlatIndex.from_vectors(IDS, VECTORS)
SEARCHER = open_searcher(INDEX, "faiss")

# The bars that each draws, and its results.
WORK: dict[str, tuple[list[str], Callable[[bool], list[Any]]]] = {
    "fit": (["fit"], lambda progress: [fit(PARAMS, VECTORS, progress=progress).codebook]),
    "refit": (
        ["refit"],
        lambda progress: [refit(QUANTIZATION, VECTORS, progress=progress).codebook],
    ),
    "from_vectors": (
        ["encode"],
        lambda progress: made(
            Index.from_vectors(PARAMS, QUANTIZATION, IDS, VECTORS, progress=progress)
        ),
    ),
    "index_frame": (
        ["fit", "encode"],
        lambda progress: made(index_frame(FRAME, PARAMS, progress=progress)),
    ),
    "search_frame": (
        ["search"],
        lambda progress: [search_frame(SEARCHER, FRAME, k=K, progress=progress)],
    ),
    "like_rows": (
        ["search"],
        lambda progress: [like_rows(SEARCHER, FRAME, k=K, progress=progress)],
    ),
    "like_items": (
        ["search"],
        lambda progress: [like_items(SEARCHER, IDS, k=K, progress=progress)],
    ),
    "exact_search": (
        ["exact search"],
        lambda progress: [exact_search(IDS, VECTORS, VECTORS, k=K, progress=progress).item_ids],
    ),
    "tune": (
        ["tune"],
        lambda progress: [
            tune(INDEX, VECTORS, K, target=0.5, exact=FLAT, progress=progress).settings
        ],
    ),
    "embed": (
        ["encode"],
        lambda progress: [np.stack(embed(TEXTS, encoder, progress=progress)["embedding"])],
    ),
    "TextIndex.build in partitions": (
        ["encode", "fit", "encode"],
        lambda progress: made(
            TextIndex.build(TEXTS, encoder, n_partitions=3, progress=progress).index
        ),
    ),
    "TextIndex.build": (
        ["encode", "fit", "encode"],
        lambda progress: made(TextIndex.build(TEXTS, encoder, progress=progress).index),
    ),
}


def drawn(text: str) -> list[str]:
    """The works whose bars are in ``text``, each once, in their order."""
    names = [line.partition(":")[0] for line in text.replace("\r", "\n").split("\n") if line]
    return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]


@pytest.mark.parametrize("name", WORK)
def test_long_work_shows_a_bar(name: str, long_work: None, capsys: Any) -> None:
    expected, work = WORK[name]
    results = [np.asarray(each) for each in work(True)]
    shown = capsys.readouterr()
    assert drawn(shown.err) == expected
    assert "100%" in shown.err or name == "tune"  # which may have enough before
    assert not shown.out
    for result, without in zip(results, work(False), strict=True):
        np.testing.assert_array_equal(result, np.asarray(without))
    assert not capsys.readouterr().err


def test_short_work_shows_nothing(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(bars, "DELAY", 600)  # short is what ends before, on a busy machine too
    for _, work in WORK.values():
        work(True)
    assert capsys.readouterr() == ("", "")


def test_short_work_does_not_import_tqdm() -> None:
    code = (
        "import sys; from merlin_poeem.progress import Progress\n"
        "with Progress('search', 3, 'queries') as bar: bar.update()\n"
        "assert 'tqdm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_bar_appears_in_the_middle_of_a_long_step(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(bars, "DELAY", 0.01)
    with Progress("fit", 3, "steps") as bar:
        bar.doing("lists")
        bar.update()
        err, deadline = "", time.monotonic() + 30
        while not err and time.monotonic() < deadline:
            time.sleep(0.01)
            err = capsys.readouterr().err
        assert "fit:  33%" in err
        assert "1/3" in err
        assert "lists" in err
        bar.update(2)
    assert "fit: 100%" in capsys.readouterr().err


def test_without_tqdm_there_is_no_bar(
    long_work: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with Progress("fit", 3, "steps") as bar:
        bar.doing("lists")
        bar.update()
    assert not capsys.readouterr().err


def test_no_bar_appears_after_the_work(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    late: list[Callable[[], None]] = []

    def timer(_: float, function: Callable[[], None]) -> Any:
        return SimpleNamespace(start=lambda: late.append(function), cancel=lambda: None)

    monkeypatch.setattr(bars, "Timer", timer)
    with pytest.raises(KeyError), Progress("fit", 3, "steps"):
        raise KeyError
    late[0]()
    assert not capsys.readouterr().err


def test_another_process_gets_a_copy_that_draws_nothing(long_work: None, capsys: Any) -> None:
    with Progress("search", 3, "queries") as bar:
        copy = pickle.loads(pickle.dumps(bar))
        with copy:
            copy.update(2)
        bar.update()
    err = capsys.readouterr().err
    assert drawn(err) == ["search"]
    assert "1/3" in err
    assert "2/3" not in err


@pytest.mark.parametrize("form", ["long", "list"])
def test_portions_are_searches_of_their_own(form: str) -> None:
    rng = np.random.default_rng(1)
    lists = [rng.choice(IDS, rng.integers(9)).tolist() for _ in range(N)]
    frame = FRAME.assign(seen=[None, *lists[1:]], known=[IDS[i % 2 :: 2] for i in range(N)])
    asked = {"k": K, "query_id": "item_id", "exclude": "seen", "allow": "known", "form": form}
    frame = frame.rename(columns={"item_id": "user"})
    asked["query_id"] = "user"
    found = search_frame(SEARCHER, frame, **asked)
    parts = [search_frame(SEARCHER, frame.iloc[i : i + 70], **asked) for i in range(0, N, 70)]
    expected = pd.concat(parts, ignore_index=True)
    pd.testing.assert_frame_equal(found, expected)


def test_all_rows_have_the_same_ids_in_every_portion() -> None:
    found = search_frame(SEARCHER, FRAME, k=N, n_probes=4, allow=range(9), exclude={3, 4})
    assert found.groupby("query_id")["item_id"].apply(set).tolist() == [{0, 1, 2, 5, 6, 7, 8}] * N


def test_a_device_takes_all_queries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def search(queries: np.ndarray, **options: Any) -> Any:
        asked.append(len(queries))
        return SEARCHER.search(queries, **options)

    device = SimpleNamespace(index=INDEX, backend="gpu", on_device=True, search=search)
    search_frame(device, FRAME, k=K)
    assert asked == [N]
    device.on_device = False
    search_frame(device, FRAME, k=K)
    assert asked[1:] == [70, 70, 70, 70, 20]
