"""The NumPy definition of encoding and decoding, against definitions that are shorter still."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem.quantization import coding
from merlin_poeem.quantization.item_codes import Quantization

DIM, N_LISTS, PQ_DIM, PQ_LEN = 6, 4, 3, 2


def make_quantization(
    pq_bits: int = 4,
    *,
    rotated: bool = True,
    encodes_residual: bool = True,
    scales: bool = False,
    seed: int = 0,
) -> Quantization:
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0].astype(np.float32)
    return Quantization(
        # Far apart and codewords small: every point is nearest to its own list.
        (20 * rng.permutation(np.eye(DIM))[:N_LISTS]).astype(np.float32),
        rng.normal(size=(PQ_DIM, 1 << pq_bits, PQ_LEN)).astype(np.float32),
        rotation if rotated else None,
        encodes_residual,
        np.array([0.25, 4], np.float32) if scales else None,
    )


def some_vectors(n: int = 5) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(n, DIM)).astype(np.float32)


@pytest.mark.parametrize("encodes_residual", [True, False])
@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("pq_bits", [1, 4, 8, 9])
def test_vectors_built_from_codewords_get_their_codes(
    pq_bits: int, rotated: bool, encodes_residual: bool
) -> None:
    quantization = make_quantization(pq_bits, rotated=rotated, encodes_residual=encodes_residual)
    rng = np.random.default_rng(3)
    list_ids = rng.integers(0, N_LISTS, 200).astype(np.int32)
    codes = rng.integers(0, 1 << pq_bits, (200, PQ_DIM)).astype(quantization.code_dtype)
    vectors = coding.decode(quantization, list_ids, codes)
    got_lists, got_codes = coding.encode(quantization, vectors)
    if encodes_residual:
        np.testing.assert_array_equal(got_lists, list_ids, strict=True)
    np.testing.assert_array_equal(got_codes, codes, strict=True)


@given(seed=st.integers(0, 1000), encodes_residual=st.booleans(), rotated=st.booleans())
def test_encoding_is_nearest_by_definition(
    seed: int, encodes_residual: bool, rotated: bool
) -> None:
    quantization = make_quantization(
        2, rotated=rotated, encodes_residual=encodes_residual, seed=seed
    )
    vectors = np.random.default_rng(seed).normal(size=(8, DIM)).astype(np.float32) * 8
    list_ids, codes = coding.encode(quantization, vectors)
    for x, list_id, code in zip(quantization.rotate(vectors), list_ids, codes, strict=True):
        to_lists = ((quantization.coarse_centroids - x) ** 2).sum(axis=1)
        assert to_lists[list_id] <= to_lists.min() + 1e-3
        target = x - quantization.coarse_centroids[list_id] if encodes_residual else x
        for m in range(PQ_DIM):
            part = target[m * PQ_LEN : (m + 1) * PQ_LEN]
            to_codewords = ((quantization.codebook[m] - part) ** 2).sum(axis=1)
            assert to_codewords[code[m]] <= to_codewords.min() + 1e-3


def test_ties_go_to_the_lower_number() -> None:
    quantization = Quantization(np.ones((3, 2), np.float32), np.ones((1, 4, 2), np.float32))
    list_ids, codes = coding.encode(quantization, np.zeros((5, 2), np.float32))
    assert not list_ids.any()
    assert not codes.any()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    quantization, vectors = make_quantization(), some_vectors(50)
    list_ids, codes = coding.encode(quantization, vectors)
    monkeypatch.setattr(coding, "CHUNK_BYTES", 4 * 16 * 7)  # seven rows
    chunked_lists, chunked_codes = coding.encode(quantization, vectors)
    np.testing.assert_array_equal(chunked_lists, list_ids)
    np.testing.assert_array_equal(chunked_codes, codes)


def test_decode_is_the_rotated_one_turned_back() -> None:
    quantization = make_quantization()
    list_ids, codes = np.array([1, 3], np.int32), np.array([[0, 1, 2], [3, 4, 5]], np.uint8)
    rotated = coding.decode_rotated(quantization, list_ids, codes)
    for row, list_id, code in zip(rotated, list_ids, codes, strict=True):
        parts = [quantization.codebook[m, code[m]] for m in range(PQ_DIM)]
        expected = np.concatenate(parts) + quantization.coarse_centroids[list_id]
        np.testing.assert_array_equal(row, expected)
    raw = coding.decode(quantization, list_ids, codes)
    np.testing.assert_allclose(quantization.rotate(raw), rotated, atol=1e-5)


def test_encode_nothing() -> None:
    list_ids, codes = coding.encode(make_quantization(), np.empty((0, DIM), np.float32))
    assert list_ids.shape == (0,)
    assert codes.shape == (0, PQ_DIM)


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        (np.zeros((2, DIM)), TypeError, "vectors: expected float32"),
        (np.zeros((2, DIM + 1), np.float32), ValueError, r"vectors: expected shape \(n, 6\)"),
        (np.full((2, DIM), np.nan, np.float32), ValueError, "vectors: expected finite"),
    ],
)
def test_encode_refuses(vectors: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        coding.encode(make_quantization(), vectors)


def test_lut() -> None:
    quantization = make_quantization()
    table = coding.lut(some_vectors(2), quantization.codebook)
    assert table.shape == (2, PQ_DIM, 16)
    expected = some_vectors(2)[1, 2:4] @ quantization.codebook[1, 7]
    np.testing.assert_allclose(table[1, 1, 7], expected, rtol=1e-6)
