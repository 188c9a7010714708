"""IVFPQParams: what it accepts, refuses, and says."""

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem.quantization.params import IVFPQParams, check_n_probes, positive_int

VALID = {"n_lists": 8, "pq_dim": 4, "pq_bits": 8, "metric": "l2", "n_probes": 2}


@st.composite
def params(draw: st.DrawFn) -> IVFPQParams:
    n_lists = draw(st.integers(1, 1 << 20))
    return IVFPQParams(
        n_lists=n_lists,
        pq_dim=draw(st.integers(1, 64)),
        pq_bits=draw(st.integers(1, 16)),
        metric=draw(st.sampled_from(["inner_product", "cosine", "l2"])),
        n_probes=draw(st.integers(1, n_lists)),
    )


@given(params())
def test_dict_round_trip(values: IVFPQParams) -> None:
    assert IVFPQParams.from_dict(values.to_dict()) == values
    assert values.pq_book_size == 2**values.pq_bits


def test_numpy_integers_become_plain() -> None:
    values = IVFPQParams(n_lists=np.int64(8), pq_dim=np.uint8(4))
    assert {type(v) for k, v in values.to_dict().items() if k != "metric"} == {int}


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        IVFPQParams(**VALID).n_lists = 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_lists": 0}, ValueError, "n_lists: expected at least 1, got 0"),
        ({"n_lists": 8.0}, TypeError, r"n_lists: expected an integer, got 8.0 \(float\)"),
        ({"n_lists": True}, TypeError, "n_lists: expected an integer, got True"),
        ({"pq_dim": -1}, ValueError, "pq_dim: expected at least 1, got -1"),
        ({"pq_dim": "4"}, TypeError, "pq_dim: expected an integer"),
        ({"pq_bits": 17}, ValueError, "pq_bits: expected 1 to 16, got 17"),
        ({"pq_bits": None}, TypeError, "pq_bits: expected an integer"),
        ({"metric": "euclid"}, ValueError, "metric: expected one of inner_product, cosine, l2"),
        ({"n_probes": 9}, ValueError, "n_probes: expected at most n_lists = 8, got 9"),
        ({"n_probes": 0}, ValueError, "n_probes: expected at least 1, got 0"),
    ],
)
def test_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        IVFPQParams(**{**VALID, **change})


@pytest.mark.parametrize("values", [{}, {**VALID, "extra": 1}, {"n_lists": 8}])
def test_from_dict_refuses_other_names(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="params: expected the names"):
        IVFPQParams.from_dict(values)


def test_pq_len() -> None:
    values = IVFPQParams(**VALID)
    assert values.pq_len(20) == 5
    with pytest.raises(ValueError, match="pq_dim: expected a divisor of dim = 21, got 4"):
        values.pq_len(21)
    with pytest.raises(ValueError, match="dim: expected at least 1"):
        values.pq_len(0)


def test_check_n_probes() -> None:
    assert check_n_probes(np.int32(3), 3) == 3
    with pytest.raises(ValueError, match="n_probes: expected at most n_lists = 3, got 4"):
        check_n_probes(4, 3)
    with pytest.raises(TypeError, match="n_probes"):
        check_n_probes(1.5, 3)


def test_positive_int() -> None:
    assert positive_int("k", 1 << 70) == 1 << 70
    with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
        positive_int("k", 0)
    with pytest.raises(TypeError, match="k: expected an integer, got None"):
        positive_int("k", None)
