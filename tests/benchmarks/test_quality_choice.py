"""The quality benchmark's choices, the one read of the test pairs, and what is written of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("faiss")
pytest.importorskip("matplotlib")

from benchmarks.quality import choice, final, judge, paired, report
from benchmarks.quality.afterwards import FAISS, FAISS_SCALES, FAMILIES, FIT, Way, size_of
from benchmarks.quality.permit import CHOSEN, TEST_READ, Permit
from benchmarks.quality.trial import TrialName, quality_folder, save_trial
from tests.benchmarks.quality_trials import make_trial, one_thread

pytestmark = pytest.mark.usefixtures(one_thread.__name__)

# --- the rule ------------------------------------------------------------------------------------


def tried(variant: str, *recalls: float, knobs: dict | None = None, **facts: Any) -> list[dict]:
    """A row a seed."""
    row = {
        "task": "gowalla", "variant": variant, "family": "ours", "knobs": knobs or {},
        "form": "8x8", "refine": 0, "bytes_per_item": 9.0,
    }  # fmt: skip
    return [{**row, "seed": i, "recall_at_20": r, **facts} for i, r in enumerate(recalls)]


def test_the_highest_mean_over_seeds_is_chosen() -> None:
    rows = [
        *tried("ours-8", 0.30, 0.32),
        *tried("ours-8:balance=2", 0.31, 0.33, knobs={"balance": 2}),
        *tried("ours-8:balance=0", 0.20, 0.34, knobs={"balance": 0}),
    ]
    (chosen,) = choice.choose(rows)
    assert chosen["variant"] == "ours-8:balance=2"
    assert chosen["knobs"] == {"balance": 2}
    assert chosen["validation"] == chosen["best_validation"] == pytest.approx(0.32)
    assert chosen["seeds"] == [0, 1]
    assert sorted(chosen["tried"].values()) == pytest.approx([0.27, 0.31, 0.32])


@pytest.mark.parametrize(("gain", "expected"), [(0.0004, "ours-8"), (0.0006, "ours-8:a=1,b=2")])
def test_the_default_is_as_good_within_the_margin(gain: float, expected: str) -> None:
    rows = [
        *tried("ours-8", 0.3),
        *tried("ours-8:a=1,b=2", 0.3 + gain, knobs={"a": 1, "b": 2}),
    ]
    (chosen,) = choice.choose(rows)
    assert chosen["variant"] == expected
    assert chosen["best_validation"] == pytest.approx(0.3 + gain)


def test_of_equally_simple_ones_the_better_is_chosen() -> None:
    rows = [*tried("ours-4", 0.3, form="8x4"), *tried("ours-4x8", 0.3001, form="4x8")]
    rows = [{**row, "bytes_per_item": 5.0} for row in rows]
    assert choice.choose(rows)[0]["variant"] == "ours-4x8"
    assert choice.choose(rows[::-1])[0]["variant"] == "ours-4x8"


def test_what_was_tried_on_fewer_seeds_takes_no_part() -> None:
    rows = [*tried("ours-8", 0.3, 0.3), *tried("ours-8:a=1", 0.9, knobs={"a": 1})]
    (chosen,) = choice.choose(rows)
    assert chosen["variant"] == "ours-8"
    assert chosen["left_out"] == ['ours-8:a=1 8x8 {"a": 1}']


def test_what_was_tried_on_other_seeds_takes_no_part() -> None:
    lucky = [
        {**row, "seed": row["seed"] + 1} for row in tried("ours-8:a=1", 0.9, 0.9, knobs={"a": 1})
    ]
    for rows in ([*tried("ours-8", 0.3, 0.3), *lucky], [*lucky, *tried("ours-8", 0.3, 0.3)]):
        (chosen,) = choice.choose(rows)
        assert (chosen["variant"], chosen["seeds"]) == ("ours-8", [0, 1])
        assert chosen["left_out"] == ['ours-8:a=1 8x8 {"a": 1}']


def test_choices_are_of_a_task_a_size_a_second_look_and_a_family() -> None:
    rows = [
        *tried("ours-8", 0.3),
        *tried("ours-8", 0.4, refine=2),
        *tried("ours-16", 0.5, bytes_per_item=17.0),
        *tried("plain", 0.2, family=FAISS),
        *tried("ours-8", 0.1, task="movielens-1m"),
        *tried("plain", 0.9, family="exact", bytes_per_item=512.0),
    ]
    got = [(c["task"], c["size"], c["refine"], c["family"]) for c in choice.choose(rows)]
    assert got == [
        ("gowalla", 9, 0, FAISS),
        ("gowalla", 9, 0, "ours"),
        ("gowalla", 9, 2, "ours"),
        ("gowalla", 17, 0, "ours"),
        ("movielens-1m", 9, 0, "ours"),
    ]


@pytest.mark.parametrize(
    ("n_bytes", "size"), [(4, 5), (5, 5), (8, 9), (9, 9), (16, 17), (33, 33), (34, None)]
)
def test_a_size_is_the_least_that_the_codes_fit_into(n_bytes: float, size: int | None) -> None:
    assert size_of(n_bytes) == size


# --- paired differences --------------------------------------------------------------------------


def test_the_interval_is_the_normal_one_of_the_mean_over_seeds() -> None:
    differences = np.array([[0.0, 1.0, 2.0, 3.0], [2.0, 1.0, 0.0, 3.0]])
    found = paired.Difference.of(differences)
    of_queries = np.array([1.0, 1.0, 1.0, 3.0])
    half = 1.96 * of_queries.std(ddof=1) / 2
    assert found.mean == 1.5
    np.testing.assert_allclose([found.low, found.high], [1.5 - half, 1.5 + half])
    assert found.by_seed == [1.5, 1.5]
    assert found.n_queries == 4


def test_an_interval_holds_the_mean_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        found = paired.Difference.of(rng.normal(0.3, 1, (1, 200)))
        held += found.low <= 0.3 <= found.high
    assert 930 <= held <= 970


def test_one_query_has_no_interval() -> None:
    with pytest.raises(ValueError, match="expected at least 2 queries, got 1"):
        paired.Difference.of(np.zeros((3, 1)))


# --- the commands --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chosen on validation trials of two seeds, and judged on test trials of the same."""
    results = tmp_path_factory.mktemp("results")
    folder = quality_folder(results, quick=True)
    with pytest.MonkeyPatch.context() as patch:
        few_ways(patch)
        for part in ("validation", "test"):
            for variant in ("plain", "ours-8"):
                for seed in (0, 1):
                    save_trial(make_trial(variant, seed, part=part), folder)
        choice.main(["--quick", "--results", str(results)])
        final.main(["judge", "--quick", "--results", str(results)])
    return results


