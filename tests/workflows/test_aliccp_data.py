"""Ali-CCP's readers and its simulator: every row, every value, every malformed line; no Merlin."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from merlin_poeem.evaluate import recall_at_k
from workflows import aliccp_simulate
from workflows.aliccp_data import (
    AITM,
    SCHEMA,
    Report,
    distinct_items,
    read,
    read_parquet,
    read_raw,
    read_samples,
    write_parquet,
)
from workflows.aliccp_simulate import World, draw_ranks, rank_share, scaled, write_raw

ROOT = Path(__file__).resolve().parents[2]
ROWS = 3_000

SKELETON = [
    "1,0,0,aa,4,205\x02900\x031.0\x01206\x0211\x031.0\x01210\x0271\x031.0\x01210\x0272\x031.0",
    "2,1,1,bb,3,205\x02901\x031.0\x01853\x0281\x030.5\x01853\x0282\x032.25",
    "3,1,0,aa,1,205\x029007199254740993\x031.0",
]
COMMON = [
    "aa,4,101\x025\x031.0\x01109_14\x0231\x032.1972\x01109_14\x0232\x031.5\x01127\x022\x031.0",
    "bb,1,110_14\x0241\x030.69315",
]


@pytest.fixture(scope="module")
def world() -> World:
    return World.make(600, 80, seed=5)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lines as raw files of the training part; returns their folder."""

    def write_lines(skeleton: list[str], common: list[str], end: str = "\n") -> Path:
        for name, lines in (("sample_skeleton", skeleton), ("common_features", common)):
            text = "".join(line + end for line in lines)
            (tmp_path / f"{name}_train.csv").write_bytes(text.encode("latin-1"))
        return tmp_path

    return write_lines


def whole(tables: object) -> pa.Table:
    return pa.concat_tables(list(tables))


