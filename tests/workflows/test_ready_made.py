"""MovieLens' embeddings as csv files: written, read, indexed, compared, told by title."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from merlin_poeem import open_searcher, save_index
from merlin_poeem.evaluate import recall_at_k
from merlin_poeem.frames.columns import read_vectors
from merlin_poeem.frames.items import like_rows, with_items
from merlin_poeem.frames.ready_made import index_frame, with_vectors
from workflows import ready_made, recommend
from workflows.movielens.data import MovieLens, read

faiss = pytest.importorskip("faiss")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make small problems slow on a busy machine."""
    n_threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(n_threads)


@pytest.fixture(scope="module")
def data() -> MovieLens:
    return ready_made.simulate()


def test_simulated_tastes(data: MovieLens) -> None:
    assert not pd.concat([data.train, data.test]).duplicated().any()
    users, films = ready_made.factorise(data)
    comparison = ready_made.compare(users, films, data, seed=0)
    best = {row["method"]: row for row in comparison.rows}  # the last: all lists probed
    assert list(best) == ["exact", "Faiss IVF-PQ", "merlin_poeem"]
    assert best["exact"]["recall_at_20"] > 0.3  # at random: 0.07
    assert best["merlin_poeem"]["recall_at_20"] > 0.97 * best["exact"]["recall_at_20"]
    assert best["merlin_poeem"]["agreement"] > 0.9
    assert best["Faiss IVF-PQ"]["bytes_per_item"] == 10
    assert best["merlin_poeem"]["bytes_per_item"] == 11  # a scale is a byte


def test_csv_round_trip_is_exact(data: MovieLens, tmp_path: Path) -> None:
    written = ready_made.factorise(data)
    for frame, path in zip(written, ready_made.write(*written, tmp_path), strict=True):
        again = pd.read_csv(path)
        ids = again.columns[0]
        np.testing.assert_array_equal(again[ids], frame[ids])
        np.testing.assert_array_equal(
            read_vectors(again, "embedding"), read_vectors(frame, "embedding")
        )


def test_film_to_films_are_of_its_kind(data: MovieLens) -> None:
    _, films = ready_made.factorise(data)
    index = ready_made.index_films(films, data.items, metric="cosine")
    found = with_items(like_rows(open_searcher(index), with_vectors(films), k=5), index)
    own = found[["like"]].merge(data.items, left_on="like", right_on="item_id")["genres"].str[0]
    assert (own == found["genres"].str[0]).mean() > 0.8


def test_recommend_by_title(
    data: MovieLens,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, films = ready_made.factorise(data)
    index = ready_made.index_films(films, data.items, metric="cosine")
    titles = index.item_table["title"].tolist()[:2]
    found = recommend.like_items(open_searcher(index), titles, k=3)
    assert found["like"].tolist() == [titles[0]] * 3 + [titles[1]] * 3
    assert not (found["like"] == found["title"]).any()
    command = ["recommend", "--index", str(tmp_path / "films.index"), "--similar-to", titles[0]]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)  # of another test, where it is
    save_index(index, tmp_path / "films.index")
    recommend.main()
    assert f"Like {titles[0]}\n   1. Film" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*command, "--refine", "2"])
    with pytest.raises(ValueError, match="refine: expected 0 or None in an index without vectors"):
        recommend.main()
    vectors = np.stack([index.decode([item_id])[0] for item_id in index.item_ids])
    looks = index.with_vectors(index.item_ids, -vectors)  # whose best are the others' worst
    save_index(looks, tmp_path / "films.index")
    for refine in (2, 0):
        monkeypatch.setattr(sys, "argv", [*command, "--refine", str(refine)])
        recommend.main()
        scores = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if "[" in line]
        assert all(score.startswith("-") == (refine > 0) for score in scores)
    monkeypatch.setattr(sys, "argv", command)
    save_index(index_frame(films), tmp_path / "films.index")
    with pytest.raises(ValueError, match="index: expected an item table with titles, got none"):
        recommend.main()


def test_command(
    data: MovieLens,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ready_made, "read", lambda folder, variant: data)
    options = ["--data", str(tmp_path), "--results", str(tmp_path), "--variant", "1m"]
    ready_made.main(options)
    printed = capsys.readouterr().out
    for expected in ("For user 10:", "Like user 10: [", "Like film 1:", "merlin_poeem"):
        assert expected in printed
    rows = json.loads((tmp_path / f"ready_made-{data.name}.json").read_text())["rows"]
    assert {"agreement", "recall_at_20", "n_probes", "bytes_per_item"} <= set(rows[-1])


def test_command_ends_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"FileNotFoundError: .*expected a folder with ml-1m"):
        ready_made.main(["--data", str(tmp_path / "absent")])


def test_real_1m(dataset_dir: Callable[[str], Path]) -> None:
    data = read(dataset_dir("ml-1m"), "1m")
    users, films = ready_made.factorise(data)
    assert (len(users), films["item_id"].max()) == (6040, 3952)
    index = ready_made.index_films(films, data.items)
    judged = users.head(500)
    relevant = [
        data.test["item_id"][data.test["user_id"] == i].to_numpy() for i in judged["user_id"]
    ]
    seen = [data.train["item_id"][data.train["user_id"] == i].to_numpy() for i in judged["user_id"]]
    queries = read_vectors(judged, "embedding")
    found = open_searcher(index).search(queries, k=20, exclude=seen)
    assert recall_at_k(found, relevant, 20) > 0.19  # exact search: 0.206 over all users
    similar = ready_made.index_films(films, data.items, metric="cosine")
    like_toy_story = like_rows(
        open_searcher(similar), with_vectors(films[films["item_id"] == 1]), k=10
    )
    assert "Aladdin (1992)" in with_items(like_toy_story, similar)["title"].tolist()
