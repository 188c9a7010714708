"""Pictures of lists, read back from their axes."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes

from merlin_poeem import Index, IVFPQParams, fit
from merlin_poeem.plots import draw_list_map, draw_list_sizes, lists
from tests.index_factories import random_index


@pytest.fixture
def empty() -> Index:
    index = random_index()
    return index.remove(index.item_ids)


def test_sizes_fall(axes: Axes) -> None:
    index = random_index()
    draw_list_sizes(axes, index)
    (steps,) = axes.patches
    heights, edges, _ = steps.get_data()
    assert list(heights) == sorted(index.list_sizes, reverse=True)
    np.testing.assert_array_equal(edges, np.arange(index.n_lists + 1) + 0.5)
    assert axes.get_lines()[0].get_ydata()[0] == pytest.approx(index.n_items / index.n_lists)


def test_sizes_of_an_empty_index(axes: Axes, empty: Index) -> None:
    draw_list_sizes(axes, empty)
    assert axes.get_title() == f"{empty.n_lists} lists"


def test_a_map_shows_every_item_once(axes: Axes, monkeypatch: pytest.MonkeyPatch) -> None:
    index = random_index("cosine", rotation=True)
    monkeypatch.setattr(lists, "NAMED_LISTS", 3)
    draw_list_map(axes, index)
    shown = [len(dots.get_offsets()) for dots in axes.collections]
    longest = np.argsort(-index.list_sizes, kind="stable")[:3]
    assert shown == [index.n_items - sum(index.list_sizes[longest]), *index.list_sizes[longest]]
    assert [text.get_text() for text in axes.texts] == [str(number) for number in longest]
    assert axes.get_title().startswith(
        f"{index.n_items} of {index.n_items} items, the 3 longest of"
    )


def test_a_map_of_many_items_shows_some(axes: Axes, monkeypatch: pytest.MonkeyPatch) -> None:
    index = random_index("cosine")
    monkeypatch.setattr(lists, "OTHER_ITEMS", 9)
    monkeypatch.setattr(lists, "ITEMS_OF_A_LIST", 4)
    monkeypatch.setattr(lists, "NAMED_LISTS", 2)
    draw_list_map(axes, index)
    assert [len(dots.get_offsets()) for dots in axes.collections] == [9, 4, 4]
    assert axes.get_title().startswith(f"17 of {index.n_items} items")


def test_one_item_far_away_takes_no_room(axes: Axes) -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    vectors[0] = 1000
    params = IVFPQParams(n_lists=8, pq_dim=2, pq_bits=4)
    quantization = fit(params, vectors[1:])
    draw_list_map(axes, Index.from_vectors(params, quantization, np.arange(500), vectors))
    shown = np.concatenate([dots.get_offsets() for dots in axes.collections])
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    inside = (left < shown[:, 0]) & (shown[:, 0] < right)
    inside &= (bottom < shown[:, 1]) & (shown[:, 1] < top)
    assert len(shown) == 500
    assert 450 < inside.sum() < 500
    assert right - left < 50


def test_numbers_of_lists_in_one_place_are_apart(axes: Axes) -> None:
    # All lists but one within a hair of each other.
    vectors = 1e-3 * np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    vectors[0] += 10
    params = IVFPQParams(n_lists=7, pq_dim=2, pq_bits=4)
    index = Index.from_vectors(params, fit(params, vectors), np.arange(300), vectors)
    draw_list_map(axes, index)
    axes.figure.canvas.draw()
    drawn = [text.get_bbox_patch().get_window_extent() for text in axes.texts]
    assert len(drawn) == lists.NAMED_LISTS
    assert not any(one.overlaps(other) for one, other in combinations(drawn, 2))


def test_no_map_of_an_empty_index(axes: Axes, empty: Index) -> None:
    with pytest.raises(ValueError, match="index: expected one that holds items, got none"):
        draw_list_map(axes, empty)
