"""The quality benchmark's parts: pairs held out to choose by, and the permit to read test pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quality.parts import held_out
from benchmarks.quality.permit import CHOSEN, TEST_READ, Permit
from benchmarks.quality.variants import VARIANTS, variant_of


def pairs_of(counts: list[int]) -> pd.DataFrame:
    """As many pairs of each user, no two alike, users mixed."""
    users = np.repeat(10 + np.arange(len(counts)), counts)
    pairs = pd.DataFrame({"user_id": users, "item_id": np.arange(len(users))})
    return pairs.sample(frac=1, random_state=0)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(0, 9))
def test_a_tenth_of_each_users_pairs_is_held_out(counts: list[int], seed: int) -> None:
    pairs = pairs_of(counts)
    train, found = held_out(pairs, seed)
    both = pd.concat([train, found]).sort_values("item_id", ignore_index=True)
    pd.testing.assert_frame_equal(both, pairs.sort_values("item_id", ignore_index=True))
    n_held = found["user_id"].value_counts().reindex(10 + np.arange(len(counts)), fill_value=0)
    assert n_held.tolist() == [max(1, n // 10) if n >= 5 else 0 for n in counts]


def test_the_seed_decides_which_pairs() -> None:
    pairs = pairs_of([20, 30, 40])
    first, again, other = (held_out(pairs, seed)[1] for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


# --- the permit ----------------------------------------------------------------------------------


def choose(folder: Path, text: str = "{}") -> None:
    (folder / CHOSEN).write_text(text)


def test_a_permit_needs_choices(tmp_path: Path) -> None:
    for ask in (Permit.begin, Permit.of):
        with pytest.raises(PermissionError, match=r"expected choices .* run .*choice first"):
            ask(tmp_path)


def test_a_permit_is_given_by_begin_alone(tmp_path: Path) -> None:
    choose(tmp_path)
    with pytest.raises(PermissionError, match=r"expected the permit of benchmarks\.quality\.final"):
        Permit.of(tmp_path)
    begun = Permit.begin(tmp_path)
    assert Permit.of(tmp_path) == begun == Permit.begin(tmp_path)
    assert json.loads((tmp_path / TEST_READ).read_text())["chosen_sha256"] == begun.digest


def test_no_second_permit_for_other_choices(tmp_path: Path) -> None:
    choose(tmp_path)
    Permit.begin(tmp_path)
    choose(tmp_path, '{"gowalla": "another"}')
    for ask in (Permit.begin, Permit.of):
        with pytest.raises(PermissionError, match="a second read for other choices"):
            ask(tmp_path)


# --- variants with options -----------------------------------------------------------------------


def test_a_variant_takes_options_from_its_name() -> None:
    variant = variant_of("poeem-4:float_share=0.25,rotation=true")
    assert (variant.pq_dim, variant.pq_bits) == (8, 4)
    expected = {**VARIANTS["poeem-4"].options, "float_share": 0.25, "rotation": True}
    assert variant.options == expected
    assert variant_of("poeem-4") is VARIANTS["poeem-4"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ours-9", "expected one of plain, .*, got 'ours-9'"),
        ("plain:warmup=0.5", "expected no options of plain, which has no index, got warmup=0.5"),
        ("ours-8:", "expected options such as commitment=0.5, got ''"),
        ("ours-8:commitment", "expected options such as commitment=0.5, got 'commitment'"),
        ("ours-8:rotation=no", "expected options such as commitment=0.5, got 'rotation=no'"),
    ],
)
def test_names_that_are_no_variant_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variant_of(name)
