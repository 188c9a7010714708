"""Vectors as JSON arrays in a column of text, ``"[0.1, 0.2]"``, as CSV files often have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from merlin_poeem.arrays import Float32, Int64

CHUNK_ROWS = 1 << 14
CHUNK_BYTES = 1 << 24
SHOWN_CHARACTERS = 60


def parse_vectors(name: str, texts: Any) -> tuple[Int64, Float32]:
    """The length of each row, and the values of all, of an Arrow array of texts without nulls.

    A null within an array is NaN. ``ValueError`` naming the first row that is no JSON array of
    numbers, counted from 0.
    """
    if not len(texts):
        return np.empty(0, np.int64), np.empty(0, np.float32)
    lengths, values = zip(*_parse(name, texts), strict=True)
    return np.concatenate(lengths), np.concatenate(values)


def _parse(name: str, texts: Any) -> Iterator[tuple[Int64, Float32]]:
    """:func:`parse_vectors`, in chunks that bound the memory."""
    n_rows = min(CHUNK_ROWS, max(1, len(texts) * CHUNK_BYTES // texts.nbytes))
    for start in range(0, len(texts), n_rows):
        chunk = texts.slice(start, n_rows).to_pylist()
        lists = _parse_chunk(chunk)
        if lists is None:
            row = next(i for i, text in enumerate(chunk) if _parse_chunk([text]) is None)
            shown = chunk[row][:SHOWN_CHARACTERS]
            raise ValueError(
                f"{name}: expected a JSON array of numbers, got {shown!r} in row {start + row}"
            )
        yield _lengths_and_values(lists)


def _parse_chunk(texts: list[str]) -> Any:
    """JSON arrays as an Arrow list array of float64; None where a text is anything else.

    Arrow reads lines of objects, several times faster than :mod:`json` and in less memory. A text
    that closes its object too early adds a row, and none can take one away.
    """
    import pyarrow as pa
    import pyarrow.json

    lines = ('{"v":' + '}\n{"v":'.join(texts) + "}").encode()
    read_options = pyarrow.json.ReadOptions(block_size=len(lines) + 1)
    parse_options = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema([("v", pa.list_(pa.float64()))]),
        unexpected_field_behavior="error",
    )
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(lines), read_options=read_options, parse_options=parse_options
        )
    except pa.ArrowInvalid:
        return None
    lists = pa.concat_arrays(table.column("v").chunks)
    return None if len(lists) != len(texts) or lists.null_count else lists


def _lengths_and_values(lists: Any) -> tuple[Int64, Float32]:
    """An Arrow list array without null rows; a null within a list becomes NaN."""
    import pyarrow.compute as pc

    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # infinity has no place in a vector either, and is named there
        return lengths.astype(np.int64), values.astype(np.float32)
