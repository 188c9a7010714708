"""Scales: the length of a vector along what it is decoded as, in a byte."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem.quantization import coding
from merlin_poeem.quantization.fit import fit
from merlin_poeem.quantization.item_codes import Quantization
from merlin_poeem.quantization.params import IVFPQParams
from tests.quantization.test_coding import DIM, N_LISTS, PQ_DIM, make_quantization


def some_codes(quantization: Quantization, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    list_ids = rng.integers(0, N_LISTS, n).astype(np.int32)
    codes = rng.integers(0, quantization.pq_book_size, (n, PQ_DIM))
    return list_ids, codes.astype(quantization.code_dtype)


@given(
    seed=st.integers(0, 1000),
    rotated=st.booleans(),
    encodes_residual=st.booleans(),
    pq_bits=st.sampled_from([1, 4, 8, 9]),
)
def test_what_was_decoded_has_its_own_scale(
    seed: int, rotated: bool, encodes_residual: bool, pq_bits: int
) -> None:
    quantization = make_quantization(
        pq_bits, rotated=rotated, encodes_residual=encodes_residual, scales=True, seed=seed
    )
    coded = some_codes(quantization, 50, seed)
    scales = np.random.default_rng(seed).integers(0, 256, 50).astype(np.uint8)
    vectors = coding.decode(quantization, *coded, scales)
    got = coding.scales_of(quantization, vectors, *coded)
    np.testing.assert_array_equal(got, scales, strict=True)


@given(seed=st.integers(0, 1000), encodes_residual=st.booleans())
def test_a_scale_is_the_nearest_to_least_squares(seed: int, encodes_residual: bool) -> None:
    quantization = make_quantization(scales=True, encodes_residual=encodes_residual, seed=seed)
    coded = some_codes(quantization, 20, seed)
    unscaled = coding.decode(replace(quantization, scale_range=None), *coded).astype(np.float64)
    noise = np.random.default_rng(seed).normal(size=(20, DIM))
    vectors = (unscaled * np.geomspace(0.5, 2, 20)[:, None] + noise).astype(np.float32)
    got = coding.scales_of(quantization, vectors, *coded)
    for x, decoded, entry in zip(vectors, unscaled, got, strict=True):
        best = np.linalg.lstsq(decoded[:, None], x, rcond=None)[0][0]
        if best <= 0:
            assert entry == 0
        else:
            ratios = np.abs(np.log(quantization.scale_table[1:].astype(np.float64) / best))
            assert ratios[entry - 1] <= ratios.min() + 1e-5


def test_scales_make_reconstructions_better() -> None:
    quantization = make_quantization(8, scales=True)
    vectors = 8 * np.random.default_rng(0).normal(size=(200, DIM)).astype(np.float32)
    coded = coding.encode(quantization, vectors)
    scales = coding.scales_of(quantization, vectors, *coded)
    with_scales = coding.decode(quantization, *coded, scales)
    without = coding.decode(replace(quantization, scale_range=None), *coded)
    errors, before = (((vectors - x) ** 2).sum(axis=1) for x in (with_scales, without))
    assert (errors <= before + 1e-3 * (vectors**2).sum(axis=1)).all()
    assert errors.mean() < 0.95 * before.mean()


def test_what_points_elsewhere_is_decoded_as_zeros() -> None:
    quantization = make_quantization(scales=True)
    coded = some_codes(quantization, 9)
    away = -coding.decode(replace(quantization, scale_range=None), *coded)
    for vectors in (away, 0 * away):
        scales = coding.scales_of(quantization, vectors, *coded)
        assert not scales.any()
        assert not coding.decode(quantization, *coded, scales).any()


def test_nothing_is_along_what_is_decoded_as_zeros() -> None:
    nothing = Quantization(
        np.zeros((1, 2), np.float32),
        np.zeros((1, 2, 2), np.float32),
        scale_range=np.float32([0.5, 2]),
    )
    coded = np.zeros(3, np.int32), np.zeros((3, 1), np.uint8)
    assert not coding.scales_of(nothing, np.ones((3, 2), np.float32), *coded).any()


def test_beyond_the_range_is_its_end() -> None:
    quantization = make_quantization(scales=True)
    coded = some_codes(quantization, 9)
    vectors = coding.decode(replace(quantization, scale_range=None), *coded)
    assert (coding.scales_of(quantization, vectors / 100, *coded) == 1).all()
    assert (coding.scales_of(quantization, vectors * 100, *coded) == 255).all()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    quantization = make_quantization(scales=True)
    coded = some_codes(quantization, 50)
    vectors = 20 * np.random.default_rng(1).normal(size=(50, DIM)).astype(np.float32)
    scales = coding.scales_of(quantization, vectors, *coded)
    lengths = coding.decoded_lengths(quantization, *coded, scales)
    monkeypatch.setattr(coding, "CHUNK_BYTES", 16 * DIM * 7)  # seven rows
    np.testing.assert_array_equal(coding.scales_of(quantization, vectors, *coded), scales)
    np.testing.assert_allclose(coding.decoded_lengths(quantization, *coded, scales), lengths)
    decoded = coding.decode(quantization, *coded, scales)
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), lengths, rtol=1e-5)


def test_decoding_takes_scales_where_there_are_some() -> None:
    scaled, plain = make_quantization(scales=True), make_quantization()
    coded, scales = some_codes(plain, 3), np.ones(3, np.uint8)
    with pytest.raises(ValueError, match="scales: expected one an item"):
        coding.decode_rotated(scaled, *coded)
    with pytest.raises(ValueError, match="scales: expected none"):
        coding.decode_rotated(plain, *coded, scales)
    with pytest.raises(ValueError, match="quantization: expected one with a scale_range"):
        coding.scales_of(plain, coding.decode(plain, *coded), *coded)
    quarter = coding.decode_rotated(plain, *coded) / 4
    np.testing.assert_array_equal(coding.decode_rotated(scaled, *coded, scales), quarter)


# The range.


def test_the_range_leaves_room() -> None:
    got = coding.fit_scale_range(np.array([3.0, 0.5, -7, 0, 2]))
    assert got.dtype == np.float32
    assert got.tolist() == [0.25, 6]


@pytest.mark.parametrize("scales", [[], [0.0, -1]])
def test_the_range_of_nothing(scales: list[float]) -> None:
    assert coding.fit_scale_range(np.array(scales)).tolist() == [0.5, 2]


@given(
    smallest=st.floats(1e-300, 1e300),
    ratio=st.floats(1, 1e300),
)
def test_every_range_is_one(smallest: float, ratio: float) -> None:
    scales = np.array([smallest, min(smallest * ratio, 1e305)])
    quantization = replace(make_quantization(), scale_range=coding.fit_scale_range(scales))
    table = quantization.scale_table
    assert np.isfinite(table).all()
    assert (np.diff(table) >= 0).all()
    first, last = coding.nearest_scales(quantization, scales).tolist()
    assert 1 <= first <= last


@given(ratio=st.floats(1, 100))
def test_scales_are_about_a_percent_off_at_most(ratio: float) -> None:
    exact = np.geomspace(0.7, 0.7 * ratio, 1000)
    quantization = replace(make_quantization(), scale_range=coding.fit_scale_range(exact))
    got = quantization.scale_table[coding.nearest_scales(quantization, exact)]
    assert np.abs(got / exact - 1).max() < (0.0075 if ratio <= 10 else 0.012)


def test_one_tiny_scale_does_not_coarsen_the_others() -> None:
    exact = np.append(np.linspace(0.7, 1.4, 1000), 1e-9)
    quantization = replace(make_quantization(), scale_range=coding.fit_scale_range(exact))
    got = quantization.scale_table[coding.nearest_scales(quantization, exact)]
    assert np.abs(got / exact - 1)[:-1].max() < 0.0185
    assert 0 < got[-1] <= 2 * exact.max() / coding.LARGEST_SCALE_RATIO * 1.0001


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
@pytest.mark.parametrize("rotation", [True, False])
def test_fit_knows_the_range_of_what_it_trains_on(metric: str, rotation: bool) -> None:
    pytest.importorskip("faiss")
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    params = IVFPQParams(n_lists=4, pq_dim=2, pq_bits=4, metric=metric)
    assert fit(params, vectors, rotation=rotation, item_scales=False).scale_range is None
    trained = fit(params, vectors, rotation=rotation)
    if metric == "l2":
        assert trained.scale_range is None
        return
    if metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    exact = coding.exact_scales(trained, vectors, *coding.encode(trained, vectors))
    expected = [exact[exact > 0].min() / 2, exact.max() * 2]
    np.testing.assert_allclose(trained.scale_range, expected, rtol=1e-3)
