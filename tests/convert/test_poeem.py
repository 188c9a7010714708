"""Poeem's index files, against a writer and a search written from the description of the format."""

import os
import struct
import tempfile
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merlin_poeem.convert.poeem import read_poeem, write_poeem
from merlin_poeem.index.index import Index
from merlin_poeem.index.loading import load_index
from merlin_poeem.index.saving import save_index
from merlin_poeem.index.stored_files import IndexFormatError
from merlin_poeem.quantization.item_codes import ItemCodes, Quantization
from merlin_poeem.quantization.params import IVFPQParams
from merlin_poeem.search import reference

GOLDEN = Path(__file__).parents[1] / "golden" / "poeem-residual.index"


@dataclass
class PoeemFile:
    """The fields of a Poeem file, in Poeem's order."""

    use_residual: int
    codebook: np.ndarray
    item_id: np.ndarray
    item_norm: np.ndarray
    item_code: np.ndarray
    centroids: np.ndarray
    assignment: np.ndarray

    def to_bytes(self) -> bytes:
        """Byte by byte: shares nothing with the converter."""
        (n_lists, dim), (pq_dim, pq_book_size, _) = self.centroids.shape, self.codebook.shape
        out = struct.pack("<b", self.use_residual)
        out += struct.pack("<qqqqq", len(self.item_id), dim, n_lists, pq_book_size, pq_dim)
        out += b"".join(struct.pack("<f", x) for x in self.codebook.ravel())
        out += b"".join(struct.pack("<q", x) for x in self.item_id)
        out += b"".join(struct.pack("<f", x) for x in self.item_norm)
        code = "<H" if pq_book_size > 256 else "<B"
        out += b"".join(struct.pack(code, x) for x in self.item_code.ravel())
        out += b"".join(struct.pack("<f", x) for x in self.centroids.ravel())
        return out + b"".join(struct.pack("<I", x) for x in self.assignment)

    @classmethod
    def from_bytes(cls, data: bytes) -> "PoeemFile":
        use_residual, n, dim, n_lists, pq_book_size, pq_dim = struct.unpack_from("<bqqqqq", data)
        position = 41

        def take(dtype: str, *shape: int) -> np.ndarray:
            nonlocal position
            array = np.frombuffer(data, dtype, int(np.prod(shape)), position)
            position += array.nbytes
            return array.reshape(shape)

        file = cls(
            use_residual,
            take("<f4", pq_dim, pq_book_size, dim // pq_dim),
            take("<i8", n),
            take("<f4", n),
            take("<u2" if pq_book_size > 256 else "u1", n, pq_dim),
            take("<f4", n_lists, dim),
            take("<u4", n),
        )
        assert position == len(data)
        return file

    def search(
        self, query: np.ndarray, metric_type: int, n_probe: int, topk: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Poeem's search, as formats.md describes it: (scores, ids), padded with id −1."""
        nearest = np.argsort(((self.centroids - query) ** 2).sum(axis=1), kind="stable")[:n_probe]
        found = []
        for row in range(len(self.item_id)):
            if self.assignment[row] not in nearest or self.item_norm[row] == 0:
                continue
            parts = query.reshape(len(self.codebook), -1)
            ip = sum(
                float(parts[m] @ self.codebook[m, code])
                for m, code in enumerate(self.item_code[row])
            )
            if self.use_residual:
                ip += float(query @ self.centroids[self.assignment[row]])
            norm, square = float(self.item_norm[row]), float(query @ query)
            score = (square + norm - 2 * ip, ip, ip / (square * norm))[metric_type]
            found.append((score, int(self.item_id[row])))
        found.sort(key=lambda pair: (pair[0] if metric_type == 0 else -pair[0], pair[1]))
        found = found[:topk] + [(0.0, -1)] * (topk - len(found))
        return np.array([s for s, _ in found]), np.array([i for _, i in found])


def make_file(
    n_items: int = 40,
    *,
    pq_book_size: int = 16,
    pq_dim: int = 3,
    pq_len: int = 2,
    n_lists: int = 4,
    use_residual: int = 1,
    seed: int = 0,
) -> PoeemFile:
    rng = np.random.default_rng(seed)
    shape = (pq_dim, pq_book_size, pq_len)
    return PoeemFile(
        use_residual,
        rng.normal(size=shape).astype(np.float32),
        (1 << 40) + rng.permutation(10 * n_items)[:n_items].astype(np.int64),
        rng.uniform(0.5, 2, n_items).astype(np.float32),
        rng.integers(0, pq_book_size, (n_items, pq_dim)),
        rng.normal(size=(n_lists, pq_dim * pq_len)).astype(np.float32),
        rng.integers(0, max(1, n_lists - 1), n_items),  # the last list stays empty
    )


def golden_file() -> PoeemFile:
    """Values from a formula: no random generator has to stay the same."""
    n_items, pq_dim, pq_book_size, pq_len, n_lists = 30, 2, 100, 3, 4
    wave = np.sin(np.arange(1000, dtype=np.float64)).astype(np.float32)
    n_codewords = pq_dim * pq_book_size * pq_len
    return PoeemFile(
        1,
        wave[:n_codewords].reshape(pq_dim, pq_book_size, pq_len),
        (1 << 35) + 3 * np.arange(n_items),
        np.where(np.arange(n_items) % 10 == 7, 0, 1 + np.arange(n_items)).astype(np.float32),
        (37 * np.arange(n_items * pq_dim) % pq_book_size).reshape(n_items, pq_dim),
        wave[n_codewords : n_codewords + n_lists * 6].reshape(n_lists, 6),
        np.arange(n_items) % 3,
    )


def read_bytes(data: bytes) -> Index:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "poeem.index"
        path.write_bytes(data)
        return read_poeem(path)


def assert_inner_product_agrees(index: Index, file: PoeemFile, topk: int = 10) -> None:
    """Our search over all lists is Poeem's metric_type 1."""
    queries = np.random.default_rng(5).normal(size=(5, index.dim)).astype(np.float32)
    found = reference.search(index, queries, k=topk, n_probes=index.n_lists)
    for i, query in enumerate(queries):
        scores, item_ids = file.search(query, 1, len(file.centroids), topk)
        held = item_ids >= 0
        assert found.counts[i] == held.sum()
        np.testing.assert_array_equal(found[i][1], item_ids[held])
        np.testing.assert_allclose(found[i][0], scores[held], rtol=1e-5, atol=1e-5)


# Reading.


@pytest.mark.parametrize("use_residual", [0, 1])
@pytest.mark.parametrize(
    ("pq_book_size", "pq_bits"),
    [(1, 4), (2, 4), (16, 4), (17, 8), (100, 8), (256, 8), (257, 9), (300, 9), (1024, 10)],
)
def test_read(pq_book_size: int, pq_bits: int, use_residual: int) -> None:
    file = make_file(pq_book_size=pq_book_size, use_residual=use_residual)
    index = read_bytes(file.to_bytes())
    assert index.params.pq_bits == pq_bits
    assert index.quantization.encodes_residual == bool(use_residual)
    assert index.n_items == 40
    assert index.list_sizes[-1] == 0
    assert_inner_product_agrees(index, file)


@pytest.mark.parametrize(("pq_dim", "pq_len"), [(1, 1), (5, 3), (1, 7), (8, 1)])
def test_read_other_shapes(pq_dim: int, pq_len: int) -> None:
    file = make_file(pq_dim=pq_dim, pq_len=pq_len)
    assert_inner_product_agrees(read_bytes(file.to_bytes()), file)


def test_read_largest_codebook() -> None:
    file = make_file(5, pq_book_size=65536, pq_dim=1, pq_len=1)
    file.item_code[:2, 0] = 65535, 0
    index = read_bytes(file.to_bytes())
    assert index.params.pq_bits == 16
    assert_inner_product_agrees(index, file)


def test_read_no_items() -> None:
    file = make_file(0)
    index = read_bytes(file.to_bytes())
    assert index.n_items == 0
    assert_inner_product_agrees(index, file)


def test_rows_of_norm_0_are_dropped() -> None:
    file = make_file()
    file.item_norm[[3, 8, 9]] = 0, -0.0, 0
    file.item_id[8] = file.item_id[0]  # an id may repeat where the row does not count
    index = read_bytes(file.to_bytes())
    assert index.n_items == 37
    assert index.info["rows_dropped"] == 3
    assert_inner_product_agrees(index, file, topk=40)


def test_filled_up_codewords_are_never_chosen() -> None:
    index = read_bytes(make_file(pq_book_size=100).to_bytes())
    extended = index.extend([1, 2], np.zeros((2, index.dim), np.float32))
    assert extended.codes.max() < 100
    codebook = index.quantization.codebook
    np.testing.assert_array_equal(codebook[:, 100:], np.repeat(codebook[:, :1], 156, axis=1))


@pytest.mark.parametrize("metric", ["inner_product", "l2", "cosine"])
def test_metric_is_the_callers(tmp_path: Path, metric: str) -> None:
    (tmp_path / "x").write_bytes(make_file().to_bytes())
    assert read_poeem(tmp_path / "x", metric).params.metric == metric


def test_read_index_saves_in_our_format(tmp_path: Path) -> None:
    file = make_file(pq_book_size=300)
    save_index(read_bytes(file.to_bytes()), tmp_path)
    assert_inner_product_agrees(load_index(tmp_path), file)


def test_golden() -> None:
    assert GOLDEN.read_bytes() == golden_file().to_bytes()
    index = read_poeem(GOLDEN)
    assert index.n_items == 27
    assert index.info["rows_dropped"] == 3
    assert_inner_product_agrees(index, golden_file())


# Damage.


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_poeem(tmp_path / "missing")
    with pytest.raises(IndexFormatError, match="not a file"):
        read_poeem(tmp_path)


def broken(**values: object) -> bytes:
    return replace(make_file(), **values).to_bytes()


CODES, LISTS, IDS = make_file().item_code, make_file().assignment, make_file().item_id
NAN = np.full_like(make_file().codebook, np.nan)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (broken(item_code=CODES + 1), "codes: expected below 16, got 16"),
        (broken(assignment=LISTS + 3), "list_ids: expected values below n_lists = 4"),
        (broken(assignment=LISTS + (1 << 31)), "list_ids: expected values from 0"),
        (broken(item_id=np.minimum(IDS, IDS[0])), "item_ids: expected each id once"),
        (broken(codebook=NAN), "codebook: expected finite values"),
        (broken(use_residual=2), "not a Poeem index: its header reads"),
        (broken(use_residual=-1), "not a Poeem index: its header reads"),
    ],
)
def test_bad_values(data: bytes, message: str) -> None:
    with pytest.raises(IndexFormatError, match=message):
        read_bytes(data)


