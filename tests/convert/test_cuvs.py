"""Exports to cuVS and to Faiss on a GPU, neither of which is needed: a cuVS file is read back by
a reader of its own, written after cuVS' and RAFT's source, and searched as cuVS searches it."""

import os
import re
import types
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import Index
from merlin_poeem.arrays import normalize
from merlin_poeem.convert import faiss as convert_faiss
from merlin_poeem.convert.cuvs import save_cuvs
from merlin_poeem.convert.faiss import to_faiss_gpu
from merlin_poeem.search import reference
from tests.index_factories import random_index, random_queries

# --- reading ------------------------------------------------------------------------------------
# raft/core/detail/mdspan_numpy_serializer.hpp: a preamble, a header that is a flat dictionary of
# three keys, the values. deserialize_scalar and deserialize_mdspan fail unless dtype, order and
# shape are exactly those of the C++ type.

HEADER = re.compile(
    r"\{'descr': '(?P<descr>[<|][fiu]\d)', 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>[^)]*)\),? *\} *\n"
)


def read_array(file: BinaryIO, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    assert file.read(8) == b"\x93NUMPY\x01\x00"
    length = int.from_bytes(file.read(2), "little")
    assert (10 + length) % 64 == 0
    header = HEADER.fullmatch(file.read(length).decode())
    assert header is not None
    assert header["descr"] == dtype
    assert header["fortran"] == "False"
    tokens = [token.strip() for token in header["shape"].split(",")]
    assert tuple(int(token) for token in tokens if token) == shape
    data = file.read(int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize)
    return np.frombuffer(data, dtype).reshape(shape)


def read_scalar(file: BinaryIO, dtype: str) -> int:
    return int(read_array(file, dtype, ())[()])


def read_code(chunk: np.ndarray, i: int, pq_bits: int) -> int:
    """``bitfield_view_t<PqBits>``'s ``operator[]`` and ``bitfield_ref_t``'s conversion."""
    byte, offset = divmod(i * pq_bits, 8)
    pair = int(chunk[byte])
    if offset + pq_bits > 8:
        pair |= int(chunk[byte + 1]) << 8
    return (pair >> offset) & ((1 << pq_bits) - 1)


def read_codes(data: np.ndarray, n_items: int, pq_dim: int, pq_bits: int) -> np.ndarray:
    """``run_on_vector`` of ivf_pq_codepacking.cuh, for every vector of a list."""
    codes = np.empty((n_items, pq_dim), np.uint8)
    chunk_size = 16 * 8 // pq_bits
    for ix in range(n_items):
        group_ix, ingroup_ix = divmod(ix, 32)
        j = chunk_ix = 0
        while j < pq_dim:
            chunk = data[group_ix, chunk_ix, ingroup_ix]
            for k in range(min(chunk_size, pq_dim - j)):
                codes[ix, j + k] = read_code(chunk, k, pq_bits)
            j, chunk_ix = j + chunk_size, chunk_ix + 1
    return codes


class CuvsFile:
    """``deserialize`` of ivf_pq_serialize.cuh, version 4."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._read(file)
            assert file.read() == b""

    def _read(self, file: BinaryIO) -> None:
        assert read_scalar(file, "<i4") == 4
        self.n_rows = read_scalar(file, "<i8")
        self.dim = read_scalar(file, "<u4")
        self.pq_bits = read_scalar(file, "<u4")
        self.pq_dim = read_scalar(file, "<u4")
        assert read_scalar(file, "|u1") in (0, 1)
        self.metric = read_scalar(file, "<i4")
        codebook_kind, codes_layout = read_scalar(file, "<i4"), read_scalar(file, "<i4")
        assert (codebook_kind, codes_layout) == (0, 1)  # per subspace, interleaved
        self.n_lists = read_scalar(file, "<u4")
        pq_len = -(-self.dim // self.pq_dim)
        dim_ext = (self.dim + 1 + 7) // 8 * 8
        rot_dim = pq_len * self.pq_dim
        self.pq_centers = read_array(file, "<f4", (self.pq_dim, pq_len, 1 << self.pq_bits))
        self.centers = read_array(file, "<f4", (self.n_lists, dim_ext))
        self.centers_rot = read_array(file, "<f4", (self.n_lists, rot_dim))
        self.rotation_matrix = read_array(file, "<f4", (rot_dim, self.dim))
        self.list_sizes = read_array(file, "<u4", (self.n_lists,))
        lists = [self._read_list(file, int(size)) for size in self.list_sizes]
        self.codes, self.ids = (list(parts) for parts in zip(*lists, strict=True))

    def _read_list(self, file: BinaryIO, size: int) -> tuple[np.ndarray, np.ndarray]:
        assert read_scalar(file, "<u4") == size
        if not size:
            return np.empty((0, self.pq_dim), np.uint8), np.empty(0, np.int64)
        n_chunks = -(-self.pq_dim // (16 * 8 // self.pq_bits))
        data = read_array(file, "|u1", (-(-size // 32), n_chunks, 32, 16))
        ids = read_array(file, "<i8", (size,))
        return read_codes(data, size, self.pq_dim, self.pq_bits), ids

    def search(self, query: np.ndarray, n_probes: int) -> dict[int, float]:
        """Score by id of all items in the probed lists: select_clusters, create_lut and
        compute_score of cuVS, which minimise, and its postprocessing."""
        is_l2 = self.metric == 0
        extended = np.zeros(self.centers.shape[1])
        extended[: self.dim], extended[self.dim] = query, -0.5 if is_l2 else 0
        of_lists = (-2 if is_l2 else -1) * (self.centers @ extended)
        rotated = self.rotation_matrix @ query
        scores = {}
        for label in np.argsort(of_lists, kind="stable")[:n_probes]:
            table = self._table(rotated, self.centers_rot[label], is_l2)
            for codes, item_id in zip(self.codes[label], self.ids[label], strict=True):
                score = table[np.arange(self.pq_dim), codes].sum()
                scores[int(item_id)] = float(score if is_l2 else -score)
        return scores

    def _table(self, query: np.ndarray, center: np.ndarray, is_l2: bool) -> np.ndarray:
        """(pq_dim, pq_book_size): the inner products of the centre and of the codeword, both with
        the query, negated; or the squared distance."""
        q, c = (x.reshape(self.pq_dim, -1, 1) for x in (query, center))
        if is_l2:
            return ((q - c - self.pq_centers) ** 2).sum(axis=1)
        return -(q * c + q * self.pq_centers).sum(axis=1)


def saved(index: Index, folder: Path, **options: Any) -> CuvsFile:
    save_cuvs(index, folder / "index.cuvs", **options)
    return CuvsFile(folder / "index.cuvs")


# --- the file -----------------------------------------------------------------------------------


@st.composite
def indexes(draw: st.DrawFn) -> Index:
    pq_bits = draw(st.integers(4, 8))
    step = 8 // int(np.gcd(8, pq_bits))  # of pq_dim, for codes that fill their last byte
    return random_index(
        draw(st.sampled_from(["inner_product", "l2"])),
        n_items=draw(st.sampled_from([0, 1, 31, 32, 33, 200])),
        pq_dim=step * draw(st.integers(1, 33 // step)),
        pq_bits=pq_bits,
        pq_len=draw(st.integers(1, 3)),
        n_lists=draw(st.integers(1, 5)),
        rotation=draw(st.booleans()),
        n_probes=1,
        n_repeated=0,
        scales=False,
        seed=draw(st.integers(0, 9)),
    )


@given(index=indexes())
def test_the_file_holds_the_index(index: Index, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = saved(index, tmp_path_factory.mktemp("cuvs"))
    params, quantization = index.params, index.quantization
    assert (file.n_rows, file.dim, file.n_lists) == (index.n_items, index.dim, index.n_lists)
    assert (file.pq_dim, file.pq_bits) == (params.pq_dim, params.pq_bits)
    assert file.metric == {"l2": 0, "inner_product": 6}[params.metric]
    np.testing.assert_array_equal(file.list_sizes, index.list_sizes)
    np.testing.assert_array_equal(np.concatenate(file.ids), index.item_ids)
    np.testing.assert_array_equal(np.concatenate(file.codes), index.codes)
    np.testing.assert_array_equal(file.centers_rot, quantization.coarse_centroids)
    for m, k in np.ndindex(params.pq_dim, params.pq_book_size):
        np.testing.assert_array_equal(file.pq_centers[m, :, k], quantization.codebook[m, k])
    rotation = np.eye(index.dim) if quantization.rotation is None else quantization.rotation
    np.testing.assert_array_equal(file.rotation_matrix, rotation.T)
    centres = quantization.coarse_centroids @ rotation.T
    np.testing.assert_allclose(file.centers[:, : index.dim], centres, atol=1e-5)
    norms = (centres**2).sum(axis=1)
    np.testing.assert_allclose(file.centers[:, index.dim], norms, rtol=1e-4)
    assert not file.centers[:, index.dim + 1 :].any()


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("pq_bits", [4, 5, 8])
@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_cuvs_would_answer_as_we_do(
    metric: str, pq_bits: int, rotation: bool, tmp_path: Path
) -> None:
    index = random_index(
        metric, pq_dim=8, pq_bits=pq_bits, rotation=rotation, n_lists=6, scales=False
    ).without_list_lengths()
    file = saved(index, tmp_path)
    queries = random_queries(index, 5)
    expected = reference.search(index, queries, k=index.n_items, n_probes=4)
    for i, query in enumerate(queries):
        scores, item_ids = expected[i]
        found = file.search(query, 4)
        assert found.keys() == set(item_ids.tolist())
        ours = -scores if metric == "l2" else scores
        theirs = [found[item_id] for item_id in item_ids.tolist()]
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * np.abs(ours).max())


def test_cosine_is_written_only_as_inner_product(tmp_path: Path) -> None:
    index = random_index("cosine", rotation=True, scales=False)
    with pytest.raises(ValueError, match=r"expected inner_product or l2, .* got 'cosine'"):
        save_cuvs(index, tmp_path / "index.cuvs")
    file = saved(index, tmp_path, metric="inner_product")
    query = random_queries(index, 1)[0]
    # What is promised of it: ⟨q, x̂⟩ of the lists that inner products choose.
    scores = file.search(query, index.n_lists)
    unit = normalize(query[None])[0]
    for item_id, x in zip(index.item_ids[:9], index.decode(index.item_ids[:9]), strict=True):
        assert scores[int(item_id)] / np.linalg.norm(query) == pytest.approx(unit @ x, abs=1e-4)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            random_index(encodes_residual=False, scales=False),
            "expected codes of residuals, all that cuVS has",
        ),
        (random_index(pq_bits=3, pq_dim=8, scales=False), "pq_bits: expected 4 to 8, .* got 3"),
        (random_index(pq_bits=9, pq_dim=8, scales=False), "pq_bits: expected 4 to 8, .* got 9"),
        (
            random_index(pq_bits=4, pq_dim=3, scales=False),
            r"a multiple of 8, as cuVS does; got 3 \* 4",
        ),
    ],
)
def test_what_cuvs_cannot_hold_is_refused(index: Index, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save_cuvs(index, tmp_path / "index.cuvs")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("item_id", [-1, 2**63 - 1])
def test_ids_that_mean_missing_are_refused(item_id: int, tmp_path: Path) -> None:
    index = random_index(n_items=10, scales=False)
    ids = index.item_ids.copy()
    ids[3] = item_id
    codes = replace(index.item_codes, item_ids=ids)
    index = Index.from_codes(index.params, index.quantization, codes)
    with pytest.raises(ValueError, match=r"item_ids: expected 0 to 2\*\*63 - 2"):
        save_cuvs(index, tmp_path / "index.cuvs")


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.cuvs"
    save_cuvs(random_index(scales=False), path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="disk full"):
                save_cuvs(random_index(seed=1, scales=False), path)
        assert os.listdir(tmp_path) == ["index.cuvs"]
        assert path.read_bytes() == before


# --- Faiss on a GPU -----------------------------------------------------------------------------


class GpuFaiss(types.ModuleType):
    """A Faiss with GPU support as far as the cloner needs it; the rest is the installed one's."""

    def __init__(self, n_gpus: int = 1, options: str = "GPU NVIDIA_CUVS ") -> None:
        super().__init__("faiss")
        self.n_gpus, self.options = n_gpus, options
        self.cloned: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(faiss, name)

    class StandardGpuResources:
        pass

    class GpuClonerOptions:
        use_cuvs = None

    def get_compile_options(self) -> str:
        return self.options

    def get_num_gpus(self) -> int:
        return self.n_gpus

    def index_cpu_to_gpu(self, *arguments: Any) -> str:
        self.cloned.append(arguments)
        return "on the GPU"


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="Faiss with GPU support")
def test_faiss_without_gpu_support_is_named() -> None:
    with pytest.raises(ImportError, match=f"a build with GPU support, got {faiss.__version__}"):
        to_faiss_gpu(random_index(scales=False))


