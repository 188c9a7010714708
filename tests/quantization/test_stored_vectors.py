"""StoredVectors: how near the stored rows are, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem.quantization import stored_vectors
from merlin_poeem.quantization.stored_vectors import (
    FLAT_DTYPES,
    FlatDtype,
    StoredVectors,
    VectorDtype,
)

# Of a row's largest value: half a step of 11 bits, or of 127 steps.
LARGEST_ERROR = {"float16": 2.0**-11, "int8": 0.5 / 127}


@given(
    n=st.integers(0, 9),
    dim=st.integers(1, 9),
    exponent=st.integers(-30, 14),
    dtype=st.sampled_from(["float16", "int8"]),
    moved=st.booleans(),
)
def test_every_row_is_near(
    n: int, dim: int, exponent: int, dtype: VectorDtype, moved: bool
) -> None:
    rng = np.random.default_rng(n + dim)
    sizes = 10.0 ** rng.uniform(exponent - 5, exponent, (n, 1))
    vectors = (sizes * rng.standard_normal((n, dim))).astype(np.float32)
    vectors[:1] = 0
    origin = vectors.mean(axis=0) if moved and n else None
    stored = StoredVectors.of(vectors, dtype, origin)
    target = vectors if origin is None else vectors - origin
    largest = np.abs(target).max(axis=1, initial=0)
    errors = np.abs(stored.decoded() - target).max(axis=1, initial=0)
    assert (errors <= LARGEST_ERROR[dtype] * largest * (1 + 1e-5)).all()
    assert stored.nbytes == n * (dim * (2 if dtype == "float16" else 1) + 4)


@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize("dtype", FLAT_DTYPES)
def test_many_rows_are_stored_and_decoded_part_by_part(
    dtype: FlatDtype, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)
    origin = vectors[0] if moved else None
    whole = StoredVectors.of(vectors, dtype, origin)
    monkeypatch.setattr(stored_vectors, "CHUNK_BYTES", 200)
    parts = StoredVectors.of(vectors, dtype, origin)
    np.testing.assert_array_equal(parts.values, whole.values)
    np.testing.assert_array_equal(parts.row_scales, whole.row_scales)
    decoded = list(parts.decoded_parts())
    assert len(decoded) > 1
    np.testing.assert_array_equal(np.concatenate(decoded), whole.decoded())


def test_float16_scales_are_powers_of_two() -> None:
    vectors = np.float32([[0, 0], [1e-40, 0], [3, -4], [1e15, 1], [0.5, 0.25]])
    stored = StoredVectors.of(vectors, "float16")
    mantissas, _ = np.frexp(stored.scales)
    assert mantissas.tolist() == [0, 0.5, 0.5, 0.5, 0.5]
    assert stored.decoded()[2].tolist() == [3, -4]


def test_decoded_is_what_numpy_makes_of_every_float16() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bits.view(np.float16)
    values = values[np.abs(values) <= 1].reshape(-1, 1)
    assert len(values) == 2 * 0x3C01
    stored = StoredVectors(values, np.ones(len(values), np.float32))
    np.testing.assert_array_equal(
        stored.decoded().view(np.uint32), values.astype(np.float32).view(np.uint32)
    )


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_equal_vectors_have_equal_scores(metric: str, dtype: VectorDtype) -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.standard_normal((1, 37)).astype(np.float32), 50, axis=0)
    stored = StoredVectors.of(vectors, dtype)
    query = rng.standard_normal(37).astype(np.float32)
    for n in range(1, 50):
        assert len(set(stored.scores(metric, query, np.arange(n)).tolist())) == 1  # type: ignore[arg-type]


def test_what_is_refused() -> None:
    scales = np.ones(2, np.float32)
    with pytest.raises(TypeError, match="values: expected one of float32, float16, int8; got"):
        StoredVectors(np.zeros((2, 3)), scales)
    for values, of_values in ((np.float32, scales), (np.int8, None)):
        with pytest.raises(ValueError, match="scales: expected none of float32 values"):
            StoredVectors(np.zeros((2, 3), values), of_values)
    with pytest.raises(ValueError, match=r"values: expected shape \(n, dim\), got \(2,\)"):
        StoredVectors(np.zeros(2, np.int8), scales)
    with pytest.raises(ValueError, match=r"scales: expected float32 of shape \(3,\)"):
        StoredVectors(np.zeros((3, 3), np.int8), scales)
    for wrong in (1.001, -2, np.nan, np.inf):
        with pytest.raises(ValueError, match="values: expected at most 1 in size"):
            StoredVectors(np.full((2, 3), wrong, np.float16), scales)
    with pytest.raises(ValueError, match="store_vectors: expected one of float32, float16"):
        StoredVectors.of(np.zeros((2, 3), np.float32), "int4")  # type: ignore[arg-type]