def test_codes_of_the_filling_are_errors() -> None:
    file = make_file(pq_book_size=100)
    file.item_code[0, 0] = 100
    with pytest.raises(IndexFormatError, match="codes: expected below 100, got 100"):
        read_bytes(file.to_bytes())


def test_truncated_at_any_byte() -> None:
    data = make_file(3, pq_dim=1, n_lists=1).to_bytes()
    for size in range(len(data)):
        with pytest.raises(IndexFormatError, match="truncated Poeem index"):
            read_bytes(data[:size])


def test_oversized() -> None:
    with pytest.raises(IndexFormatError, match=r"not a Poeem index: expected .* bytes"):
        read_bytes(make_file().to_bytes() + b"\0")


def test_file_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(make_file().to_bytes())
    fromfile = np.fromfile

    def shrinking(*args: object) -> np.ndarray:
        os.truncate(path, 60)
        return fromfile(*args)

    monkeypatch.setattr(np, "fromfile", shrinking)
    with pytest.raises(IndexFormatError, match="shrank"):
        read_poeem(path)


HEADER_FIELDS = ("n_items", "dim", "n_lists", "pq_book_size", "pq_dim")


@pytest.mark.parametrize("field", range(5), ids=HEADER_FIELDS)
@pytest.mark.parametrize("value", [-1, -(1 << 63), 1 << 31, 1 << 40, 1 << 61, (1 << 63) - 1])
def test_absurd_sizes_allocate_nothing(tmp_path: Path, field: int, value: int) -> None:
    data = bytearray(make_file().to_bytes())
    struct.pack_into("<q", data, 1 + 8 * field, value)
    (tmp_path / "x").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(IndexFormatError):
            read_poeem(tmp_path / "x")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


