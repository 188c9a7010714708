"""The quality benchmark's trainings, tiny: whole trials, each made once, of every task."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from benchmarks.quality import jobs, towers, training, variants  # noqa: E402
from benchmarks.quality.aliccp_clicks import Clicks  # noqa: E402
from benchmarks.quality.methods import exact, learned  # noqa: E402
from benchmarks.quality.permit import CHOSEN, Permit  # noqa: E402
from benchmarks.quality.trial import (  # noqa: E402
    Trial,
    TrialName,
    load_trial,
    quality_folder,
    whole_trials,
)
from benchmarks.quality.variants import Variant  # noqa: E402
from workflows.gowalla import simulate as gowalla_simulate  # noqa: E402
from workflows.gowalla import towers as gowalla  # noqa: E402
from workflows.movielens import simulate as movielens_simulate  # noqa: E402
from workflows.movielens import towers as movielens  # noqa: E402
from workflows.poeem_tutorial import N_LISTS, VOCABULARY, matches, precision  # noqa: E402

TINY = Variant(pq_dim=4, pq_bits=4, options={"sample_size": 1024, "balance": 0.5})
ARGUMENTS = ["--quick", "--tasks", "tutorial", "--variants", "ours-8", "--seeds", "3"]


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """Little data, small vectors, and no processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "QUICK_PAIRS", 6_000)
        patch.setitem(variants.VARIANTS, "ours-8", TINY)
        patch.setattr(gowalla, "DIM", 16)
        patch.setattr(subprocess, "run", run_here)
        yield


def run_here(command: list, **_: object) -> subprocess.CompletedProcess:
    """In the place of a process, which would be another that starts TensorFlow."""
    assert command[1:3] == ["-m", "benchmarks.quality.towers"]
    towers.main([str(word) for word in command[3:]])
    return subprocess.CompletedProcess(command, 0)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After the command has trained one model."""
    results = tmp_path_factory.mktemp("results")
    training.main([*ARGUMENTS, "--results", str(results)])
    return results


@pytest.fixture(scope="module")
def tutorial(results: Path) -> Trial:
    (folder,) = whole_trials(quality_folder(results, quick=True))
    return load_trial(folder)


def test_a_trial_of_the_tutorial(tutorial: Trial) -> None:
    assert tutorial.name == TrialName("tutorial", "ours-8", 3)
    assert tutorial.queries.shape == tutorial.item_vectors.shape == (VOCABULARY, 64)
    assert tutorial.exclude is None
    told = tutorial.facts["recipe"]["quantizer"]
    assert told.items() >= TINY.training_options.items()
    assert tutorial.facts["seconds"] > 0
    assert tutorial.index is not None
    params = tutorial.index.params
    assert (params.n_lists, params.pq_dim, params.pq_bits) == (N_LISTS, 4, 4)


def test_item_vectors_are_those_before_the_quantizer(tutorial: Trial) -> None:
    decoded = tutorial.index.decode(tutorial.item_ids)
    assert np.linalg.norm(tutorial.item_vectors - decoded, axis=1).min() > 0.1
    np.testing.assert_allclose(np.linalg.norm(tutorial.item_vectors, axis=1), 1, atol=1e-5)


def test_precision_is_the_workflows(tutorial: Trial) -> None:
    table = matches()
    for found in (exact(tutorial).search(0, 100), learned(tutorial, tutorial.index).search(2, 100)):
        of_queries = tutorial.relevance.per_query(found)["precision_at_100"]
        assert of_queries.mean() == pytest.approx(precision(found, table), abs=1e-15)
        assert of_queries.mean() > 0.05


def test_a_whole_trial_is_not_trained_again(
    results: Path, tutorial: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    training.main([*ARGUMENTS, "--results", str(results)])
    assert "2 of 2: tutorial ours-8 seed 3 (validation): there already" in capsys.readouterr().out


PLAIN = TrialName("gowalla", "plain", 0)
MAKE_JOB = {
    "movielens": lambda: jobs.movielens_job(movielens_simulate.simulate("1m", share=0.005)),
    "gowalla": lambda: jobs.gowalla_job(gowalla_simulate.simulate(100, 300), seed=0),
}


def run_plain(job: jobs.Job) -> Trial:
    return towers.run_job(job, PLAIN, trunk=None)


@pytest.fixture(scope="module", params=MAKE_JOB)
def plain(request: pytest.FixtureRequest) -> tuple[jobs.Job, Trial]:
    """A job with seen items, and its plain model's trial."""
    job = MAKE_JOB[request.param]()
    return job, run_plain(job)


def test_frequencies_and_training_queries_are_kept(plain: tuple[jobs.Job, Trial]) -> None:
    job, trial = plain
    assert trial.item_frequencies.sum() == job.n_pairs
    assert trial.item_frequencies.shape == trial.item_ids.shape
    assert trial.item_frequencies.min() > 0
    assert len(trial.train_queries) == len(job.train_queries) >= len(job.queries)
    by_vector = {vector.tobytes() for vector in trial.train_queries.round(4)}
    assert {vector.tobytes() for vector in trial.queries.round(4)} <= by_vector


