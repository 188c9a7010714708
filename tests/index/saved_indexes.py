"""Small indexes, saved, compared and tampered with."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from merlin_poeem.index.index import Index
from merlin_poeem.quantization.item_codes import ItemCodes, Quantization
from merlin_poeem.quantization.params import IVFPQParams
from merlin_poeem.quantization.stored_vectors import StoredVectors, VectorDtype
from merlin_poeem.search import reference
from tests.index_factories import Rotation

GOLDEN = Path(__file__).parents[1] / "golden"
N_LISTS, PQ_DIM, PQ_LEN = 4, 3, 2
DIM = PQ_DIM * PQ_LEN


def make_index(
    n_items: int = 20,
    *,
    pq_bits: int = 4,
    metric: str = "inner_product",
    rotated: Rotation = False,
    encodes_residual: bool = True,
    with_table: bool = False,
    scales: bool = True,
    vectors: VectorDtype | None = None,
    seed: int = 0,
) -> Index:
    """With ``scales`` unless the metric is l2; with ``vectors`` of a dtype."""
    scales = scales and metric != "l2"
    rng = np.random.default_rng(seed)
    params = IVFPQParams(n_lists=N_LISTS, pq_dim=PQ_DIM, pq_bits=pq_bits, metric=metric, n_probes=2)
    rotation = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0].astype(np.float32)
    of_queries = None
    if rotated == "stretched":
        widths = np.geomspace(0.5, 2, DIM).astype(np.float32)
        rotation, of_queries = rotation * widths, rotation / widths
    quantization = Quantization(
        rng.normal(size=(N_LISTS, DIM)).astype(np.float32),
        rng.normal(size=(PQ_DIM, 1 << pq_bits, PQ_LEN)).astype(np.float32),
        rotation if rotated else None,
        encodes_residual,
        np.array([0.25, 4], np.float32) if scales else None,
        of_queries,
    )
    item_ids = (1 << 40) + rng.permutation(3 * n_items)[:n_items]
    item_codes = ItemCodes(
        item_ids,
        rng.integers(0, N_LISTS - 1, n_items),  # the last list stays empty
        rng.integers(0, 1 << pq_bits, (n_items, PQ_DIM)).astype(quantization.code_dtype),
        rng.integers(0, 256, n_items).astype(np.uint8) if scales else None,
    )
    table = pd.DataFrame({"item_id": item_ids, "title": [f"título {i}" for i in item_ids]})
    index = Index.from_codes(
        params,
        quantization,
        item_codes,
        item_table=table if with_table else None,
        info={"seed": seed, "note": "ü"},
    )
    if vectors is None:
        return index
    own = rng.normal(size=(n_items, DIM)).astype(np.float32)
    return index.with_vectors(item_ids, own, vectors)


def assert_same(got: Index, expected: Index) -> None:
    """The same parameters, rows and answers, bit for bit."""
    assert got.params == expected.params
    assert got.quantization.encodes_residual == expected.quantization.encodes_residual
    for name in ("rotation", "query_rotation", "scale_range"):
        assert_equal_or_none(getattr(got.quantization, name), getattr(expected.quantization, name))
    names = ("list_offsets", "item_ids", "packed_codes", "scales", "list_lengths64", "list_factors")
    for name in names:
        assert_equal_or_none(getattr(got, name), getattr(expected, name))
    assert got.refine == expected.refine
    assert_same_vectors(got.vectors, expected.vectors)
    queries = np.random.default_rng(9).normal(size=(3, DIM)).astype(np.float32)
    ours, theirs = (
        reference.search(index, queries, k=5, n_probes=N_LISTS) for index in (got, expected)
    )
    np.testing.assert_array_equal(ours.counts, theirs.counts)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    np.testing.assert_array_equal(ours.item_ids, theirs.item_ids)


def assert_same_vectors(got: StoredVectors | None, expected: StoredVectors | None) -> None:
    if expected is None:
        assert got is None
    else:
        assert got is not None
        for name in ("values", "scales", "origin"):
            assert_equal_or_none(getattr(got, name), getattr(expected, name))


def assert_equal_or_none(got: np.ndarray | None, expected: np.ndarray | None) -> None:
    if expected is None:
        assert got is None
    else:
        np.testing.assert_array_equal(got, expected, strict=True)


def assert_same_table(got: Index, expected: Index) -> None:
    if expected.item_table is None:
        assert got.item_table is None
    else:
        pd.testing.assert_frame_equal(got.item_table, expected.item_table)


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def named_files(path: Path) -> set[str]:
    header = json.loads((path / "header.json").read_text())["header"]
    table = header["item_table"]
    entries = [*header["arrays"].values(), *([table] if table else [])]
    return {"header.json", *(entry["file"] for entry in entries)}


def write_header(path: Path, content: dict[str, Any]) -> None:
    """The header with its checksum made right again."""
    canonical = json.dumps(content["header"], sort_keys=True, separators=(",", ":")).encode()
    content["crc32"] = zlib.crc32(canonical)
    (path / "header.json").write_text(json.dumps(content))


def rewrite(path: Path, name: str, data: bytes) -> None:
    """Replace an array file and make its entry in the header fit."""
    content = json.loads((path / "header.json").read_text())
    header = content["header"]
    entry = header["item_table"] if name == "item_table" else header["arrays"][name]
    (path / entry["file"]).write_bytes(data)
    entry.update(bytes=len(data), crc32=zlib.crc32(data))
    write_header(path, content)


def file_of(path: Path, name: str) -> Path:
    return next(path.glob(f"{name}-*"))