def few_ways(patch: pytest.MonkeyPatch) -> None:
    def ways(dim: int, size: int) -> list[Way]:
        return [Way(FAISS_SCALES, size, {"opq": False}), Way(FIT, size, {"rotation": False})]

    patch.setattr(judge, "ways", ways)
    for name, task in judge.TASKS.items():
        patch.setitem(judge.TASKS, name, replace(task, share=0.4))


def test_the_choices_are_written_down(results: Path) -> None:
    written = json.loads((quality_folder(results, quick=True) / CHOSEN).read_text())
    assert written["rule"].startswith("for each task, family, size in bytes and second look")
    assert written["margin"] == 0.0005
    assert "ours-8 8x8 {} *" in (quality_folder(results, quick=True) / "validation.md").read_text()
    families = {(c["family"], c["refine"]) for c in written["choices"]}
    assert families == {(f, n) for f in ("ours", FAISS_SCALES, FIT) for n in (0, 2, 4)}


def test_the_read_is_written_down_with_its_tables(results: Path) -> None:
    folder = quality_folder(results, quick=True)
    assert len(json.loads((folder / TEST_READ).read_text())["chosen_sha256"]) == 64
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    assert {row["part"] for row in rows} == {"test"}
    text = (folder / "quality.md").read_text()
    assert "## movielens-1m\n\n400 items, 50 queries, seeds 0, 1." in text
    for line in (
        "| Faiss + scales (opq=False) of plain vectors | 8x8 | 9 | 2 | 32 |",
        "| fit | 9 |  | recall_at_20 | ",
        "| exact, plain | 9 | 4 | ndcg_at_20 | ",
        "| ours | 9 |  | ours-8 8x8 {} * | 0.",
        "| k-means lists of plain vectors |",
        "Items scanned for a share of `recall_at_20` in all lists, no second look\n\n"
        "| method | codes | bytes | refine | 95% | 99% |",
    ):
        assert line in text
    assert "| exact, plain | 9 | 4 | agreement_at_100 | " not in text
    assert (folder / "movielens-1m.png").read_bytes().startswith(b"\x89PNG")


def test_baselines_that_are_not_compared_with_are_named(results: Path) -> None:
    folder = quality_folder(results, quick=True)
    line = "Without Faiss, ScaNN: on the validation part there was nothing to choose from.\n"
    assert line in (folder / "quality.md").read_text()
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    choices = json.loads((folder / CHOSEN).read_text())["choices"]
    others = [{**choices[0], "family": family} for family in FAMILIES]
    assert "Without" not in report.report(rows, choices + others, [])