@pytest.mark.parametrize("use_cuvs", [False, True])
def test_cloned_to_the_device_with_the_options(
    use_cuvs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = GpuFaiss(n_gpus=2)
    monkeypatch.setattr(convert_faiss, "import_faiss", lambda: fake)
    index = random_index("inner_product", n_probes=3, scales=False)
    assert to_faiss_gpu(index, use_cuvs=use_cuvs, device=1) == "on the GPU"
    [(resources, device, exported, options)] = fake.cloned
    assert isinstance(resources, GpuFaiss.StandardGpuResources)
    assert (device, options.use_cuvs) == (1, use_cuvs)
    assert (exported.ntotal, exported.nprobe) == (index.n_items, 3)


@pytest.mark.parametrize(
    ("fake", "options", "error", "message"),
    [
        (GpuFaiss(options="GPU "), {"use_cuvs": True}, ImportError, "with cuVS, got .* with GPU"),
        (GpuFaiss(n_gpus=0), {}, RuntimeError, "expected an NVIDIA GPU, got none"),
        (GpuFaiss(), {"device": 1}, ValueError, "device: expected 0 to 0, got 1"),
    ],
)
def test_what_the_cloner_lacks_is_named(
    fake: GpuFaiss,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(convert_faiss, "import_faiss", lambda: fake)
    with pytest.raises(error, match=message):
        to_faiss_gpu(random_index(scales=False), **options)
