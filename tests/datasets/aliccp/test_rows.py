"""Rows in whichever form there is; without Merlin."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from merlin_poeem.datasets import aliccp
from merlin_poeem.datasets.aliccp.parquet import write_parquet
from merlin_poeem.datasets.aliccp.rows import read
from tests.datasets.aliccp.raw_files import COMMON, SKELETON

ROOT = Path(__file__).resolve().parents[3]


def test_read_takes_either(write: Callable[..., Path]) -> None:
    folder = write(SKELETON, COMMON)
    expected = pa.concat_tables(read(folder, "train"))
    write_parquet([expected], folder / "test")
    assert pa.concat_tables(read(folder, "test")).equals(expected)
    with pytest.raises(FileNotFoundError, match=r"or valid/\*\.parquet; got neither"):
        read(folder, "valid")


class TestToParquet:
    @pytest.fixture
    def raw(self, write: Callable[..., Path]) -> Path:
        write(SKELETON, COMMON)
        return write(SKELETON[:1], COMMON, part="test")

    def test_rows_items_and_report(self, raw: Path, tmp_path: Path) -> None:
        report = aliccp.to_parquet(str(raw), str(tmp_path / "new" / "parquet"))
        folder = tmp_path / "new" / "parquet"
        for part, n_rows in (("train", 3), ("test", 1)):
            rows = pq.read_table(folder / part)
            assert rows.num_rows == n_rows
            assert rows.equals(pa.concat_tables(aliccp.read_raw(raw, part)))
        items = pq.read_table(folder / "items").to_pydict()
        assert items["item_id"] == [900, 901, 9007199254740993]
        assert items["item_category"] == [11, None, None]
        assert (report.n_rows, report.n_without_user) == (4, 1)
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["parquet"]

    def test_a_long_reading_shows_a_bar(
        self, raw: Path, tmp_path: Path, long_work: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        aliccp.to_parquet(raw, tmp_path / "shown")
        shown = capsys.readouterr().err
        assert "read train: 3 rows" in shown
        assert "read test: 1 rows" in shown
        aliccp.to_parquet(raw, tmp_path / "not_shown", progress=False)
        assert not capsys.readouterr().err

    def test_parquet_and_its_items(self, raw: Path, tmp_path: Path) -> None:
        aliccp.to_parquet(raw, tmp_path / "once")
        items = pa.table({"item_id": [900, 901, 902]})
        (tmp_path / "once" / "items" / "part_00000.parquet").unlink()
        aliccp.write_parquet([items], tmp_path / "once" / "items")
        report = aliccp.to_parquet(tmp_path / "once", tmp_path / "twice", parts=["test"])
        assert report.n_rows == 1
        assert pq.read_table(tmp_path / "twice" / "items").equals(items)
        assert not (tmp_path / "twice" / "train").exists()

    def test_malformed_lines_up_to_a_number(
        self, write: Callable[..., Path], tmp_path: Path
    ) -> None:
        raw = write([*SKELETON, "x", "y"], COMMON)
        with pytest.raises(ValueError, match=r"at most 1 malformed lines, got 2 so far .*line 4: "):
            aliccp.to_parquet(raw, tmp_path / "new", parts=["train"], max_malformed=1)
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".csv"]
        report = aliccp.to_parquet(raw, tmp_path / "new", parts=["train"], max_malformed=2)
        assert [line.number for line in report.malformed] == [4, 5]

    def test_a_missing_part_is_told_before_reading(
        self, write: Callable[..., Path], tmp_path: Path
    ) -> None:
        raw = write(["malformed"], COMMON)
        with pytest.raises(FileNotFoundError, match=r"sample_skeleton_test\.csv"):
            aliccp.to_parquet(raw, tmp_path / "new")
        (raw / "common_features_test.csv").touch()
        with pytest.raises(FileNotFoundError, match=r"sample_skeleton_test\.csv"):
            aliccp.to_parquet(raw, tmp_path / "new")

    def test_a_folder_in_use(self, raw: Path, tmp_path: Path) -> None:
        with pytest.raises(FileExistsError, match="expected a new or empty folder, got one that"):
            aliccp.to_parquet(raw, raw)
        (tmp_path / "empty").mkdir()
        assert aliccp.to_parquet(raw, tmp_path / "empty").n_rows == 4

    def test_refused_arguments(self, raw: Path, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="parts: expected a sequence of names, got 'train'"):
            aliccp.to_parquet(raw, tmp_path / "new", parts="train")
        with pytest.raises(ValueError, match="parts: expected at least one"):
            aliccp.to_parquet(raw, tmp_path / "new", parts=[])
        with pytest.raises(TypeError, match="max_malformed: expected an integer, got 'few'"):
            aliccp.to_parquet(raw, tmp_path / "new", max_malformed="few")


def test_neither_reading_nor_simulating_needs_merlin() -> None:
    code = (
        "import sys, merlin_poeem.datasets.aliccp, workflows.aliccp.simulate\n"
        "assert not {'tensorflow', 'merlin', 'nvtabular'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