def test_jobs_with_seen_items(plain: tuple[jobs.Job, Trial]) -> None:
    job, trial = plain
    assert trial.index is None
    assert len(trial.queries) == len(trial.relevance.groups) == len(trial.exclude)
    assert len(trial.item_ids) == len(trial.item_vectors) == len(job.items)
    assert np.isin(trial.exclude.values, trial.item_ids).all()
    right, seen = trial.relevance.lists, trial.exclude
    assert not any(np.isin(right.row(i), seen.row(i)).any() for i in range(len(right)))
    found = exact(trial).search(0, 100)
    assert not any(np.isin(found[i][1], seen.row(i)).any() for i in range(len(right)))
    quantizer = job.new_quantizer(seed=5, pq_dim=4, pq_bits=4, balance=0.25)
    config = quantizer.get_config()
    assert [config[key] for key in ("seed", "pq_dim", "pq_bits", "balance")] == [5, 4, 4, 0.25]
    assert config["n_lists"] == job.n_lists


@pytest.mark.parametrize("plain", ["gowalla"], indirect=True)
def test_a_model_does_not_depend_on_what_ran_before(plain: tuple[jobs.Job, Trial]) -> None:
    job, first = plain
    np.testing.assert_array_equal(first.item_vectors, run_plain(job).item_vectors)


@pytest.mark.parametrize("plain", ["gowalla"], indirect=True)
def test_popular_places_have_longer_vectors(plain: tuple[jobs.Job, Trial]) -> None:
    _, trial = plain
    visits = gowalla_simulate.simulate(100, 300).train["item_id"].value_counts()
    logarithms = np.log(visits[trial.item_ids].to_numpy())
    expected = 1 + gowalla.LENGTH_BY_POPULARITY * (logarithms - logarithms.mean())
    np.testing.assert_allclose(np.linalg.norm(trial.item_vectors, axis=1), expected, rtol=1e-5)
    assert expected.max() > 1.05 * expected.min()


def visits_of(user: int) -> range:
    return range(user % 90, user % 90 + 6)


def test_quick_jobs_take_one_user_in_eight(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "train.txt.gz", "wt") as lines:
        lines.writelines(f"{user} {' '.join(map(str, visits_of(user)))}\n" for user in range(800))
    assert len(jobs.make_job(PLAIN, tmp_path, quick=True).queries) == 100
    assert len(jobs.make_job(PLAIN, tmp_path, quick=False).queries) == 800


def test_test_pairs_are_read_with_a_permit_alone(tmp_path: Path) -> None:
    of_test = replace(PLAIN, part="test")
    with pytest.raises(PermissionError, match="expected a permit to read test pairs, got none"):
        jobs.make_job(of_test, tmp_path, quick=False)
    for part in ("train", "test"):
        with gzip.open(tmp_path / f"{part}.txt.gz", "wt") as lines:
            first = {"train": 0, "test": 100}[part]
            lines.writelines(f"{user} {first + user % 90}\n" for user in range(200))
    (tmp_path / CHOSEN).write_text("{}")
    job = jobs.make_job(of_test, tmp_path, quick=False, permit=Permit.begin(tmp_path))
    assert job.relevance.lists.values.min() == 100


def test_the_tutorials_validation_is_of_other_pairs() -> None:
    validation, test = (
        jobs.make_job(TrialName("tutorial", "plain", 0, part), None, True, Permit("a digest"))
        for part in ("validation", "test")
    )
    assert validation.n_pairs == test.n_pairs
    assert (validation.item_frequencies != test.item_frequencies).any()


def test_clicks_of_ali_ccp_are_held_out_of_the_training_clicks() -> None:
    rows = {part: Clicks.of(part, 80_000) for part in ("validation", "test")}
    validation, test = rows["validation"], rows["test"]
    numbers = [table["sample_id"].to_pylist() for table in (validation.train, validation.found)]
    assert sorted([*numbers[0], *numbers[1]]) == test.train["sample_id"].to_pylist()
    assert validation.found["user_id"].null_count == 0 < test.train["user_id"].null_count
    assert 0.05 < len(numbers[1]) / len(test.train) < 0.2
    assert test.found["sample_id"].to_pylist() != numbers[1]
    assert len(validation.catalog) == validation.catalog["item_id"].nunique() > 500


def test_a_job_of_ali_ccp_has_every_item_clicked_or_not() -> None:
    job = jobs.aliccp_job("test", 20_000)
    assert job.item_frequencies.sum() == job.n_pairs
    assert (job.item_frequencies == 0).any()
    assert len(job.queries) == len(job.relevance.groups)
    assert job.exclude is None


def test_gowalla_needs_as_many_users_as_dimensions() -> None:
    with pytest.raises(ValueError, match="expected at least 16 users and places, got 8"):
        gowalla.Task.of(gowalla_simulate.simulate(8, 300))


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        ("gowalla", None, "data: expected the folder of gowalla, got none"),
        (
            "netflix",
            Path(),
            "task: expected one of tutorial, movielens-1m, gowalla, aliccp, got 'netflix'",
        ),
    ],
)
def test_unknown_jobs_are_refused(task: str, data: Path | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jobs.make_job(TrialName(task, "plain", 0), data, quick=False)


def test_movielens_quantizer_defaults_to_the_demos() -> None:
    config = movielens.new_quantizer().get_config()
    assert (config["n_lists"], config["pq_dim"], config["pq_bits"]) == (128, 8, 8)
    assert config["warmup"] == 0.75
    assert movielens.new_quantizer(warmup=7).warmup == 7
