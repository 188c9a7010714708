"""The headline search: its reader, its command, all of the publisher's rows where they are."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from workflows import headlines
from workflows.headlines import build, read, simulate

faiss = pytest.importorskip("faiss")

ROWS = [
    "publish_date,headline_text",
    "20030219,act fire witnesses must be aware",
    '20030219,"floods, fires and storms"',
    "2003021,too short a date",
    "20030220,",
    "20030220,a,b",
    "20030221, act fire witnesses must be aware ",
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make small problems slow on a busy machine."""
    n_threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(n_threads)


def letters(texts: list[str]) -> np.ndarray:
    """How often each letter comes: an encoder that needs no package."""
    codes = [np.frombuffer(text.encode(), np.uint8) % 32 for text in texts]
    return np.stack([np.bincount(code, minlength=32) for code in codes]).astype(np.float32)


class TestRead:
    @pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
    def test_counts_what_it_drops(self, tmp_path: Path, suffix: str) -> None:
        (tmp_path / "abcnews").mkdir()
        path = tmp_path / "abcnews" / f"abcnews-date-text.{suffix}"
        content = "\n".join(ROWS).encode() + b"\n"
        path.write_bytes(gzip.compress(content) if suffix == "csv.gz" else content)
        for place in (path, path.parent, tmp_path):
            found = read(place)
            assert found.n_rows == 6
            assert found.frame["item_id"].tolist() == [0, 1, 5]
            assert found.frame["item_id"].dtype == found.frame["publish_date"].dtype == np.int64
            assert found.frame["headline_text"].tolist() == [
                "act fire witnesses must be aware",
                "floods, fires and storms",
                "act fire witnesses must be aware",
            ]
        assert str(found) == (
            "3 headlines of 6 rows; dropped: 1 without a date of eight digits, "
            "1 without a headline, 1 without 2 fields"
        )

    def test_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"or a folder with abcnews-date-text\.csv\.gz"):
            read(tmp_path)
        path = tmp_path / "some.csv"
        path.write_text("date,text\n20030219,a\n")
        with pytest.raises(ValueError, match=r"expected the columns .* got \['date', 'text'\]"):
            read(path)
        path.write_text("publish_date,headline_text\nnever,a\n")
        with pytest.raises(ValueError, match="expected at least one headline, got none"):
            read(path)

    def test_a_stray_quote_takes_no_other_row(self, tmp_path: Path) -> None:
        path = tmp_path / "some.csv"
        path.write_text('publish_date,headline_text\n20030219,"a\n20030219,b\n20030219,c"\n')
        assert read(path).frame["headline_text"].tolist() == ["a", "b", 'c"']

    def test_a_download_cut_off(self, tmp_path: Path) -> None:
        path = tmp_path / "abcnews-date-text.csv.gz"
        path.write_bytes(gzip.compress("\n".join(ROWS).encode())[:-9])
        with pytest.raises(ValueError, match="expected a whole csv file, got damage: Comp"):
            read(path)

    def test_all_rows(self, dataset_dir: Callable[[str], Path]) -> None:
        found = read(dataset_dir("abcnews"))
        assert (len(found.frame), found.n_rows, found.dropped) == (74_399, 74_399, {})
        first, last = found.frame["headline_text"].iloc[[0, -1]]
        assert first == "aba decides against community broadcasting licence"
        assert last == "call to boost community care options for elderly"


class TestBuild:
    def test_simulated(self) -> None:
        frame = simulate(500)
        texts = build(frame, letters, project_to=24, n_partitions=2)
        found = texts.search(frame["headline_text"].tolist()[:40], k=1)
        assert (found["query"] == found["headline_text"]).all()
        assert found["publish_date"].between(20030219, 20030228).all()

    def test_simulation_is_seeded(self) -> None:
        assert simulate(50).equals(simulate(50))
        assert not simulate(50).equals(simulate(50, seed=1))


class TestCommand:
    def test_indexes_saves_searches_and_loads(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(headlines, "open_encoder", {"letters": letters}.__getitem__)
        (tmp_path / "abcnews-date-text.csv").write_text("\n".join(ROWS))
        index = ["--index", str(tmp_path / "h.index"), "--encoder", "letters", "--k", "1"]
        headlines.main([*index, "--data", str(tmp_path)])
        printed = capsys.readouterr()
        assert "3 headlines of 6 rows" in printed.out
        assert "Saved" in printed.out
        assert "confronting global challenges\n   1." in printed.out
        headlines.main([*index, "--load", "--query", "floods and fires"])
        assert "floods and fires\n   1." in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--encoder", "bert"], "encoder: expected wordllama, tf-hub:HANDLE"),
            (["--encoder", "tf-hub:x"], "needs tensorflow-hub: pip install tensorflow-hub"),
        ],
    )
    def test_ends_with_one_line(self, options: list[str], message: str) -> None:
        with pytest.raises(SystemExit, match=message):
            headlines.main(options)

    def test_needs_data(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(headlines, "open_encoder", lambda name: letters)
        with pytest.raises(SystemExit, match="--data: expected the file or its folder, got none"):
            headlines.main([])