def test_what_was_chosen_for_another_second_look_is_not_beside_it() -> None:
    ((with_codes, other), (chosen,)) = (
        [*tried("ours-8", 0.3), *tried("ours-8:a=1", 0.4, knobs={"a": 1}, refine=2)],
        choice.choose(tried("ours-8", 0.3)),
    )
    assert choice.is_of(with_codes, chosen)
    assert not choice.is_of(other, chosen)
    facts = {"method": "m", "values": "0", "vector_bytes": 0, "items_scanned": 1.0, "n_items": 10}
    frame = pd.DataFrame([{**row, **facts} for row in (with_codes, other)])
    frame["agreement_at_100"] = 1.0
    table = report.chosen_table(frame, ("recall_at_20",), [chosen])
    assert [line[3] for line in table.lines] == [""]


def test_a_paired_mean_is_the_difference_of_the_rows(results: Path) -> None:
    folder = quality_folder(results, quick=True)
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    choices = json.loads((folder / CHOSEN).read_text())["choices"]
    at_share = [row for row in rows if row["values"] and row["refine"] == 2]
    means = {
        family: np.mean([r["ndcg_at_20"] for r in at_share if r["family"] == family])
        for family in ("ours", FIT)
    }
    (found,) = [
        row
        for row in paired.paired_rows(choices, rows, folder)
        if (row["against"], row["refine"], row["metric"]) == (FIT, 2, "ndcg_at_20")
    ]
    assert found["mean"] == pytest.approx(means["ours"] - means[FIT])
    assert found["low"] < found["mean"] < found["high"]
    assert found["n_queries"] == 50
    assert len(found["by_seed"]) == 2


def test_a_second_read_for_other_choices_is_refused(results: Path, tmp_path: Path) -> None:
    folder = quality_folder(tmp_path, quick=True)
    folder.mkdir()
    for name in (CHOSEN, TEST_READ):
        (folder / name).write_bytes((quality_folder(results, quick=True) / name).read_bytes())
    chosen = json.loads((folder / CHOSEN).read_text())
    chosen["choices"].pop()
    (folder / CHOSEN).write_text(json.dumps(chosen))
    for step in ("train", "judge"):
        with pytest.raises(SystemExit, match="a second read for other choices"):
            final.main([step, "--quick", "--results", str(tmp_path)])


def test_choices_stay_once_test_pairs_were_read_for_them(tmp_path: Path) -> None:
    first = choice.choose(tried("ours-8", 0.3))
    others = choice.choose(tried("ours-8:a=1", 0.4, knobs={"a": 1}))
    choice.save_choices(others, tmp_path)
    choice.save_choices(first, tmp_path)  # nothing was read yet
    path = tmp_path / CHOSEN
    written = json.loads(path.read_text())
    assert written["choices"] == first
    # Packages of other versions are no other choices.
    path.write_text(json.dumps({**written, "versions": {}}))
    Permit.begin(tmp_path)
    read_for = path.read_bytes()
    choice.save_choices(first, tmp_path)
    with pytest.raises(PermissionError, match="the choices that test pairs were read for"):
        choice.save_choices(others, tmp_path)
    assert path.read_bytes() == read_for
    Permit.begin(tmp_path)


def test_nothing_is_read_before_there_are_choices(tmp_path: Path) -> None:
    save_trial(make_trial("ours-8", part="test"), quality_folder(tmp_path, quick=True))
    for step in ("train", "judge"):
        with pytest.raises(SystemExit, match=r"expected choices before test pairs are read"):
            final.main([step, "--quick", "--results", str(tmp_path)])
    assert not (quality_folder(tmp_path, quick=True) / TEST_READ).exists()


def test_choosing_needs_trials(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"expected trials, got none; run .*training first"):
        choice.main(["--results", str(tmp_path)])


def test_what_is_trained_in_the_end_is_what_was_chosen() -> None:
    chosen = choice.choose([
        *tried("ours-8", 0.3, 0.3),
        *tried("ours-16:a=1", 0.5, 0.5, bytes_per_item=17.0),
        *tried("plain", 0.2, 0.2, family=FAISS),
    ])  # fmt: skip
    assert final.names_of(chosen) == [
        TrialName("gowalla", variant, seed, "test")
        for seed in (0, 1)
        for variant in ("plain", "ours-16:a=1", "ours-8")
    ]
    assert {name.seed for name in final.names_of(chosen, [1, 4])} == {1, 4}
