"""Whatever is done to the bytes of a saved index: an IndexFormatError, or the same answers."""

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merlin_poeem.index.loading import load_index
from merlin_poeem.index.saving import save_index
from merlin_poeem.index.stored_files import IndexFormatError, read_header
from tests.index.saved_indexes import (
    assert_same,
    assert_same_table,
    files_of,
    make_index,
    write_header,
)

ORIGINAL = make_index(12, with_table=True, rotated="stretched", vectors="float16")


@pytest.fixture(scope="module")
def original_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        save_index(ORIGINAL, folder)
        return files_of(Path(folder))


def assert_harmless(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        with suppress(IndexFormatError):
            loaded = load_index(folder)
            assert_same(loaded, ORIGINAL)
            assert_same_table(loaded, ORIGINAL)
            assert loaded.info == ORIGINAL.info


@settings(max_examples=200)
@given(data=st.data())
def test_fuzz_bytes(original_files: dict[str, bytes], data: st.DataObject) -> None:
    files = dict(original_files)
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    position = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["flip", "truncate", "delete", "overwrite", "insert", "swap"]))
    if kind == "flip":
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "truncate":
        del content[position:]
    elif kind == "overwrite":
        junk = data.draw(st.binary(min_size=1, max_size=64))
        content[position : position + len(junk)] = junk
    elif kind == "insert":
        content[position:position] = data.draw(st.binary(min_size=1, max_size=8))
    elif kind == "swap":
        content = bytearray(files[data.draw(st.sampled_from(sorted(files)))])
    files[name] = bytes(content)
    if kind == "delete":
        del files[name]
    assert_harmless(files)


def test_every_byte_of_the_header(original_files: dict[str, bytes]) -> None:
    """One flipped bit anywhere in the header: an error, or the same header."""
    header = original_files["header.json"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "header.json").write_bytes(header)
        expected = read_header(path)
        for position in range(len(header)):
            damaged = bytearray(header)
            damaged[position] ^= 1 << position % 7
            (path / "header.json").write_bytes(damaged)
            with suppress(IndexFormatError):
                assert read_header(path) == expected


ODD_VALUES = st.one_of(
    st.sampled_from([None, True, 0, -1, 1, 1 << 31, 1 << 60, 1 << 70, 0.5, "", "x", [], {}]),
    st.lists(st.sampled_from([1 << 60, -1, 0, 3, "x"]), max_size=3),
    st.text(max_size=8),
)


@settings(max_examples=200)
@given(data=st.data())
def test_fuzz_header_values(data: st.DataObject, header_only: dict[str, bytes]) -> None:
    """Mutated values under a right checksum: what a faulty or hostile writer would make."""
    content = json.loads(header_only["header.json"])
    target: Any = content["header"]
    while True:
        key = data.draw(st.sampled_from(sorted(target)))
        deeper = isinstance(target[key], dict) and target[key]
        if not deeper or data.draw(st.booleans()):
            break
        target = target[key]
    if data.draw(st.booleans()):
        target[key] = data.draw(ODD_VALUES)
    else:
        del target[key]
    with tempfile.TemporaryDirectory() as folder:
        for name, file in header_only.items():
            (Path(folder) / name).write_bytes(file)
        write_header(Path(folder), content)
        with suppress(IndexFormatError):
            assert_same(load_index(folder).with_n_probes(2), make_index(metric="cosine"))


@pytest.fixture(scope="module")
def header_only() -> dict[str, bytes]:
    """Without ``rotation`` or ``has_list_lengths``, a header is a right one of another index."""
    with tempfile.TemporaryDirectory() as folder:
        save_index(make_index(metric="cosine"), folder)
        return files_of(Path(folder))
