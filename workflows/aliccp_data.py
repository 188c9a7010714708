"""Ali-CCP in every form in which it is passed around, streamed into tables of one schema.

The publisher's raw files, Merlin's parquet output and the re-encoded rows of other projects all
come as tables of ``SCHEMA``: a row an impression, each value of a repeated field in a list column.
Every line is either a row or a located entry of the :class:`Report`. Memory is bounded by the
block of lines that is being read; of the raw format's common features only the keys stay in memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BLOCK_BYTES = 4 << 20
MAX_LINE_BYTES = 64 << 20
PARQUET_ROWS = 16_384
FILE_ROWS = 4_000_000


@dataclass(frozen=True)
class Field:
    """One of the publisher's feature fields."""

    number: str
    """As the raw files name it, such as ``109_14``."""
    name: str
    """As Merlin names it, such as ``user_categories``."""
    is_list: bool = False
    """Whether a row may hold several values."""
    is_weighted: bool = False
    """Whether a value has a weight, such as a count of visits."""

    @property
    def weights(self) -> str:
        """The column of the weights, one a value."""
        return f"{self.name}_weights"

    @property
    def columns(self) -> list[tuple[str, pa.DataType]]:
        """The table's columns of this field."""
        values = pa.list_(pa.int64()) if self.is_list else pa.int64()
        weights = [(self.weights, pa.list_(pa.float32()))] if self.is_weighted else []
        return [(self.name, values), *weights]


USER_FIELDS = (
    Field("101", "user_id"),
    Field("121", "user_profile"),
    Field("122", "user_group"),
    Field("124", "user_gender"),
    Field("125", "user_age"),
    Field("126", "user_consumption_1"),
    Field("127", "user_consumption_2"),
    Field("128", "user_is_occupied"),
    Field("129", "user_geography"),
    Field("109_14", "user_categories", is_list=True, is_weighted=True),
    Field("110_14", "user_shops", is_list=True, is_weighted=True),
    Field("127_14", "user_brands", is_list=True, is_weighted=True),
    Field("150_14", "user_intentions", is_list=True, is_weighted=True),
)
SAMPLE_FIELDS = (
    Field("205", "item_id"),
    Field("206", "item_category"),
    Field("207", "item_shop"),
    Field("210", "item_intention", is_list=True),
    Field("216", "item_brand"),
    Field("508", "user_item_categories", is_list=True, is_weighted=True),
    Field("509", "user_item_shops", is_list=True, is_weighted=True),
    Field("702", "user_item_brands", is_list=True, is_weighted=True),
    Field("853", "user_item_intentions", is_list=True, is_weighted=True),
    Field("301", "position"),
)
FIELDS = USER_FIELDS + SAMPLE_FIELDS
BY_NUMBER = {f.number: f for f in FIELDS}
ITEM_COLUMNS = ("item_id", "item_category", "item_shop", "item_brand")
HEAD = (("sample_id", pa.int64()), ("click", pa.int8()), ("conversion", pa.int8()))
SCHEMA = pa.schema([*HEAD, *(column for f in FIELDS for column in f.columns)])
USER_SCHEMA = pa.schema([column for f in USER_FIELDS for column in f.columns])

# Columns of the re-encoded rows of PaddleRec's AITM, which come with this first line and without.
AITM = "click,purchase,101,121,122,124,125,126,127,128,129,205,206,207,216,508,509,702,853,301"
SKELETON_LINE = re.compile(rb"(\d{1,18}),([01]),([01]),(\w+),(\d{1,9}),(.*)")
COMMON_LINE = re.compile(rb"(\w+),(\d{1,9}),(.*)")
MULTI_HOT_LINE = re.compile(r"(\d{1,18}),([01]),([01])((?:,\d+(?:_14)?:\d{1,18})*)")
FEATURE = (
    "^(?P<number>[0-9_]+)\x02(?P<id>[0-9]{1,18})"
    "\x03(?P<weight>[0-9]+(?:\\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)$"
)


@dataclass(frozen=True)
class MalformedLine:
    """A line that is no row, and why."""

    path: Path
    number: int
    """From 1."""
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.number}: {self.reason}"


