"""Re-encoded rows of other projects: told apart, read, and the real ones counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from merlin_poeem.datasets.aliccp.fields import SCHEMA
from merlin_poeem.datasets.aliccp.report import Report
from merlin_poeem.datasets.aliccp.samples import AITM, read_samples


def test_torch_rechub(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("click,purchase,101,205,508,D508\n1,0,3,0,9,0.25\n0,0,0,4,0,0.0\n")
    rows = pa.concat_tables(read_samples(path)).to_pydict()
    assert rows["sample_id"] == [2, 3]
    assert rows["user_id"] == [3, None]
    assert rows["item_id"] == [None, 4]
    assert rows["user_item_categories"] == [[9], []]
    assert rows["user_item_categories_weights"] == [[0.25], []]


@pytest.mark.parametrize("first", ["", AITM + "\n"])
def test_aitm_with_names_and_without(tmp_path: Path, first: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(first + "1,0,180467,4,1,2,3,1,1,2,1,157266,5673,164308,73943,753,0,0,32,2\n")
    (row,) = pa.concat_tables(read_samples(path)).to_pylist()
    assert (row["click"], row["user_id"], row["item_id"]) == (1, 180467, 157266)
    assert (row["item_brand"], row["position"]) == (73943, 2)
    assert row["user_item_intentions"] == [32]
    assert row["user_item_shops"] == []


def test_esmm(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("1,1,0,210:1,210:2,205:6,150_14:18,150_14:19,999:4\n2,0,0,205:7\n")
    report = Report()
    rows = pa.concat_tables(read_samples(path, report=report)).to_pydict()
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
def test_malformed_lines(tmp_path: Path, good: str, bad: str, reason: str) -> None:
    path = tmp_path / "rows.txt"
    path.write_text(f"{good}\n{bad}\n")
    with pytest.raises(ValueError, match=f"rows.txt, line 3: .*{reason}"):
        pa.concat_tables(read_samples(path))
    report = Report(1)
    assert pa.concat_tables(read_samples(path, report=report)).num_rows == good.count("\n") + (
        ":" in good
    )
    assert report.malformed[0].number == 3


def test_another_format(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a;b\n")
    with pytest.raises(ValueError, match=r"expected re-encoded rows of .* got 'a;b'"):
        pa.concat_tables(read_samples(path))
    path.write_text("click,purchase,101\n1,0,1\n")
    with pytest.raises(ValueError, match="205 among them"):
        pa.concat_tables(read_samples(path))


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
def test_real_rows(dataset_dir: Callable[[str], Path], name: str, n_rows: int) -> None:
    path = dataset_dir("ali-ccp") / name
    report = Report()
    table = pa.concat_tables(read_samples(path, report=report, block_bytes=20_000))
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