SIZES = st.one_of(
    st.integers(-2, 70),
    st.sampled_from([255, 256, 257, 1 << 16, 1 << 31, 1 << 32, 1 << 62]),
    st.integers(-(1 << 63), (1 << 63) - 1),
)


@settings(max_examples=300)
@given(data=st.data())
def test_fuzz(data: st.DataObject) -> None:
    """Any damage: an IndexFormatError, or an index that can be searched."""
    content = bytearray(make_file(12).to_bytes())
    for field in data.draw(st.sets(st.integers(0, 4), max_size=3)):
        struct.pack_into("<q", content, 1 + 8 * field, data.draw(SIZES))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content += data.draw(st.binary(max_size=8))
    del content[data.draw(st.one_of(st.none(), st.integers(0, len(content)))) :]
    try:
        index = read_bytes(bytes(content))
    except IndexFormatError:
        return
    # A flipped exponent bit makes a centroid huge, and its scores infinite.
    with np.errstate(all="ignore"):
        found = reference.search(index, np.ones((1, index.dim), np.float32), k=3)
    assert np.isin(found.item_ids, index.item_ids).all()


# Writing.


def make_index(pq_bits: int = 4, metric: str = "l2", *, residual: bool = True) -> Index:
    file = make_file(pq_book_size=1 << pq_bits)
    quantization = Quantization(file.centroids, file.codebook, encodes_residual=residual)
    codes = file.item_code.astype(quantization.code_dtype)
    params = IVFPQParams(n_lists=4, pq_dim=3, pq_bits=pq_bits, metric=metric)
    return Index.from_codes(params, quantization, ItemCodes(file.item_id, file.assignment, codes))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("pq_bits", [4, 8, 9])
