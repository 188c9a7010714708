"""Reading both variants of MovieLens, and refusing damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.workflows.movielens.published import LATIN, N_FILMS, N_USERS, pairs, write
from workflows.movielens.data import UNKNOWN_YEAR, read, read_train


class TestRead:
    def test_both_variants_come_as_the_same_frames(
        self, variant_and_folder: tuple[str, Path]
    ) -> None:
        variant, folder = variant_and_folder
        data = read(folder, variant)
        assert data.name == folder.name
        assert list(data.items) == ["item_id", "title", "year", "genres"]
        assert data.items["title"].tolist()[:3] == [LATIN, "Untitled", "Film 3 (1993)"]
        assert data.items["year"].tolist()[:3] == [1995, UNKNOWN_YEAR, 1993]
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

    def test_train_alone_does_not_open_the_test(self, ml_1m: Path) -> None:
        drawn, alone = read(ml_1m, "1m", 3), read_train(ml_1m, "1m", 3)
        pd.testing.assert_frame_equal(alone.train, drawn.train)
        assert alone.test.empty
        frame = pd.DataFrame(pairs(), columns=["user_id", "movie_id"], dtype=np.int32)
        frame.to_parquet(ml_1m / "interactions_train.parquet")
        (ml_1m / "interactions_test.parquet").write_bytes(b"not to be opened")
        alone = read_train(ml_1m, "1m")
        np.testing.assert_array_equal(alone.train, pairs())
        assert alone.test.empty
        assert list(alone.test) == ["user_id", "item_id"]

    def test_accepts_windows_line_ends(self, ml_1m: Path) -> None:
        text = (ml_1m / "movies.dat").read_bytes()
        (ml_1m / "movies.dat").write_bytes(text.replace(b"\n", b"\r\n"))
        assert read(ml_1m, "1m").items["genres"][1] == ["Comedy"]

    def test_real_1m_reads(self, dataset_dir: Callable[[str], Path]) -> None:
        data = read(dataset_dir("ml-1m"), "1m")
        assert (len(data.train), len(data.test)) == (801_218, 197_321)
        assert (len(data.users), len(data.items)) == (6_040, 3_883)
        assert data.items["title"][0] == "Toy Story (1995)"


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
