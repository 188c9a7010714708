"""The publisher's raw files: every row, every value, every malformed line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from merlin_poeem.datasets.aliccp.fields import SCHEMA
from merlin_poeem.datasets.aliccp.raw import read_raw
from merlin_poeem.datasets.aliccp.report import Report
from tests.datasets.aliccp.raw_files import COMMON, SKELETON


def test_every_value_of_every_row(write: Callable[..., Path]) -> None:
    report = Report()
    table = pa.concat_tables(read_raw(write(SKELETON, COMMON), "train", report=report))
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
def test_blocks_cut_anywhere(write: Callable[..., Path], block_bytes: int) -> None:
    folder = write(SKELETON, COMMON)
    expected = pa.concat_tables(read_raw(folder, "train"))
    assert pa.concat_tables(read_raw(folder, "train", block_bytes=block_bytes)).equals(expected)


def test_windows_line_ends_and_no_last_one(write: Callable[..., Path]) -> None:
    expected = pa.concat_tables(read_raw(write(SKELETON, COMMON), "train"))
    assert pa.concat_tables(read_raw(write(SKELETON, COMMON, "\r\n"), "train")).equals(expected)
    folder = write(SKELETON, COMMON)
    path = folder / "sample_skeleton_train.csv"
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert pa.concat_tables(read_raw(folder, "train")).equals(expected)


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
def test_a_malformed_line_is_located(write: Callable[..., Path], line: str, reason: str) -> None:
    folder = write([*SKELETON[:2], line, SKELETON[2]], COMMON)
    with pytest.raises(ValueError, match=f"skeleton_train.csv, line 3: .*{reason}"):
        pa.concat_tables(read_raw(folder, "train"))
    report = Report(max_malformed=1)
    table = pa.concat_tables(read_raw(folder, "train", report=report, block_bytes=90))
    assert table.equals(pa.concat_tables(read_raw(write(SKELETON, COMMON), "train")))
    (found,) = report.malformed
    assert (found.path.name, found.number) == ("sample_skeleton_train.csv", 3)
    assert re.search(reason, found.reason)
    assert str(found) in str(report)


def test_malformed_common_features(write: Callable[..., Path]) -> None:
    report = Report(max_malformed=2)
    folder = write(SKELETON, [COMMON[0], "cc", "aa,1,101\x026\x031.0"])
    rows = pa.concat_tables(read_raw(folder, "train", report=report)).to_pydict()
    assert rows["user_id"] == [5, None, 5]
    assert [line.number for line in report.malformed] == [2, 3]
    assert "key aa: expected once, got it in line 1" in str(report)
    assert report.n_without_common == 1
    assert "1 rows without common features: user columns are null" in str(report)


def test_too_many_malformed_lines(write: Callable[..., Path]) -> None:
    folder = write(["x"] * 9, COMMON)
    with pytest.raises(ValueError, match=r"at most 3 malformed lines, got 4 so far .*line 1: "):
        pa.concat_tables(read_raw(folder, "train", report=Report(max_malformed=3)))


def test_what_is_no_column_is_counted(write: Callable[..., Path]) -> None:
    report = Report()
    lines = ["1,0,1,aa,2,205\x021\x031.0\x01999\x027\x031.0", "2,0,0,zz,0,"]
    rows = pa.concat_tables(read_raw(write(lines, COMMON), "train", report=report)).to_pydict()
    assert rows["item_id"] == [1, None]
    assert report.unknown_fields == {"999": 1}
    assert report.n_converted_unclicked == report.n_without_common == 1
    assert "1 values of the unknown field 999 left out" in str(report)
    assert "1 rows without item id" in str(report)
    assert "1 rows with a conversion but no click" in str(report)


@pytest.mark.parametrize("name", ["train", "sample_train"])
def test_finds_the_folder_of_the_part(write: Callable[..., Path], name: str) -> None:
    folder = write(SKELETON, COMMON)
    (folder / name).mkdir()
    for path in folder.glob("*.csv"):
        path.rename(folder / name / path.name)
    assert pa.concat_tables(read_raw(folder, "train")).num_rows == 3


def test_missing_files_are_named(tmp_path: Path) -> None:
    expected = r"sample_skeleton_test\.csv, common_features_test\.csv, got none"
    with pytest.raises(FileNotFoundError, match=expected):
        pa.concat_tables(read_raw(tmp_path, "test"))


def test_a_file_without_lines(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merlin_poeem.datasets.aliccp.line_blocks.MAX_LINE_BYTES", 100)
    folder = write([SKELETON[0], "x" * 1000], COMMON)
    with pytest.raises(ValueError, match=r"line 2: expected up to 100 bytes"):
        pa.concat_tables(read_raw(folder, "train", block_bytes=10, report=Report(5)))