def test_write_and_read(tmp_path: Path, pq_bits: int, residual: bool) -> None:
    index = make_index(pq_bits, "inner_product", residual=residual)
    write_poeem(index, tmp_path / "x")
    again = read_poeem(tmp_path / "x")
    assert again.params == index.params
    assert again.quantization.encodes_residual == residual
    assert again.info["rows_dropped"] == 0
    for name in ("item_ids", "list_offsets", "codes"):
        np.testing.assert_array_equal(getattr(again, name), getattr(index, name))
    file = PoeemFile.from_bytes((tmp_path / "x").read_bytes())
    assert file.to_bytes() == (tmp_path / "x").read_bytes()
    assert_inner_product_agrees(again, file)
    assert os.listdir(tmp_path) == ["x"]


def test_written_norms_make_metric_type_0_the_squared_distance(tmp_path: Path) -> None:
    index = make_index()
    write_poeem(index, tmp_path / "x")
    file = PoeemFile.from_bytes((tmp_path / "x").read_bytes())
    query = np.linspace(-1, 1, index.dim).astype(np.float32)
    scores, item_ids = file.search(query, 0, 4, 10)
    found = reference.search(index, query[None], k=10, n_probes=4)
    np.testing.assert_array_equal(found.item_ids, item_ids)
    np.testing.assert_allclose(-found.scores, scores, rtol=1e-5, atol=1e-5)


def test_written_norms_of_a_cosine_index_make_metric_type_2_the_cosine(tmp_path: Path) -> None:
    index = make_index(metric="cosine")
    write_poeem(index, tmp_path / "x")
    file = PoeemFile.from_bytes((tmp_path / "x").read_bytes())
    query = np.linspace(-1, 1, index.dim).astype(np.float32)
    scores, item_ids = file.search(query, 2, 4, 10)
    found = reference.search(index, query[None], k=10, n_probes=4)
    np.testing.assert_array_equal(found.item_ids, item_ids)
    cosines = scores * np.linalg.norm(query)  # Poeem divides by |q|² instead of |q|
    np.testing.assert_allclose(found.scores, cosines, rtol=1e-5, atol=1e-5)


def test_items_that_decode_to_zero_are_kept(tmp_path: Path) -> None:
    zeros = Quantization(np.zeros((4, 6), np.float32), np.zeros((3, 16, 2), np.float32))
    index = make_index()
    index = Index.from_codes(index.params, zeros, index.item_codes)
    write_poeem(index, tmp_path / "x")
    assert read_poeem(tmp_path / "x").n_items == index.n_items


def test_write_no_items(tmp_path: Path) -> None:
    index = make_index()
    write_poeem(index.remove(index.item_ids), tmp_path / "x")
    assert read_poeem(tmp_path / "x").n_items == 0


def test_rotated_index_is_refused_unless_told(tmp_path: Path) -> None:
    plain = make_index(metric="inner_product")
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0].astype(np.float32)
    quantization = replace(plain.quantization, rotation=rotation)
    index = Index.from_codes(plain.params, quantization, plain.item_codes)
    with pytest.raises(ValueError, match=r"drop_rotation=True .* rotated by hand"):
        write_poeem(index, tmp_path / "x")
    assert os.listdir(tmp_path) == []
    write_poeem(index, tmp_path / "x", drop_rotation=True)
    queries = np.random.default_rng(2).normal(size=(3, 6)).astype(np.float32)
    expected = reference.search(index, queries, k=5, n_probes=4)
    found = reference.search(read_poeem(tmp_path / "x"), queries @ rotation, k=5, n_probes=4)
    np.testing.assert_array_equal(found.item_ids, expected.item_ids)


def test_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_poeem(make_index(), tmp_path / "x")
    before = (tmp_path / "x").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="disk full"):
                write_poeem(make_index(8), tmp_path / "x")
        assert os.listdir(tmp_path) == ["x"]
        assert (tmp_path / "x").read_bytes() == before
