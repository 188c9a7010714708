"""MovieLens: reading both variants and refusing damaged ones; the whole job, tiny and real."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest

tf = pytest.importorskip("tensorflow")

from merlin.models.tf.core.base import PredictionOutput  # noqa: E402
from merlin.schema import Tags  # noqa: E402

from merlin_poeem import load_index, open_searcher  # noqa: E402
from workflows import movielens, movielens_data, recommend  # noqa: E402
from workflows.movielens_data import GENRES_100K, MovieLens, download, read  # noqa: E402
from workflows.movielens_features import make_features  # noqa: E402

pytestmark = pytest.mark.left

N_USERS, N_FILMS, RATINGS_EACH = 40, 300, 50
LATIN = "Misérables, Les (1995)"
ROW_KEYS = {
    "method",
    "seed",
    "n_lists",
    "pq_dim",
    "pq_bits",
    "n_probes",
    "bytes_per_item",
    "recall_at_20",
    "ndcg_at_20",
    "max_over_mean_list",
    "items_scanned",
    "build_seconds",
}


def pairs() -> list[tuple[int, int]]:
    """Every user rates films of the own half of the catalog."""
    rng = np.random.default_rng(0)
    half = N_FILMS // 2
    return [
        (user, 1 + int(film) + half * (user % 2))
        for user in range(1, N_USERS + 1)
        for film in rng.choice(half, RATINGS_EACH, replace=False)
    ]


def write(path: Path, lines: list[str]) -> None:
    path.write_bytes(("\n".join(lines) + "\n").encode("latin-1"))


def title(film: int) -> str:
    return LATIN if film == 1 else "Untitled" if film == 2 else f"Film {film} ({1990 + film % 10})"


@pytest.fixture
def ml_1m(tmp_path: Path) -> Path:
    """A folder in the format of MovieLens 1M."""
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    write(folder / "ratings.dat", [f"{u}::{f}::4::9783{f:05d}" for u, f in pairs()])
    users = [f"{u}::{'FM'[u % 2]}::25::{u % 20}::0{u:04d}-12" for u in range(1, N_USERS + 1)]
    write(folder / "users.dat", users)
    films = [
        f"{f}::{title(f)}::{'Drama|War' if f % 2 else 'Comedy'}" for f in range(1, N_FILMS + 1)
    ]
    write(folder / "movies.dat", films)
    return folder


@pytest.fixture
def ml_100k(tmp_path: Path) -> Path:
    """A folder in the format of MovieLens 100K."""
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    write(folder / "u.data", [f"{u}\t{f}\t4\t88125{f:04d}" for u, f in pairs()])
    users = [f"{u}|{20 + u}|{'FM'[u % 2]}|writer|T8H{u}N" for u in range(1, N_USERS + 1)]
    write(folder / "u.user", users)
    flags = {0: "|".join("1" if g == "Comedy" else "0" for g in GENRES_100K)}
    flags[1] = "|".join("1" if g in ("Drama", "War") else "0" for g in GENRES_100K)
    films = [f"{f}|{title(f)}|01-Jan-1995||http://x|{flags[f % 2]}" for f in range(1, N_FILMS + 1)]
    write(folder / "u.item", films)
    return folder


@pytest.fixture(params=["1m", "100k"])
def variant_and_folder(request: pytest.FixtureRequest) -> tuple[str, Path]:
    return request.param, request.getfixturevalue(f"ml_{request.param}")


class TestRead:
    def test_both_variants_come_as_the_same_frames(
        self, variant_and_folder: tuple[str, Path]
    ) -> None:
        variant, folder = variant_and_folder
        data = read(folder, variant)
        assert data.name == folder.name
        assert list(data.items) == ["item_id", "title", "year", "genres"]
        assert data.items["title"].tolist()[:3] == [LATIN, "Untitled", "Film 3 (1993)"]
        assert data.items["year"].tolist()[:3] == [1995, movielens_data.UNKNOWN_YEAR, 1993]
        assert data.items["genres"].tolist()[:2] == [["Drama", "War"], ["Comedy"]]
        assert {"user_id", "gender", "age", "occupation", "zip"} == set(data.users)
        assert data.users["gender"].tolist()[:2] == ["M", "F"]
        found = pd.concat([data.train, data.test]).sort_values(["user_id", "item_id"])
        np.testing.assert_array_equal(found, sorted(pairs()))

    def test_takes_the_folder_above(self, variant_and_folder: tuple[str, Path]) -> None:
        variant, folder = variant_and_folder
        pd.testing.assert_frame_equal(
            read(folder.parent, variant).train, read(folder, variant).train
        )

    def test_a_fifth_drawn_with_the_seed_is_the_test(self, ml_1m: Path) -> None:
        first, again, other = (read(ml_1m, "1m", seed) for seed in (3, 3, 4))
        assert len(first.test) == len(pairs()) // 5
        pd.testing.assert_frame_equal(first.test, again.test)
        assert not first.test.equals(other.test)

    def test_takes_the_prepared_split(self, ml_1m: Path) -> None:
        (ml_1m / "ratings.dat").unlink()
        for part, rows in (("train", pairs()[:-5]), ("test", pairs()[-5:])):
            frame = pd.DataFrame(rows, columns=["user_id", "movie_id"], dtype=np.int32)
            frame.to_parquet(ml_1m / f"interactions_{part}.parquet")
        data = read(ml_1m, "1m")
        np.testing.assert_array_equal(data.test, pairs()[-5:])
        assert data.train.dtypes.tolist() == [np.int64, np.int64]

    def test_accepts_windows_line_ends(self, ml_1m: Path) -> None:
        text = (ml_1m / "movies.dat").read_bytes()
        (ml_1m / "movies.dat").write_bytes(text.replace(b"\n", b"\r\n"))
        assert read(ml_1m, "1m").items["genres"][1] == ["Comedy"]


class TestRefuse:
    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="expected a folder with ml-1m, got none"):
            read(tmp_path / "absent", "1m")

    def test_missing_files_are_all_named(self, variant_and_folder: tuple[str, Path]) -> None:
        variant, folder = variant_and_folder
        for path in folder.iterdir():
            path.unlink()
        expected = {
            "1m": "movies.dat, users.dat, ratings.dat .or interactions_train.parquet and",
            "100k": "u.data, u.item, u.user, got none",
        }
        with pytest.raises(FileNotFoundError, match=expected[variant]):
            read(folder, variant)

    def test_malformed_lines_are_counted_and_shown(
        self, variant_and_folder: tuple[str, Path]
    ) -> None:
        variant, folder = variant_and_folder
        path = folder / ("ratings.dat" if variant == "1m" else "u.data")
        lines = path.read_text().splitlines()
        lines[6], lines[8] = "only one field", lines[8].replace("4", "four", 1)
        write(path, lines)
        with pytest.raises(
            ValueError, match=r"got 2 malformed of 2000 lines \(line 7: 'only one field'; line 9"
        ):
            read(folder, variant)

    def test_an_empty_file(self, ml_1m: Path) -> None:
        (ml_1m / "users.dat").write_bytes(b"")
        with pytest.raises(ValueError, match=r"users\.dat: expected 5 fields .* 1 malformed"):
            read(ml_1m, "1m")

    def test_a_truncated_last_line(self, ml_100k: Path) -> None:
        text = (ml_100k / "u.item").read_bytes()
        (ml_100k / "u.item").write_bytes(text[:-9])
        with pytest.raises(ValueError, match=f"1 malformed of {N_FILMS} lines .line {N_FILMS}"):
            read(ml_100k, "100k")

    def test_a_pair_that_repeats(self, ml_1m: Path) -> None:
        with (ml_1m / "ratings.dat").open("a") as file:
            user, film = pairs()[0]
            file.write(f"{user}::{film}::1::1\n")
        with pytest.raises(ValueError, match="each pair of user and film once; got 1"):
            read(ml_1m, "1m")

    def test_ratings_of_unknown_users_and_films(self, ml_1m: Path) -> None:
        ratings = (ml_1m / "ratings.dat").read_text()
        for line, message in (
            (f"{N_USERS + 1}::1::1::1\n", "every user_id to be described; got 1"),
            (f"1::{N_FILMS + 1}::1::1\n", "every item_id to be described; got 1"),
        ):
            (ml_1m / "ratings.dat").write_text(ratings + line)
            with pytest.raises(ValueError, match=message):
                read(ml_1m, "1m")

    def test_a_film_described_twice(self, ml_1m: Path) -> None:
        with (ml_1m / "movies.dat").open("a") as file:
            file.write("1::Again (1999)::Drama\n")
        with pytest.raises(ValueError, match="films: expected each id once; got 1"):
            read(ml_1m, "1m")

    def test_a_prepared_split_without_its_columns(self, ml_1m: Path) -> None:
        for part in ("train", "test"):
            frame = pd.DataFrame({"user_id": [1], "item": [2]})
            frame.to_parquet(ml_1m / f"interactions_{part}.parquet")
        with pytest.raises(ValueError, match=r"expected the columns \['movie_id'\], got"):
            read(ml_1m, "1m")

    def test_too_few_ratings_to_split(self, ml_1m: Path) -> None:
        write(ml_1m / "ratings.dat", ["1::1::5::1"])
        with pytest.raises(ValueError, match="at least two ratings, got 1"):
            read(ml_1m, "1m")


class TestDownload:
    @pytest.fixture
    def publisher(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder that downloads come from."""
        folder = tmp_path / "publisher"
        folder.mkdir()
        monkeypatch.setattr(movielens_data, "URL", folder.as_uri() + "/{name}.zip")
        return folder

    def test_fetches_once_and_unpacks(self, publisher: Path, ml_1m: Path, tmp_path: Path) -> None:
        archive = publisher / "ml-1m.zip"
        with zipfile.ZipFile(archive, "w") as packed:
            for path in ml_1m.iterdir():
                packed.write(path, f"ml-1m/{path.name}")
        folder = download("1m", tmp_path / "cache")
        archive.unlink()
        assert download("1m", tmp_path / "cache") == folder
        assert len(read(folder, "1m").items) == N_FILMS

    def test_a_damaged_archive_is_refused_and_removed(
        self, publisher: Path, tmp_path: Path
    ) -> None:
        (publisher / "ml-1m.zip").write_bytes(b"no zip file")
        with pytest.raises(ValueError, match="expected a zip file of ml-1m/, got another"):
            download("1m", tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []

    def test_an_archive_of_something_else(self, publisher: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(publisher / "ml-1m.zip", "w") as packed:
            packed.writestr("other/ratings.dat", "")
        with pytest.raises(ValueError, match="expected a zip file of ml-1m/"):
            download("1m", tmp_path / "cache")

    def test_offline_says_what_to_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: object, **kwargs: object) -> None:
            raise URLError("no route")

        monkeypatch.setattr(movielens_data.urllib.request, "urlopen", fail)
        with pytest.raises(ConnectionError, match="without a network, pass --data FOLDER"):
            download("100k", tmp_path / "cache")


class TestFeatures:
    @pytest.fixture
    def data(self, ml_1m: Path) -> MovieLens:
        return read(ml_1m, "1m")

    def test_schema_tags_both_towers(self, data: MovieLens) -> None:
        schema = make_features(data).schema
        assert schema.select_by_tag(Tags.USER_ID).column_names == ["user"]
        assert schema.select_by_tag(Tags.ITEM_ID).column_names == ["item"]
        user = {"user", "gender", "age", "occupation", "zip"}
        assert set(schema.select_by_tag(Tags.USER).column_names) == user
        assert set(schema.select_by_tag(Tags.ITEM).column_names) == {"item", "year", "genres"}
        assert schema["genres"].is_list

    def test_numbers_map_back_to_the_ids(self, data: MovieLens) -> None:
        features = make_features(data)
        users = features.users.set_index("user")["user_id"]
        items = features.items.set_index("item")["item_id"]
        assert users.index.is_unique
        assert items.index.is_unique
        found = zip(users[features.train["user"]], items[features.train["item"]], strict=True)
        assert sorted(found) == sorted(data.train.itertuples(index=False, name=None))

    def test_the_catalog_is_what_was_rated_in_training(self, data: MovieLens) -> None:
        held_out = data.train["item_id"] == data.train["item_id"][0]
        data = MovieLens(data.name, data.train[~held_out], data.test, data.users, data.items)
        features = make_features(data)
        assert set(features.items["item_id"]) == set(data.train["item_id"])
        counts = data.train["item_id"].value_counts()
        np.testing.assert_array_equal(
            features.item_frequencies[features.items["item"]], counts[features.items["item_id"]]
        )


def test_temperature_divides_the_logits() -> None:
    outputs = PredictionOutput(predictions=tf.constant([[1.0, -2.0]]), targets=None)
    scaled = movielens.Temperature(0.5).call_outputs(outputs, training=True)
    np.testing.assert_array_equal(scaled.predictions, [[2.0, -4.0]])


class TestWholeJob:
    def test_tiny(
        self,
        variant_and_folder: tuple[str, Path],
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        variant, folder = variant_and_folder
        results = tmp_path / "results"
        options = ["--variant", variant, "--data", str(folder), "--results", str(results)]
        movielens.main([*options, "--epochs", "14", "--batch-size", "128"])
        printed = capfd.readouterr().out
        assert "quantized_recall_at_20" in printed
        assert "This process has not loaded TensorFlow." in printed
        assert "For user 1\n" in printed
        assert f"Like {LATIN}" in printed

        saved = json.loads((results / f"demo_movielens-{variant}.json").read_text())
        assert all(set(row) >= ROW_KEYS for row in saved["rows"])
        methods = ["exact", "Faiss IVF-PQ", "Faiss OPQ+IVF-PQ", "merlin_poeem"]
        assert list(dict.fromkeys(row["method"] for row in saved["rows"])) == methods
        assert saved["versions"]["merlin-models"] == "23.12.0"
        assert (results / f"demo_movielens-{variant}.png").stat().st_size > 10_000

        index = load_index(results / f"{folder.name}.index")
        assert index.item_table["title"].tolist()[0] == LATIN
        users = pd.read_parquet(results / f"{folder.name}.queries.parquet")
        searcher = open_searcher(index.with_n_probes(index.n_lists))
        found = recommend.for_users(searcher, users, 5)
        assert found["user_id"].value_counts().tolist() == [5] * len(users)
        seen = dict(zip(users["user_id"], users["seen"], strict=True))
        assert not any(row.item_id in seen[row.user_id] for row in found.itertuples())
        # Users rate only their half of the catalog, so the model must recommend from it.
        assert ((found["item_id"] > N_FILMS // 2) == (found["user_id"] % 2)).mean() > 0.9
        alike = recommend.like_items(searcher, [LATIN], 5)
        assert LATIN not in alike["title"].tolist()
        with pytest.raises(ValueError, match=r"titles of the item table, got \['Nothing'\]"):
            recommend.like_items(searcher, ["Nothing"], 5)

    def test_bad_data_ends_with_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as end:
            movielens.main(["--variant", "1m", "--data", str(tmp_path / "absent")])
        assert end.value.code == 1
        assert capsys.readouterr().err.count("\n") == 1

    def test_real_100k(self, dataset_dir: Callable[[str], Path], tmp_path: Path) -> None:
        options = ["--variant", "100k", "--data", str(dataset_dir("ml-100k"))]
        movielens.main([*options, "--epochs", "3", "--results", str(tmp_path)])
        rows = json.loads((tmp_path / "demo_movielens-100k.json").read_text())["rows"]
        best = {row["method"]: row["recall_at_20"] for row in rows}  # the last: all lists probed
        assert best["exact"] > 0.25  # popularity alone: 0.15
        assert best["merlin_poeem"] > 0.97 * best["exact"]
        assert best["merlin_poeem"] > best["Faiss IVF-PQ"]

    def test_real_1m_reads(self, dataset_dir: Callable[[str], Path]) -> None:
        data = read(dataset_dir("ml-1m"), "1m")
        assert (len(data.train), len(data.test)) == (801_218, 197_321)
        assert (len(data.users), len(data.items)) == (6_040, 3_883)
        assert data.items["title"][0] == "Toy Story (1995)"
