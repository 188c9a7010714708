"""The CPU benchmark beside its peers: what is built, chosen, measured and written."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss")
pytest.importorskip("matplotlib")

from benchmarks.cpu_peers import __main__ as command
from benchmarks.cpu_peers.at_target import at_target
from benchmarks.cpu_peers.built import Built
from benchmarks.cpu_peers.choose import Point, front, near_the_front
from benchmarks.cpu_peers.grid import Grid
from benchmarks.cpu_peers.material import NO_ROW, Material, made_up, of_trial
from benchmarks.cpu_peers.methods import open_methods
from benchmarks.cpu_peers.over_fetch import EXTRA, first_allowed
from benchmarks.cpu_peers.usearch_hnsw import of_equal_lengths
from benchmarks.quality.trial import save_trial
from merlin_poeem.evaluate import exact_search, recall_at_k
from tests.benchmarks.quality_trials import N_ITEMS, N_QUERIES, make_trial, one_thread

pytestmark = pytest.mark.usefixtures(one_thread.__name__)

K = 20


@pytest.fixture(scope="module")
def small() -> Material:
    return made_up(n_items=1500, dim=16, n_lists=8, code_bytes=8, n_queries=40, k=K)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_trial(make_trial(), tmp_path_factory.mktemp("trials"))


# --- what is searched ----------------------------------------------------------------------------


def test_settings_are_chosen_by_other_queries_than_reported(small: Material) -> None:
    chosen, reported = small.chosen_by.queries, small.reported.queries
    assert chosen.shape == reported.shape == (40, 16)
    assert not (chosen[:, None] == reported).all(axis=2).any()
    found = exact_search(np.arange(1500), small.vectors, reported, k=K).padded(K, fill_id=-1)[1]
    assert small.reported.quality(found) == {f"recall_at_{K}": 1.0}
    assert small.chosen_by.quality(found)[f"recall_at_{K}"] < 0.5


def test_a_trial_is_halved_and_its_ids_are_rows(folder: Path) -> None:
    trial = make_trial()
    material = of_trial(folder, N_QUERIES // 2, K)
    halves = [material.chosen_by, material.reported]
    numbers = [
        [int(np.flatnonzero((trial.queries == query).all(axis=1))[0]) for query in half.queries]
        for half in halves
    ]
    assert sorted(numbers[0] + numbers[1]) == list(range(N_QUERIES))
    for half, of_half in zip(halves, numbers, strict=True):
        for i, number in enumerate(of_half):
            wanted = set(trial.item_ids[half.right["recall_at_20"].rows.row(i)].tolist())
            assert wanted == set(trial.relevance.lists.row(number).tolist())
            excluded = set(trial.item_ids[half.exclude.row(i)].tolist())
            assert excluded == set(trial.exclude.row(number).tolist())
    found = exact_search(
        trial.item_ids, trial.item_vectors, material.reported.queries, k=K,
        exclude=[trial.exclude.row(number) for number in numbers[1]],
    )  # fmt: skip
    right = [trial.relevance.lists.row(number) for number in numbers[1]]
    assert material.exact[f"agreement_at_{K}"] == 1
    assert material.exact["recall_at_20"] == pytest.approx(recall_at_k(found, right, 20))


def test_a_trial_without_an_index_is_refused(tmp_path: Path) -> None:
    folder = save_trial(make_trial("plain"), tmp_path)
    with pytest.raises(ValueError, match="expected a trial with an index, got movielens-1m plain"):
        of_trial(folder, 10, K)


def test_excluded_and_repeated_items_are_found_out(folder: Path) -> None:
    batch = of_trial(folder, N_QUERIES // 2, K).reported
    rows = np.full((len(batch.queries), 2), NO_ROW)
    batch.check(rows)
    rows[3, 0] = batch.exclude.row(3)[0]
    with pytest.raises(AssertionError, match="query 3: excluded item"):
        batch.check(rows)
    rows[3] = next(row for row in range(N_ITEMS) if row not in batch.exclude.row(3))
    with pytest.raises(AssertionError, match="query 3: an item came twice"):
        batch.check(rows)


def test_the_first_that_are_not_excluded() -> None:
    rows = np.array([[4, 1, 3, 0], [2, NO_ROW, NO_ROW, NO_ROW], [0, 1, 2, 3]])
    is_excluded = np.zeros((3, 5), bool)
    is_excluded[0, [4, 3]] = is_excluded[2, 1] = True
    # The last column is no result where a row is missing.
    is_excluded[1, 4] = True
    expected = [[1, 0], [2, NO_ROW], [0, 2]]
    np.testing.assert_array_equal(first_allowed(rows, is_excluded, 2), expected)


def test_one_more_coordinate_keeps_inner_products(small: Material) -> None:
    longer = of_equal_lengths(small.vectors)
    lengths = np.linalg.norm(longer, axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(small.vectors, axis=1).max(), rtol=1e-6)
    np.testing.assert_array_equal(longer[:, :-1], small.vectors)


# --- methods -------------------------------------------------------------------------------------


def check_all(built: list[Built], material: Material) -> None:
    """With the most probes, all find what their bytes promise, and nothing excluded."""
    for each in built:
        rows = each.search(material.reported, each.settings[-1])
        assert rows.shape == (len(material.reported.queries), K), each.method
        material.reported.check(rows)
        found = next(iter(material.reported.quality(rows).values()))
        assert found > (0.95 if each.stored else 0.6), (each.method, each.form, found)


def parts(built: Built) -> tuple[float, ...]:
    return (built.code_bytes, built.vector_bytes, built.link_bytes)


def test_ours(small: Material) -> None:
    built, missing = open_methods(["ours"], small, Grid.of(small, 1, False))
    assert not missing
    assert [(each.method, each.form, *parts(each)) for each in built] == [
        ("ours", "not rotated", 9, 0, 0),
        ("ours", "rotated", 9, 0, 0),
    ]
    check_all(built, small)


def test_ours_refined(small: Material) -> None:
    built, missing = open_methods(["ours-refined"], small, Grid.of(small, 1, False))
    assert not missing
    assert [(each.stored, each.form, *parts(each)) for each in built] == [
        (stored, form, 9, n_bytes, 0)
        for form in ("not rotated", "rotated")
        for stored, n_bytes in {"float16": 36, "int8": 20}.items()
    ]
    check_all(built, small)


def test_faiss(small: Material) -> None:
    built, _ = open_methods(["faiss"], small, Grid.of(small, 1, False))
    names = {(each.family, each.stored): parts(each) for each in built}
    assert names == {
        (family, stored): (8, n_bytes, 0)
        for family in ("Faiss IVF-PQ", "Faiss fast scan")
        for stored, n_bytes in {"": 0, "float16": 32, "int8": 16}.items()
    }
    clusters = {"centroids of length 1", "centroids by distance"}
    assert {each.form for each in built} == clusters | {f"OPQ, {name}" for name in clusters}
    assert len(built) == 6 * 4
    check_all(built, small)


def test_scann(small: Material) -> None:
    pytest.importorskip("scann")
    built, _ = open_methods(["scann"], small, Grid.of(small, 1, False))
    stored = {each.stored: parts(each) for each in built}
    assert stored == {"bfloat16": (8, 32, 0), "int8": (8, 16, 0), "float32": (8, 64, 0)}
    assert len(built) == 6
    check_all(built, small)


def test_usearch(small: Material) -> None:
    pytest.importorskip("usearch")
    built, _ = open_methods(["usearch"], small, Grid.of(small, 1, False))
    assert {each.stored: each.vector_bytes for each in built} == {"float16": 34, "int8": 17}
    links = [each.link_bytes for each in built if each.stored == "int8"]
    assert links == sorted(links)
    assert links[0] > 2 * 12 * 4  # the lowest level's neighbours of connectivity 12
    check_all(built, small)


def test_of_a_trial_nobody_returns_excluded_items(folder: Path) -> None:
    material = of_trial(folder, N_QUERIES // 2, K)
    grid = Grid.of(material, 1, is_quick=True)
    assert grid.extra == {EXTRA: (material.chosen_by.exclude.lengths.max(),)}
    names = ["ours", "faiss", *(name for name in ("scann", "usearch") if find_spec(name))]
    built, missing = open_methods(names, material, grid)
    assert not missing
    assert built[0].form == "joint"
    for each in built:
        rows = each.search(material.reported, each.settings[-1])
        material.reported.check(rows)


def test_what_is_not_installed_is_missing_with_its_reason(
    small: Material, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("scann", "usearch", "usearch.index"):
        monkeypatch.setitem(sys.modules, name, None)
    built, missing = open_methods(["scann", "usearch"], small, Grid.of(small, 1, True))
    assert (built, set(missing)) == ([], {"scann", "usearch"})
    assert "missing: scann: " in capsys.readouterr().out


# --- choosing and reporting ----------------------------------------------------------------------


def test_the_front_is_what_nothing_faster_finds() -> None:
    found = [(0.9, 3.0), (0.5, 1.0), (0.501, 2.0), (0.8, 4.0), (0.7, 1.5), (0.95, 9.0)]
    points = [Point(None, {}, share, seconds) for share, seconds in found]
    assert [point.found for point in front(points)] == [0.5, 0.7, 0.9, 0.95]


def test_what_is_far_behind_gets_no_second_look() -> None:
    found = [(0.9, 3.0), (0.5, 1.0), (0.9, 4.4), (0.9, 4.5), (0.8, 4.6), (0.95, 9.0)]
    points = [Point(None, {}, share, seconds) for share, seconds in found]
    assert [point.seconds for point in near_the_front(points)] == [3.0, 1.0, 4.4, 9.0]


def row(family: str, found: float, seconds: list[float]) -> dict[str, Any]:
    return {
        "method": family, "family": family, "seconds": seconds, "recall": found,
        "queries_per_second": 100 / float(np.median(seconds)),
    }  # fmt: skip


def test_speed_at_the_target_is_between_the_settings_around_it() -> None:
    rows = [
        row("ours", 0.90, [1.0, 2.0, 1.0]),
        row("ours", 0.98, [4.0, 8.0, 4.0]),
        row("peer", 0.93, [1.0, 1.0, 1.0]),
        row("peer", 0.91, [3.0, 3.0, 3.0]),  # outdone
        row("peer", 0.95, [4.0, 8.0, 4.0]),
        row("late", 0.93, [1.0, 1.0, 1.0]),
        row("early", 0.97, [8.0, 8.0, 8.0]),
    ]
    ours, peer, late, early = at_target(rows, "recall", 0.94, 100)
    # Halfway between 1 s and 4 s by the logarithm, 2 s; in the second round 4 s.
    assert ours.queries_per_second == pytest.approx(50)
    assert (ours.against_ours, ours.setting["recall"]) == (pytest.approx(1), 0.98)
    # Its rounds: 2, √8 and 2 s.
    assert peer.queries_per_second == pytest.approx(50)
    assert peer.against_ours == pytest.approx(1)
    assert (late.queries_per_second, late.against_ours, late.setting) == (None, None, None)
    assert late.best == 0.93
    assert early.queries_per_second == pytest.approx(12.5)
    assert early.against_ours == pytest.approx(0.25)


@pytest.mark.parametrize("of_a_trial", [False, True])
def test_command(of_a_trial: bool, folder: Path, tmp_path: Path) -> None:
    small = ["--n-items", "1500", "--dim", "16", "--n-lists", "8", "--bytes", "8"]
    what = ["--trial", str(folder)] if of_a_trial else small
    how = ["--queries", "20", "--k", str(K), "--rounds", "2", "--threads", "1"]
    methods = ["--methods", "ours", "faiss", "scann", "usearch"]
    command.main([*what, *how, *methods, "--quick", "--results", str(tmp_path)])
    name = "movielens-1m-ours-8-0-quick" if of_a_trial else "clustered-1500x16-quick"
    path = tmp_path / "cpu_peers" / name
    assert path.with_name(f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = path.with_name(f"{name}.md").read_text()
    facts = json.loads(path.with_name(f"{name}.json").read_text())
    methods = list(dict.fromkeys(row["method"] for row in facts["rows"]))
    assert methods[:4] == [
        "ours", "Faiss IVF-PQ", "Faiss IVF-PQ, float16 vectors", "Faiss IVF-PQ, int8 vectors",
    ]  # fmt: skip
    assert set(facts["missing"]) == {n for n in ("scann", "usearch") if find_spec(n) is None}
    for name in ("ScaNN", "usearch"):
        assert any(name in method for method in methods) == (find_spec(name.lower()) is not None)
    assert [reached["method"] for reached in facts["at_target"]] == methods
    for each in facts["rows"]:
        assert len(each["seconds"]) == 2
        assert each["bytes_per_item"] == sum(
            each[f"{part}_bytes"] for part in ("code", "vector", "link")
        )
    assert "| ours | 9 | " in text
    metrics = [f"agreement_at_{K}", "recall_at_20"] if of_a_trial else [f"recall_at_{K}"]
    assert f"At {metrics[0]} 0.95\n" in text
    assert f"| bytes | {' | '.join(metrics)} | queries/s |" in text