class TestRaw:
    def test_every_value_of_every_row(self, write: Callable[..., Path]) -> None:
        report = Report()
        table = whole(read_raw(write(SKELETON, COMMON), "train", report=report))
        assert table.schema == SCHEMA
        rows = table.to_pydict()
        assert rows["sample_id"] == [1, 2, 3]
        assert rows["click"] == [0, 1, 1]
        assert rows["conversion"] == [0, 1, 0]
        assert rows["item_id"] == [900, 901, 9007199254740993]
        assert rows["item_category"] == [11, None, None]
        assert rows["item_intention"] == [[71, 72], [], []]
        assert rows["user_item_intentions"] == [[], [81, 82], []]
        assert rows["user_item_intentions_weights"] == [[], [0.5, 2.25], []]
        assert rows["user_id"] == [5, None, 5]
        assert rows["user_consumption_2"] == [2, None, 2]
        assert rows["user_categories"] == [[31, 32], [], [31, 32]]
        assert rows["user_shops"] == [[], [41], []]
        np.testing.assert_allclose(rows["user_categories_weights"][0], [2.1972, 1.5])
        assert str(report) == "3 rows, 0 malformed lines\n  1 rows without user id"

    @pytest.mark.parametrize("block_bytes", [1, 7, 200, 1 << 20])
    def test_blocks_cut_anywhere(self, write: Callable[..., Path], block_bytes: int) -> None:
        folder = write(SKELETON, COMMON)
        expected = whole(read_raw(folder, "train"))
        assert whole(read_raw(folder, "train", block_bytes=block_bytes)).equals(expected)

    def test_windows_line_ends_and_no_last_one(self, write: Callable[..., Path]) -> None:
        expected = whole(read_raw(write(SKELETON, COMMON), "train"))
        assert whole(read_raw(write(SKELETON, COMMON, "\r\n"), "train")).equals(expected)
        folder = write(SKELETON, COMMON)
        path = folder / "sample_skeleton_train.csv"
        path.write_bytes(path.read_bytes().removesuffix(b"\n"))
        assert whole(read_raw(folder, "train")).equals(expected)

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("", "expected sample id, click, conversion, common feature key, count, features, got"),
            ("4,1,0,aa,1", "common feature key, count, features, got '4,1,0,aa,1'"),
            ("4,2,0,aa,0,", "expected sample id, click"),
            ("four,1,0,aa,0,", "expected sample id, click"),
            ("4,1,0,aa,2,205\x021\x031.0", "expected 2 features, as it says, got 1"),
            ("4,1,0,aa,1,205\x021", "expected field .* got '205.x021'"),
            ("4,1,0,aa,1,205\x02one\x031.0", "expected field"),
            ("4,1,0,aa,1,205\x021\x03nan", "expected field"),
            ("4,1,0,aa,1,205\x02\xb9\x031.0", "expected field"),
            ("4,1,0,aa,1,205\x0299999999999999999999\x031.0", "expected field"),
            ("4,1,0,aa,2,205\x021\x031.0\x01205\x022\x031.0", "field 205: expected one value, got"),
        ],
    )
    def test_a_malformed_line_is_located(
        self, write: Callable[..., Path], line: str, reason: str
    ) -> None:
        folder = write([*SKELETON[:2], line, SKELETON[2]], COMMON)
        with pytest.raises(ValueError, match=f"skeleton_train.csv, line 3: .*{reason}"):
            whole(read_raw(folder, "train"))
        report = Report(max_malformed=1)
        table = whole(read_raw(folder, "train", report=report, block_bytes=90))
        assert table.equals(whole(read_raw(write(SKELETON, COMMON), "train")))
        (found,) = report.malformed
        assert (found.path.name, found.number) == ("sample_skeleton_train.csv", 3)
        assert re.search(reason, found.reason)
        assert str(found) in str(report)

    def test_malformed_common_features(self, write: Callable[..., Path]) -> None:
        report = Report(max_malformed=2)
        folder = write(SKELETON, [COMMON[0], "cc", "aa,1,101\x026\x031.0"])
        rows = whole(read_raw(folder, "train", report=report)).to_pydict()
        assert rows["user_id"] == [5, None, 5]
        assert [line.number for line in report.malformed] == [2, 3]
        assert "key aa: expected once, got it in line 1" in str(report)
        assert report.n_without_common == 1
        assert "1 rows without common features: user columns are null" in str(report)

    def test_too_many_malformed_lines(self, write: Callable[..., Path]) -> None:
        folder = write(["x"] * 9, COMMON)
        with pytest.raises(ValueError, match=r"at most 3 malformed lines, got 4 so far .*line 1: "):
            whole(read_raw(folder, "train", report=Report(max_malformed=3)))

    def test_what_is_no_column_is_counted(self, write: Callable[..., Path]) -> None:
        report = Report()
        lines = ["1,0,1,aa,2,205\x021\x031.0\x01999\x027\x031.0", "2,0,0,zz,0,"]
        rows = whole(read_raw(write(lines, COMMON), "train", report=report)).to_pydict()
        assert rows["item_id"] == [1, None]
        assert report.unknown_fields == {"999": 1}
        assert report.n_converted_unclicked == report.n_without_common == 1
        assert "1 values of the unknown field 999 left out" in str(report)
        assert "1 rows without item id" in str(report)
        assert "1 rows with a conversion but no click" in str(report)

    @pytest.mark.parametrize("name", ["train", "sample_train"])
    def test_finds_the_folder_of_the_part(self, write: Callable[..., Path], name: str) -> None:
        folder = write(SKELETON, COMMON)
        (folder / name).mkdir()
        for path in folder.glob("*.csv"):
            path.rename(folder / name / path.name)
        assert whole(read_raw(folder, "train")).num_rows == 3

    def test_read_takes_either(self, write: Callable[..., Path]) -> None:
        folder = write(SKELETON, COMMON)
        expected = whole(read(folder, "train"))
        write_parquet([expected], folder / "test")
        assert whole(read(folder, "test")).equals(expected)
        with pytest.raises(FileNotFoundError, match=r"or valid/\*\.parquet; got neither"):
            read(folder, "valid")

    def test_missing_files_are_named(self, tmp_path: Path) -> None:
        expected = r"sample_skeleton_test\.csv, common_features_test\.csv, got none"
        with pytest.raises(FileNotFoundError, match=expected):
            whole(read_raw(tmp_path, "test"))

    def test_a_file_without_lines(
        self, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("workflows.aliccp_data.MAX_LINE_BYTES", 100)
        folder = write([SKELETON[0], "x" * 1000], COMMON)
        with pytest.raises(ValueError, match=r"line 2: expected up to 100 bytes"):
            whole(read_raw(folder, "train", block_bytes=10, report=Report(5)))


class TestParquet:
    def test_as_written_here(self, world: World, tmp_path: Path) -> None:
        expected = whole(world.rows(ROWS))
        parts = [expected.slice(start, 500) for start in range(0, ROWS, 500)]
        assert write_parquet(parts, tmp_path, rows=1_000) == ROWS
        assert len(list(tmp_path.iterdir())) == 3
        report = Report()
        tables = list(read_parquet(tmp_path, report=report, rows=700))
        assert max(table.num_rows for table in tables) <= 700
        assert whole(tables).equals(expected)
        assert report.n_rows == ROWS
        with pytest.raises(FileExistsError, match="expected no parquet files, got some"):
            write_parquet(world.rows(ROWS), tmp_path)

    @pytest.fixture
    def merlin(self) -> pd.DataFrame:
        """As Merlin writes it: one value a field, floats where some are missing."""
        names = [n for n in SCHEMA.names if n != "sample_id" and not n.endswith("_weights")]
        frame = pd.DataFrame({name: np.array([0, 1], np.int32) for name in names})
        missing = np.array([np.nan, 354229.0])
        return frame.assign(user_id=missing, user_item_brands=missing, item_id=[2**40, 7])

    def test_as_merlin_writes_it(self, merlin: pd.DataFrame, tmp_path: Path) -> None:
        merlin.to_parquet(tmp_path / "train_0.parquet")
        merlin.to_parquet(tmp_path / "train_1.parquet")
        rows = whole(read_parquet(tmp_path)).to_pydict()
        assert rows["sample_id"] == [1, 2, 3, 4]
        assert rows["user_id"] == [None, 354229] * 2
        assert rows["item_id"] == [2**40, 7] * 2
        assert rows["user_item_brands"] == [[], [354229]] * 2
        assert rows["user_categories"] == [[0], [1]] * 2
        assert rows["user_categories_weights"] == [None] * 4

    def test_missing_columns_are_named(self, merlin: pd.DataFrame, tmp_path: Path) -> None:
        merlin.drop(columns=["user_id", "click"]).to_parquet(tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=r"a\.parquet: expected the columns \['click', 'user_"):
            whole(read_parquet(tmp_path))

    def test_values_that_are_no_ids(self, merlin: pd.DataFrame, tmp_path: Path) -> None:
        merlin.assign(item_shop=[0.5, 1]).to_parquet(tmp_path / "a.parquet")
        with pytest.raises(ValueError, match="item_shop: expected whole numbers"):
            whole(read_parquet(tmp_path))

    def test_no_files(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="expected parquet files, got none"):
            whole(read_parquet(tmp_path))


class TestSamples:
    def test_torch_rechub(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_text("click,purchase,101,205,508,D508\n1,0,3,0,9,0.25\n0,0,0,4,0,0.0\n")
        rows = whole(read_samples(path)).to_pydict()
        assert rows["sample_id"] == [2, 3]
        assert rows["user_id"] == [3, None]
        assert rows["item_id"] == [None, 4]
        assert rows["user_item_categories"] == [[9], []]
        assert rows["user_item_categories_weights"] == [[0.25], []]

    @pytest.mark.parametrize("first", ["", AITM + "\n"])
    def test_aitm_with_names_and_without(self, tmp_path: Path, first: str) -> None:
        path = tmp_path / "rows.csv"
        path.write_text(
            first + "1,0,180467,4,1,2,3,1,1,2,1,157266,5673,164308,73943,753,0,0,32,2\n"
        )
        (row,) = whole(read_samples(path)).to_pylist()
        assert (row["click"], row["user_id"], row["item_id"]) == (1, 180467, 157266)
        assert (row["item_brand"], row["position"]) == (73943, 2)
        assert row["user_item_intentions"] == [32]
        assert row["user_item_shops"] == []

    def test_esmm(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.txt"
        path.write_text("1,1,0,210:1,210:2,205:6,150_14:18,150_14:19,999:4\n2,0,0,205:7\n")
        report = Report()
        rows = whole(read_samples(path, report=report)).to_pydict()
        assert rows["item_intention"] == [[1, 2], []]
        assert rows["user_intentions"] == [[18, 19], []]
        assert rows["item_id"] == [6, 7]
        assert report.unknown_fields == {"999": 1}

    @pytest.mark.parametrize(
        ("good", "bad", "reason"),
        [
            ("click,purchase,205\n1,0,1", "1,0", "expected 3 fields, got 2"),
            ("click,purchase,205\n1,0,1", "1,0,x", "expected numbers, .* got 'x'"),
            ("click,purchase,205\n1,0,1", "2,0,1", "expected numbers, .* got '2'"),
            ("1,0,0,205:1\n2,0,0,205:1", "3,0,0,205", "field:id ..., got '3,0,0,205'"),
            ("1,0,0,205:1\n2,0,0,205:1", "3,0,0,205:1,205:2", "field 205: expected one value"),
        ],
    )
    def test_malformed_lines(self, tmp_path: Path, good: str, bad: str, reason: str) -> None:
        path = tmp_path / "rows.txt"
        path.write_text(f"{good}\n{bad}\n")
        with pytest.raises(ValueError, match=f"rows.txt, line 3: .*{reason}"):
            whole(read_samples(path))
        report = Report(1)
        assert whole(read_samples(path, report=report)).num_rows == good.count("\n") + (":" in good)
        assert report.malformed[0].number == 3

    def test_another_format(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_text("a;b\n")
        with pytest.raises(ValueError, match=r"expected re-encoded rows of .* got 'a;b'"):
            whole(read_samples(path))
        path.write_text("click,purchase,101\n1,0,1\n")
        with pytest.raises(ValueError, match="205 among them"):
            whole(read_samples(path))

    @pytest.mark.parametrize(
        ("name", "n_rows"),
        [
            ("torch_rechub_ali_ccp_train_sample.csv", 100),
            ("torch_rechub_ali_ccp_val_sample.csv", 50),
            ("torch_rechub_ali_ccp_test_sample.csv", 50),
            ("paddlerec_aitm_train.csv", 48),
            ("paddlerec_aitm_test.csv", 50),
            ("paddlerec_esmm_train_small.txt", 10),
            ("paddlerec_esmm_test_small.txt", 10),
        ],
    )
    def test_real_rows(self, dataset_dir: Callable[[str], Path], name: str, n_rows: int) -> None:
        path = dataset_dir("ali-ccp") / name
        report = Report()
        table = whole(read_samples(path, report=report, block_bytes=20_000))
        lines = path.read_text().splitlines()
        assert table.num_rows == len(lines) - lines[0].startswith("click") == report.n_rows
        assert table.num_rows >= n_rows
        assert not report.malformed
        assert not report.unknown_fields
        assert table["user_id"].null_count == 0
        if "esmm" in name:
            values = sum(len(line.split(",")) - 3 for line in lines)
            lists = [n for n in SCHEMA.names if not n.endswith("weights")][3:]
            found = sum(
                len(table[n].combine_chunks().flatten())
                if pa.types.is_list(SCHEMA.field(n).type)
                else table.num_rows - table[n].null_count
                for n in lists
            )
            assert found == values


class TestSimulator:
    @pytest.mark.parametrize("part", ["train", "test"])
    def test_raw_files_hold_the_same_rows(self, world: World, tmp_path: Path, part: str) -> None:
        write_raw(world, ROWS, tmp_path / part, part)
        found = whole(read_raw(tmp_path, part, block_bytes=100_000))
        assert found.equals(whole(world.rows(ROWS, part)))

    def test_seeds(self, world: World) -> None:
        rows = whole(world.rows(500))
        assert whole(World.make(600, 80, seed=5).rows(500)).equals(rows)
        assert not whole(World.make(600, 80, seed=6).rows(500)).equals(rows)
        assert not whole(world.rows(500, "test")).equals(rows)
        assert whole(world.rows(ROWS)).slice(0, 500).equals(rows)

    def test_rows_come_in_chunks(self, world: World) -> None:
        tables = list(world.rows(150_000))
        assert len(tables) > 1
        ids = np.concatenate([table["sample_id"].to_numpy() for table in tables])
        np.testing.assert_array_equal(ids, np.arange(1, 150_001))

    def test_shares_are_the_real_ones(self) -> None:
        rows = whole(World.make(20_000, 2_000).rows(400_000))
        assert np.mean(rows["click"].to_numpy()) == pytest.approx(0.04, rel=0.05)
        assert rows["user_id"].null_count / len(rows) == pytest.approx(0.002, rel=0.7)
        assert not np.any(rows["conversion"].to_numpy() > rows["click"].to_numpy())
        assert np.sum(rows["conversion"].to_numpy()) > 20
        counts = rows["item_id"].to_pandas().value_counts().to_numpy()
        assert counts[:200].sum() > 0.4 * counts.sum()
        lengths = rows["item_intention"].combine_chunks().value_lengths()
        assert set(lengths.to_pylist()) == {1, 2, 3}

    def test_the_catalog_agrees_with_the_rows(self, world: World) -> None:
        catalog = pa.concat_tables(world.catalog(chunk=250)).to_pandas().set_index("item_id")
        assert len(catalog) == world.n_items
        assert catalog.index.is_unique
        found = distinct_items(world.rows(ROWS)).set_index("item_id").astype(np.int64)
        pd.testing.assert_frame_equal(found, catalog.loc[found.index])

    def test_crossed_fields_are_of_the_users_history(self, world: World) -> None:
        first = aliccp_simulate.FIRST_ID
        for history, crossed, item in (
            ("user_categories", "user_item_categories", "item_category"),
            ("user_intentions", "user_item_intentions", "item_intention"),
        ):
            for row in whole(world.rows(300)).to_pylist():
                of_item = row[item] if isinstance(row[item], list) else [row[item]]
                visited = {value - first[history] for value in row[history]}
                expected = {v - first[item] for v in of_item} & visited
                assert {v - first[crossed] for v in row[crossed]} == expected
                weights = dict(zip(row[history], row[f"{history}_weights"], strict=True))
                for value, weight in zip(row[crossed], row[f"{crossed}_weights"], strict=True):
                    assert weights[value - first[crossed] + first[history]] == weight

    def test_the_best_items_are_found_by_counting_clicks(self) -> None:
        world = World.make(300, 1, seed=2)
        rows = whole(world.rows(400_000))
        clicked = rows.filter(rows["click"].cast(pa.bool_()))["item_id"].to_pandas()
        shares = clicked.value_counts(normalize=True)
        user = [aliccp_simulate.FIRST_ID["user_id"]]
        best = world.best_items(user, 20)[0]
        assert shares[best].sum() == pytest.approx(shares[:20].sum(), rel=0.05)
        assert np.all(np.diff(shares.reindex(best).to_numpy()) < 0.02)
        assert len(set(world.best_items(user, 1000)[0])) == 300

    def test_tastes_beat_popularity(self) -> None:
        world = World.make(5_000, 200)
        rows = whole(world.rows(60_000)).to_pandas()
        clicks = rows[(rows["click"] == 1) & rows["user_id"].notna()]
        relevant = clicks.groupby("user_id")["item_id"].unique()
        best = world.best_items(relevant.index.astype(np.int64), 100)
        popular = np.tile(world.item_ids[:100], (len(relevant), 1))
        best, popular = (recall_at_k(ids, list(relevant), 100) for ids in (best, popular))
        assert best > 0.6
        assert best > 3 * popular

    def test_ranks_follow_their_shares(self) -> None:
        sizes = np.full(200_000, 30)
        counts = np.bincount(draw_ranks(sizes, np.random.default_rng(0)), minlength=30)
        shares = rank_share(np.arange(30), 30)
        assert shares.sum() == pytest.approx(1)
        np.testing.assert_allclose(counts / counts.sum(), shares, atol=0.004)

    def test_refuses(self, world: World) -> None:
        with pytest.raises(ValueError, match="n_items: expected 100 to 9999999, got 3"):
            World.make(3, 5)
        with pytest.raises(ValueError, match="expected one of train, test; got 'valid'"):
            list(world.rows(5, "valid"))
        with pytest.raises(ValueError, match="user_ids: expected 1 to 80, got 0 to 81"):
            world.best_items([0, 81], 5)

    def test_scales_as_the_real_set(self) -> None:
        assert scaled(84_000_000) == (4_300_000, 400_000)
        assert scaled(10) == (100, 10)

    @pytest.mark.parametrize("file_format", ["parquet", "raw"])
    def test_command(self, tmp_path: Path, file_format: str) -> None:
        options = ["--rows", "2000", "--items", "500", "--users", "30", "--format", file_format]
        aliccp_simulate.main(["--to", str(tmp_path), *options])
        assert [whole(read(tmp_path, part)).num_rows for part in ("train", "test")] == [2000, 1000]
        assert pq.read_table(tmp_path / "items").num_rows == 500


def test_neither_needs_merlin() -> None:
    code = (
        "import sys, workflows.aliccp_data, workflows.aliccp_simulate\n"
        "assert not {'tensorflow', 'merlin', 'nvtabular'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