@dataclass
class Report:
    """What a reading found; complete when its last table has come."""

    max_malformed: int = 0
    """More malformed lines than this end the reading with ``ValueError``."""
    n_rows: int = 0
    malformed: list[MalformedLine] = field(default_factory=list)
    """Every line that became no row."""
    unknown_fields: Counter[str] = field(default_factory=Counter)
    """Values of fields that Ali-CCP does not have, by field: they are in no column."""
    n_without_common: int = 0
    """Rows whose common features are not in their file: kept, their user columns are null."""
    n_without_user: int = 0
    """Rows without user id, as the real set has them: kept."""
    n_without_item: int = 0
    """Rows without item id: kept."""
    n_converted_unclicked: int = 0
    """Rows with a conversion but no click, which cannot be: kept as they are."""

    def refuse(self, path: Path, number: int, reason: str) -> None:
        """Note a malformed line; ``ValueError`` when it is one too many."""
        self.malformed.append(MalformedLine(path, number, reason))
        if len(self.malformed) > self.max_malformed:
            shown = "; ".join(str(line) for line in self.malformed[:3])
            raise ValueError(
                f"expected at most {self.max_malformed} malformed lines, got "
                f"{len(self.malformed)} so far ({shown})"
            )

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table that was read."""
        self.n_rows += table.num_rows
        self.n_without_user += table["user_id"].null_count
        self.n_without_item += table["item_id"].null_count
        click, conversion = (table[name].to_numpy() for name in ("click", "conversion"))
        self.n_converted_unclicked += int(np.sum((conversion == 1) & (click == 0)))

    def __str__(self) -> str:
        lines = [f"{self.n_rows:,} rows, {len(self.malformed)} malformed lines"]
        lines += [f"  {line}" for line in self.malformed]
        for number, count in sorted(self.unknown_fields.items()):
            lines.append(f"  {count:,} values of the unknown field {number} left out")
        for count, what in (
            (self.n_without_common, "without common features: user columns are null"),
            (self.n_without_user, "without user id"),
            (self.n_without_item, "without item id"),
            (self.n_converted_unclicked, "with a conversion but no click"),
        ):
            if count:
                lines.append(f"  {count:,} rows {what}")
        return "\n".join(lines)


def read(folder: Path, part: str, *, report: Report | None = None) -> Iterator[pa.Table]:
    """:func:`read_raw` where ``folder`` holds raw files of the part, else :func:`read_parquet`.

    Parquet files are looked for in ``{part}/``. ``FileNotFoundError`` where there is neither.
    """
    if any(path is not None for path in _find_raw(Path(folder), part)):
        return read_raw(folder, part, report=report)
    if not any((Path(folder) / part).glob("*.parquet")):
        raise FileNotFoundError(
            f"{folder}: expected sample_skeleton_{part}.csv and common_features_{part}.csv, or "
            f"{part}/*.parquet; got neither"
        )
    return read_parquet(Path(folder) / part, report=report)


def read_raw(
    folder: Path, part: str, *, report: Report | None = None, block_bytes: int = BLOCK_BYTES
) -> Iterator[pa.Table]:
    """The publisher's raw files of one part, as tables of ``SCHEMA`` in the order of its lines.

    Parameters
    ----------
    folder
        Holds ``sample_skeleton_{part}.csv`` and ``common_features_{part}.csv``, itself or in
        ``{part}/`` or ``sample_{part}/``.
    part
        ``train`` or ``test``.
    report
        Filled as the tables come; None allows no malformed line.
    block_bytes
        Text read at once; a table holds the rows of one block.

    Raises
    ------
    FileNotFoundError
        A file is missing; all missing ones are named.
    ValueError
        More malformed lines than the report allows, with file and line number. Malformed is a
        line with other fields, a feature that is not ``field \\x02 id \\x03 weight``, another
        number of features than the line says, or two values of a field that has one.
    """
    report = Report() if report is None else report
    skeleton, common_path = _raw_paths(Path(folder), part)
    with TemporaryDirectory() as spill:
        common = _CommonFeatures.read(common_path, Path(spill), report, block_bytes)
        for first, lines in _blocks(skeleton, block_bytes):
            table = _skeleton_table(skeleton, first, lines, common, report)
            report.add(table)
            yield table


def read_parquet(
    folder: Path, *, report: Report | None = None, rows: int = PARQUET_ROWS
) -> Iterator[pa.Table]:
    """Parquet files, Merlin's or this module's, as tables of ``SCHEMA`` of up to ``rows`` rows.

    Merlin writes one value a field, as whole numbers or as floats with NaN: where Ali-CCP repeats a
    field it becomes a list of that value; weights are null. Rows without ``sample_id`` are numbered
    from 1.

    Raises
    ------
    FileNotFoundError
        ``folder`` holds no parquet file.
    ValueError
        Columns missing (named), or values that are no whole numbers.
    """
    report = Report() if report is None else report
    paths = sorted(Path(folder).glob("*.parquet"))
    if not paths:
        raise FileNotFoundError(f"{folder}: expected parquet files, got none")
    for path in paths:
        with pq.ParquetFile(path) as file:
            check_columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=rows):
                table = _conform(path, pa.Table.from_batches([batch]), 1 + report.n_rows)
                report.add(table)
                yield table


def read_samples(
    path: Path, *, report: Report | None = None, block_bytes: int = BLOCK_BYTES
) -> Iterator[pa.Table]:
    """Re-encoded rows as other projects publish them, as tables of ``SCHEMA``.

    Three formats are told apart by the first line: Torch-RecHub's csv (a column a field, and its
    weight in ``D`` + field), the csv of PaddleRec's AITM (with or without the line of names) and
    the multi-hot text of PaddleRec's ESMM (``field:id``). Id 0 stands for a missing value in all of
    them, and so is none here. A csv
    row's ``sample_id`` is its line number.

    Raises ``FileNotFoundError``, and ``ValueError`` on an unknown format or on more malformed lines
    than the report allows.
    """
    report = Report() if report is None else report
    path = Path(path)
    names: list[str] | None = None
    for first, raw_lines in _blocks(path, block_bytes):
        lines = [line.rstrip(b"\r").decode("latin-1") for line in raw_lines]
        if first == 1:
            names = _sample_names(path, lines[0])
            if lines[0].startswith("click,"):
                first, lines = 2, lines[1:]
        features = _Features(report, path, first, len(lines))
        parse = _multi_hot_line if names is None else _csv_line
        heads = [parse(features, i, line, names) for i, line in enumerate(lines)]
        table = _samples_table(features, heads)
        report.add(table)
        yield table


def write_parquet(tables: Iterable[pa.Table], folder: Path, *, rows: int = FILE_ROWS) -> int:
    """Write tables as ``part_00000.parquet`` and so on, about ``rows`` rows each; returns the rows.

    Raises ``FileExistsError`` where the folder holds parquet files.
    """
    folder = Path(folder)
    if any(folder.glob("*.parquet")):
        raise FileExistsError(f"{folder}: expected no parquet files, got some")
    folder.mkdir(parents=True, exist_ok=True)
    n_written, n_in_file, n_files, writer = 0, 0, 0, None
    try:
        for table in tables:
            if writer is None:
                path = folder / f"part_{n_files:05d}.parquet"
                writer, n_files, n_in_file = pq.ParquetWriter(path, table.schema), n_files + 1, 0
            writer.write_table(table)
            n_written, n_in_file = n_written + table.num_rows, n_in_file + table.num_rows
            if n_in_file >= rows:
                writer.close()
                writer = None
    finally:
        if writer is not None:
            writer.close()
    return n_written


def distinct_items(tables: Iterable[pa.Table]) -> pd.DataFrame:
    """``ITEM_COLUMNS`` of every item id, from its first row; memory is bounded by the catalog."""
    found = pd.DataFrame({name: pd.array([], "Int64") for name in ITEM_COLUMNS})
    waiting: list[pd.DataFrame] = []
    for table in tables:
        rows = pd.DataFrame(
            {name: pd.array(table[name].to_pylist(), "Int64") for name in ITEM_COLUMNS}
        )
        waiting.append(rows.dropna(subset=["item_id"]).drop_duplicates("item_id"))
        if sum(map(len, waiting)) > max(len(found), 100_000):
            found, waiting = _first_of_each(found, waiting), []
    return _first_of_each(found, waiting).astype({"item_id": np.int64})


def _first_of_each(found: pd.DataFrame, waiting: list[pd.DataFrame]) -> pd.DataFrame:
    rows = pd.concat([found, *waiting], ignore_index=True)
    return rows.drop_duplicates("item_id", ignore_index=True)


class _Features:
    """Values of fields over a block of lines, and which of the lines are malformed."""

    def __init__(self, report: Report, path: Path, first: int, n_lines: int) -> None:
        self.report, self.path, self.first = report, path, first
        self.is_right = np.ones(n_lines, bool)
        self.values: list[tuple[int, str, int, float]] = []
        """(line of the block, field, id, weight), as the sample readers append them."""

    def refuse(self, line: int, reason: str) -> None:
        """A malformed line of the block, reported once."""
        if self.is_right[line]:
            self.is_right[line] = False
            self.report.refuse(self.path, self.first + line, reason)

    def table(
        self,
        fields: Sequence[Field],
        lines: np.ndarray,
        numbers: pa.Array,
        ids: np.ndarray,
        weights: np.ndarray,
    ) -> pa.Table:
        """Columns of ``fields``, a row a right line; values are given in the order of the lines."""
        number_of = pc.index_in(numbers, value_set=pa.array([f.number for f in fields]))
        kinds = pc.fill_null(number_of, -1).to_numpy(zero_copy_only=False)
        for kind, one in enumerate(fields):
            if not one.is_list:
                self._refuse_repeated(one, lines[kinds == kind])
        right = self.is_right[lines]
        unknown = pc.value_counts(numbers.filter(pa.array(right & (kinds < 0))))
        self.report.unknown_fields.update({n["values"]: n["counts"] for n in unknown.to_pylist()})
        row_of_line = np.cumsum(self.is_right) - 1
        columns: dict[str, pa.Array] = {}
        for kind, one in enumerate(fields):
            mine = right & (kinds == kind)
            rows = row_of_line[lines[mine]]
            columns |= _columns(one, int(self.is_right.sum()), rows, ids[mine], weights[mine])
        return pa.table(columns)

    def _refuse_repeated(self, one: Field, lines: np.ndarray) -> None:
        counts = np.bincount(lines, minlength=len(self.is_right))
        for line in np.flatnonzero(counts > 1):
            self.refuse(line, f"field {one.number}: expected one value, got {counts[line]}")


def _columns(
    one: Field, n_rows: int, rows: np.ndarray, ids: np.ndarray, weights: np.ndarray
) -> dict[str, pa.Array]:
    """The columns of one field from its values, in the order of ``rows``."""
    if not one.is_list:
        values, is_missing = np.zeros(n_rows, np.int64), np.ones(n_rows, bool)
        values[rows], is_missing[rows] = ids, False
        return {one.name: pa.array(values, mask=is_missing)}
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_rows))])
    offsets = pa.array(offsets.astype(np.int32))
    columns = {one.name: pa.ListArray.from_arrays(offsets, pa.array(ids))}
    if one.is_weighted:
        columns[one.weights] = pa.ListArray.from_arrays(
            offsets, pa.array(weights.astype(np.float32))
        )
    return columns


class _CommonFeatures:
    """The user columns of every common feature key: on disk, memory-mapped; the keys in memory."""

    def __init__(self, file: pa.ipc.RecordBatchFileReader, keys: pd.Index) -> None:
        self._file, self._keys = file, keys
        sizes = [file.get_batch(i).num_rows for i in range(file.num_record_batches)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @classmethod
    def read(
        cls, path: Path, spill: Path, report: Report, block_bytes: int = BLOCK_BYTES
    ) -> _CommonFeatures:
        """Read the file once, its columns into a file of folder ``spill``."""
        columns, keys, line_of = spill / "common.arrow", [], {}
        with pa.ipc.new_file(str(columns), USER_SCHEMA) as writer:
            for first, lines in _blocks(path, block_bytes):
                features = _Features(report, path, first, len(lines))
                heads = _heads(features, lines, COMMON_LINE, "common feature key, count, features")
                for i, head in enumerate(heads):
                    if head[0] in line_of:
                        features.refuse(
                            i, f"key {head[0]}: expected once, got it in line {line_of[head[0]]}"
                        )
                    elif features.is_right[i]:
                        line_of[head[0]] = first + i
                table = _raw_features(features, heads, USER_FIELDS)
                keys += [heads[i][0] for i in np.flatnonzero(features.is_right)]
                writer.write_table(table.cast(USER_SCHEMA).combine_chunks())
        del line_of
        return cls(pa.ipc.open_file(pa.memory_map(str(columns))), pd.Index(keys, dtype=object))

    def look_up(self, keys: list[str], report: Report) -> pa.Table:
        """User columns, a row a key; null where the key is unknown, which is counted."""
        positions, row_of = np.unique(self._keys.get_indexer(keys), return_inverse=True)
        is_unknown = positions[:1] < 0
        known = positions[len(positions[:1][is_unknown]) :]
        batch_of = np.searchsorted(self._starts, known, side="right") - 1
        parts = [_nothing(USER_SCHEMA)] if is_unknown.any() else []
        for batch in np.unique(batch_of):
            local = known[batch_of == batch] - self._starts[batch]
            parts.append(self._file.get_batch(int(batch)).take(pa.array(local)))
        if is_unknown.any():
            report.n_without_common += int(np.sum(row_of == 0))
        table = pa.Table.from_batches(parts, USER_SCHEMA).combine_chunks()
        return table.take(pa.array(row_of.ravel()))


def _nothing(schema: pa.Schema) -> pa.RecordBatch:
    """One row of nulls and empty lists."""
    values = [[[] if pa.types.is_list(one.type) else None] for one in schema]
    columns = [pa.array(value, one.type) for value, one in zip(values, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _skeleton_table(
    path: Path, first: int, lines: list[bytes], common: _CommonFeatures, report: Report
) -> pa.Table:
    features = _Features(report, path, first, len(lines))
    names = "sample id, click, conversion, common feature key, count, features"
    heads = _heads(features, lines, SKELETON_LINE, names)
    columns = _raw_features(features, heads, SAMPLE_FIELDS)
    heads = [heads[i] for i in np.flatnonzero(features.is_right)]
    table = common.look_up([head[3] for head in heads], report)
    for i, (name, dtype) in enumerate(HEAD):
        table = table.append_column(name, pa.array([int(head[i]) for head in heads], dtype))
    for name in columns.column_names:
        table = table.append_column(name, columns[name])
    return table.select(SCHEMA.names).cast(SCHEMA)


def _heads(
    features: _Features, lines: list[bytes], pattern: re.Pattern[bytes], names: str
) -> list[list[str]]:
    """The fields of every line; of a malformed one empty texts."""
    heads = []
    for i, line in enumerate(lines):
        match = pattern.fullmatch(line.rstrip(b"\r"))
        if match is None:
            shown = line[:60].decode("latin-1")
            features.refuse(i, f"expected {names}, got {shown!r}")
            heads.append([""] * pattern.groups)
        else:
            heads.append([text.decode("latin-1") for text in match.groups()])
    return heads


def _raw_features(features: _Features, heads: list[list[str]], fields: Sequence[Field]) -> pa.Table:
    """Columns from the last two fields of raw lines, the count and the list of features."""
    lists = pc.split_pattern(pa.array([head[-1] or None for head in heads], pa.string()), "\x01")
    lines = pc.list_parent_indices(lists).to_numpy()
    texts = pc.list_flatten(lists)
    counts = np.bincount(lines, minlength=len(heads))
    for i in np.flatnonzero(features.is_right):
        if int(heads[i][-2]) != counts[i]:
            features.refuse(i, f"expected {heads[i][-2]} features, as it says, got {counts[i]}")
    parsed = pc.extract_regex(texts, FEATURE)
    is_feature = parsed.is_valid().to_numpy(zero_copy_only=False)
    for i in np.flatnonzero(~is_feature):
        text = texts[int(i)].as_py()[:60]
        features.refuse(lines[i], f"expected field \\x02 id \\x03 weight, got {text!r}")
    parsed, lines = parsed.filter(pa.array(is_feature)), lines[is_feature]
    numbers, ids, weights = parsed.flatten()
    return features.table(
        fields,
        lines,
        numbers,
        pc.cast(ids, pa.int64()).to_numpy(),
        pc.cast(weights, pa.float64()).to_numpy(),
    )


def _sample_names(path: Path, line: str) -> list[str] | None:
    """Column names of a csv of re-encoded rows; None where it is multi-hot text."""
    if line.startswith("click,purchase,"):
        names = line.split(",")
        unknown = [n for n in names[2:] if n not in BY_NUMBER and n.removeprefix("D") == n]
        if "205" not in names or unknown:
            raise ValueError(f"{path}: expected the fields of Ali-CCP, 205 among them, got {names}")
        return names
    if ":" in line:
        return None
    if line.count(",") == AITM.count(","):
        return AITM.split(",")
    raise ValueError(
        f"{path}: expected re-encoded rows of Torch-RecHub, AITM or ESMM, got {line[:60]!r}"
    )


def _csv_line(features: _Features, i: int, line: str, names: list[str]) -> tuple[int, int, int]:
    """(line number, click, conversion) of a csv line; its values go to ``features``."""
    texts = line.split(",")
    head = (features.first + i, 0, 0)
    if len(texts) != len(names):
        features.refuse(i, f"expected {len(names)} fields, got {len(texts)}")
        return head
    values = dict(zip(names, texts, strict=True))
    ids = {name: text for name, text in values.items() if name in BY_NUMBER}
    wrong = [text for text in ids.values() if not re.fullmatch(r"\d{1,18}", text, re.ASCII)]
    wrong += [text for text in texts[:2] if text not in ("0", "1")]
    weights = {name: text for name, text in values.items() if name.startswith("D")}
    wrong += [text for text in weights.values() if not re.fullmatch(r"[\d.]+(e-?\d+)?", text)]
    if wrong:
        features.refuse(i, f"expected numbers, clicks and purchases 0 or 1, got {wrong[0]!r}")
        return head
    for name, text in ids.items():
        if int(text):
            features.values.append((i, name, int(text), float(weights.get(f"D{name}", 1))))
    return head[0], int(texts[0]), int(texts[1])


def _multi_hot_line(features: _Features, i: int, line: str, names: None) -> tuple[int, int, int]:
    """(sample id, click, conversion) of a multi-hot line; its values go to ``features``."""
    match = MULTI_HOT_LINE.fullmatch(line)
    if match is None:
        features.refuse(
            i, f"expected sample id, click, conversion, field:id ..., got {line[:60]!r}"
        )
        return 0, 0, 0
    for text in match[4].split(",")[1:]:
        number, value = text.split(":")
        if int(value):
            features.values.append((i, number, int(value), 1.0))
    return int(match[1]), int(match[2]), int(match[3])


def _samples_table(features: _Features, heads: list[tuple[int, int, int]]) -> pa.Table:
    lines, numbers, ids, weights = (
        zip(*features.values, strict=True) if features.values else [()] * 4
    )
    table = features.table(
        FIELDS,
        np.array(lines, np.int64),
        pa.array(numbers, pa.string()),
        np.array(ids, np.int64),
        np.array(weights, np.float64),
    )
    right = np.flatnonzero(features.is_right)
    for i, (name, dtype) in enumerate(HEAD):
        table = table.append_column(name, pa.array([heads[j][i] for j in right], dtype))
    return table.select(SCHEMA.names).cast(SCHEMA)


def check_columns(path: Path, names: list[str]) -> None:
    expected = ["click", "conversion", *(f.name for f in FIELDS)]
    missing = [name for name in expected if name not in names]
    if missing:
        raise ValueError(f"{path}: expected the columns {missing}, got {names}")


def _conform(path: Path, table: pa.Table, number: int) -> pa.Table:
    """A table of parquet columns in ``SCHEMA``."""
    columns = []
    for one in SCHEMA:
        if one.name in table.column_names:
            columns.append(_conform_column(path, table[one.name].combine_chunks(), one))
        elif one.name == "sample_id":
            columns.append(pa.array(np.arange(number, number + table.num_rows)))
        else:
            columns.append(pa.nulls(table.num_rows, one.type))
    return pa.table(columns, schema=SCHEMA)


def _conform_column(path: Path, column: pa.Array, one: pa.Field) -> pa.Array:
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    try:
        if not pa.types.is_list(one.type) or pa.types.is_list(column.type):
            return column.cast(one.type)
        present = column.is_valid().to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(present)]).astype(np.int32)
        values = column.drop_null().cast(one.type.value_type)
        return pa.ListArray.from_arrays(pa.array(offsets), values)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: {one.name}: expected whole numbers ({error})") from error


def _blocks(path: Path, block_bytes: int) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the first, whole lines) of a file, about ``block_bytes`` at once."""
    number, rest = 1, b""
    with path.open("rb") as file:
        while chunk := file.read(block_bytes):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            if len(rest) > MAX_LINE_BYTES:
                raise ValueError(
                    f"{path}, line {number + len(lines)}: expected up to {MAX_LINE_BYTES} bytes, "
                    "got a longer line"
                )
            if lines:
                yield number, lines
            number += len(lines)
    if rest:
        yield number, [rest]


def _raw_names(part: str) -> list[str]:
    return [f"sample_skeleton_{part}.csv", f"common_features_{part}.csv"]


def _find_raw(folder: Path, part: str) -> list[Path | None]:
    places = (folder, folder / part, folder / f"sample_{part}")
    return [
        next((place / name for place in places if (place / name).is_file()), None)
        for name in _raw_names(part)
    ]


def _raw_paths(folder: Path, part: str) -> list[Path]:
    found = _find_raw(folder, part)
    missing = [name for name, path in zip(_raw_names(part), found, strict=True) if path is None]
    if missing:
        raise FileNotFoundError(f"{folder}: expected the files {', '.join(missing)}, got none")
    return [path for path in found if path is not None]
