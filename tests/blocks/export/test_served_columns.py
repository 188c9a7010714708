"""Raw columns at a server without NVTabular: what the workflow makes of them, or nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import nvtabular as nvt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merlin.dag.ops.subgraph import Subgraph
from merlin.io import Dataset
from nvtabular import ops

from merlin_poeem.blocks.export import workflow_steps
from merlin_poeem.blocks.export.features import features_of
from merlin_poeem.blocks.export.served_columns import save_served_columns
from merlin_poeem.blocks.export.workflow_part import WorkflowPart
from merlin_poeem.serving.features import TowerFeature
from merlin_poeem.serving.input_spec import InputSpec
from merlin_poeem.serving.raw_columns import COLUMNS_FILE, RawColumns
from merlin_poeem.serving.tower_facts import TowerFacts

N = 200
USERS = [f"u{i}" for i in range(30)]
WORDS = ["red", "grün", "blå", "黒", "no colour"]


def rows(n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 5, n)
    return pd.DataFrame(
        {
            "user_id": rng.choice(USERS, n),
            "number": rng.integers(-5, 40, n),
            "small": rng.integers(0, 9, n).astype(np.int32),
            "colour": rng.choice([*WORDS, None], n),
            "age": np.where(rng.random(n) < 0.2, np.nan, rng.integers(15, 80, n)),
            "spent": rng.exponential(30.0, n).astype(np.float32),
            "seen": [rng.integers(100, 160, size) for size in lengths],
            "words": [list(rng.choice(WORDS, size)) for size in lengths],
            "item_id": rng.integers(100, 160, n),
        }
    )


def numbered(columns: list[Any], folder: Path, **options: Any) -> nvt.WorkflowNode:
    return columns >> ops.Categorify(out_path=str(folder), **options)


def make_nodes(folder: Path) -> nvt.WorkflowNode:
    """One of every operator, the items' beside them."""
    user_id = numbered(["user_id"], folder) >> ops.TagAsUserID()
    codes = numbered(["number", "colour", "words"], folder) >> ops.TagAsUserFeatures()
    joint = numbered([["seen", "item_id"]], folder / "joint")
    age = ["age"] >> ops.FillMissing(fill_val=30.0) >> ops.Clip(min_value=18, max_value=70)
    age = age >> ops.Normalize(out_dtype=np.float32) >> ops.Rename(name="how_old")
    decade = (
        ["age"] >> ops.FillMissing() >> ops.Bucketize([20, 40, 60]) >> ops.Rename(postfix="_10")
    )
    median = ["age"] >> ops.FillMedian() >> ops.NormalizeMinMax() >> ops.Rename(name="median")
    spent = ["spent"] >> ops.LogOp() >> ops.Normalize()
    rest = (age + decade + median + spent) >> ops.TagAsUserFeatures()
    return user_id + codes + joint + rest


def fitted(nodes: nvt.WorkflowNode, raw: pd.DataFrame) -> nvt.Workflow:
    workflow = nvt.Workflow(nodes)
    workflow.fit(Dataset(raw, cpu=True))
    return workflow


@pytest.fixture(scope="module")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> nvt.Workflow:
    return fitted(make_nodes(tmp_path_factory.mktemp("categories")), rows())


def facts_of(workflow: nvt.Workflow, columns: list[str] | None = None) -> TowerFacts:
    schema = workflow.output_schema
    features = features_of(schema.select_by_name(columns) if columns else schema)
    plain = [TowerFeature(one.name, one.dtype, one.length, one.largest) for one in features]
    return TowerFacts("onnx", "", 8, "0" * 16, tuple(plain))


Serve = Callable[..., RawColumns]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """``serve(workflow, columns, as_made=...)``: the raw columns of a tower that reads these."""

    def save(
        workflow: nvt.Workflow, columns: list[str] | None = None, **options: Any
    ) -> RawColumns:
        facts_of(workflow, columns).save(tmp_path)
        return save_served_columns(workflow, tmp_path, **options)

    return save


USER = ["user_id", "number", "colour", "words", "seen", "how_old", "age_10", "median", "spent"]


def as_sent(columns: RawColumns, raw: pd.DataFrame) -> dict[str, Any]:
    """The columns of a request for the rows of a frame."""
    sent: dict[str, Any] = {}
    for spec in columns.inputs:
        column = raw[spec.name]
        is_list = spec.length is None
        values = np.concatenate([np.asarray(row) for row in column]) if is_list else column
        if spec.dtype == "string":
            values = np.array([text or "" for text in values], object)
        else:
            values = np.asarray(values).astype(spec.dtype)
        offsets = np.cumsum([0, *map(len, column)]) if is_list else None
        sent[spec.name] = values, offsets
    return sent


def check_same(columns: RawColumns, workflow: nvt.Workflow, raw: pd.DataFrame) -> None:
    """The tensors of requests for ``raw`` are what the workflow makes of it."""
    features = [way.feature for way in columns.ways]
    truth = WorkflowPart(workflow, [feature.name for feature in features])(raw)
    tensors = columns.tensors(as_sent(columns, raw))
    for feature in features:
        expected = truth[feature.name].tolist()
        values = tensors[feature.tensor_names[0]]
        assert values.dtype == feature.dtype
        if feature.length is None:
            offsets = tensors[feature.tensor_names[1]]
            assert offsets.tolist() == np.cumsum([0, *map(len, expected)]).tolist()
            expected = np.concatenate(expected).tolist()
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6, err_msg=feature.name)


def test_features_are_those_of_the_workflow(workflow: nvt.Workflow, serve: Serve) -> None:
    columns = serve(workflow, USER)
    check_same(columns, workflow, rows())
    news = rows().assign(
        user_id=lambda raw: raw["user_id"] + "?",
        number=-77,
        colour=[*["no such", None] * (N // 2)],
        age=1e6,
    )
    check_same(columns, workflow, pd.concat([rows(), news], ignore_index=True))


def test_what_requests_hold(workflow: nvt.Workflow, serve: Serve) -> None:
    columns = serve(workflow, USER)
    specs = {spec.name: (spec.dtype, spec.length, spec.optional) for spec in columns.inputs}
    assert specs == {
        "user_id": ("string", 0, True),
        "number": ("int64", 0, False),
        "colour": ("string", 0, False),
        "words": ("string", None, False),
        "seen": ("int64", None, False),
        "age": ("float64", 0, False),
        "spent": ("float32", 0, False),
    }


def test_users_who_are_not_sent_are_not_known(workflow: nvt.Workflow, serve: Serve) -> None:
    columns = serve(workflow, ["user_id", "number", "spent"])
    sent = as_sent(columns, rows())
    del sent["user_id"]
    got = columns.tensors(sent)
    truth = WorkflowPart(workflow, ["user_id"])(rows().assign(user_id=None))
    np.testing.assert_array_equal(got["user_id"], truth["user_id"])
    with pytest.raises(ValueError, match=r"columns: expected \['number', 'spent'\], got \['user_i"):
        columns.tensors({"user_id": as_sent(columns, rows())["user_id"]})


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint64"])
def test_integers_of_users(serve: Serve, tmp_path: Path, dtype: str) -> None:
    raw = pd.DataFrame({"user_id": np.arange(3, 40).astype(dtype), "age": 1.0})
    nodes = (numbered(["user_id"], tmp_path / dtype) >> ops.TagAsUserID()) + ["age"]
    workflow = fitted(nodes, raw)
    columns = serve(workflow)
    check_same(columns, workflow, raw)
    ages = np.ones(2), None
    unknown = columns.inputs[0].dtype
    sent = {"user_id": (np.array([1, 2000]).astype(unknown), None), "age": ages}
    np.testing.assert_array_equal(
        columns.tensors(sent)["user_id"], columns.tensors({"age": ages})["user_id"]
    )


def test_a_user_id_alone_has_to_be_sent(workflow: nvt.Workflow, serve: Serve) -> None:
    assert serve(workflow, ["user_id"]).inputs == [InputSpec("user_id", "string")]


def test_subgraphs_and_other_names(serve: Serve, tmp_path: Path) -> None:
    user = numbered(["user_id"], tmp_path / "s") >> ops.Rename(name="user") >> ops.TagAsUserID()
    user += numbered(["small"], tmp_path / "s") >> ops.TagAsUserFeatures()
    item = numbered(["item_id"], tmp_path / "s") >> ops.TagAsItemID()
    workflow = fitted(Subgraph("user", user) + Subgraph("item", item), rows())
    columns = serve(workflow, ["user", "small"])
    assert [spec.name for spec in columns.inputs] == ["user_id", "small"]
    assert not any(spec.optional for spec in columns.inputs)
    check_same(columns, workflow, rows())


def test_subsets(serve: Serve, tmp_path: Path) -> None:
    nodes = numbered(["number", "small"], tmp_path / "s")
    rest = ["age", "spent"] >> ops.FillMissing()
    workflow = fitted(nodes["small"] + (rest - rest["age"]), rows())
    columns = serve(workflow)
    assert {spec.name for spec in columns.inputs} == {"small", "spent"}
    check_same(columns, workflow, rows())


@pytest.mark.parametrize("options", [{"freq_threshold": 4}, {"max_size": 6}, {"dtype": np.int32}])
def test_rare_values_have_no_number_of_their_own(
    serve: Serve, tmp_path: Path, options: dict[str, Any]
) -> None:
    nodes = numbered(["number", "colour"], tmp_path / "rare", **options)
    workflow = fitted(nodes, rows())
    check_same(serve(workflow), workflow, rows())


def test_the_folder_of_a_saved_workflow(
    workflow: nvt.Workflow, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    saved = tmp_path_factory.mktemp("saved")
    workflow.save(str(saved))
    facts_of(workflow, USER).save(tmp_path)
    check_same(save_served_columns(saved, tmp_path), workflow, rows())


@given(seed=st.integers(0, 2**32 - 1), lengths=st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_any_rows(any_columns: RawColumns, workflow: Any, seed: int, lengths: list[int]) -> None:
    """Lists that are empty among them, but in all rows NVTabular 23.8 takes none for a list."""
    rng = np.random.default_rng(seed)
    raw = rows().sample(len(lengths), random_state=seed % 1000).reset_index(drop=True)
    lists = [rng.integers(90, 170, n) for n in lengths]
    check_same(any_columns, workflow, raw.assign(seen=lists, number=rng.integers(-9, 99, len(raw))))


@pytest.fixture(scope="module")
def any_columns(workflow: Any, tmp_path_factory: pytest.TempPathFactory) -> RawColumns:
    folder = tmp_path_factory.mktemp("any")
    facts_of(workflow, USER).save(folder)
    return save_served_columns(workflow, folder)


def squared(column: pd.Series) -> pd.Series:
    return column**2


class TestWhatHasNoStep:
    """Is named, with the column, and may be sent as the workflow makes it."""

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda _: ["number"] >> ops.LambdaOp(squared), "LambdaOp of column 'number'"),
            (lambda _: ["number"] >> ops.HashBucket(7), "HashBucket of column 'number'"),
            (
                lambda folder: numbered([["number", "colour"]], folder, encode_type="combo"),
                r"Categorify, which makes it of \['number', 'colour'\]",
            ),
            (
                lambda folder: numbered(["number"], folder, num_buckets=3, max_size=9),
                "Categorify of column 'number' with num_buckets",
            ),
            (
                lambda _: ["one"] >> ops.NormalizeMinMax(),
                "NormalizeMinMax of column 'one', whose values were all 1.0",
            ),
            (
                lambda folder: numbered(["blank"], folder),
                "Categorify of column 'blank' with an empty text",
            ),
        ],
    )
    def test_operators(
        self,
        serve: Serve,
        tmp_path: Path,
        make: Callable[[Path], nvt.WorkflowNode],
        message: str,
    ) -> None:
        raw = rows().assign(one=1.0, blank=lambda raw: raw["colour"].fillna(""))
        workflow = fitted(make(tmp_path / "no"), raw)
        names = workflow.output_schema.column_names[-1:]
        with pytest.raises(ValueError, match=f"workflow: .* column '{names[0]}', got {message}"):
            serve(workflow, names)
        assert not (tmp_path / COLUMNS_FILE).exists()

    def test_sent_as_the_workflow_makes_it(self, serve: Serve, tmp_path: Path) -> None:
        nodes = numbered(["colour"], tmp_path / "made")
        workflow = fitted(nodes + (["number"] >> ops.LambdaOp(squared)), rows())
        columns = serve(workflow, as_made=["number"])
        made = workflow.transform(rows())
        sent = as_sent(columns, rows().assign(number=made["number"].to_numpy()))
        tensors = columns.tensors(sent)
        np.testing.assert_array_equal(tensors["number"], made["number"])
        np.testing.assert_array_equal(tensors["colour"], made["colour"])

    def test_a_column_that_is_none_of_the_towers(
        self, workflow: nvt.Workflow, serve: Serve
    ) -> None:
        with pytest.raises(ValueError, match=r"as_made: expected columns of .*, got \['nope'\]"):
            serve(workflow, USER, as_made=["nope"])


def test_a_step_that_is_wrong_is_found(
    serve: Serve, workflow: nvt.Workflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = workflow_steps._categorify

    def off_by_one(operator: Any, column: str) -> Any:
        lookup, samples = right(operator, column)
        lookup.vocabulary.codes[3] += 1
        return lookup, samples

    monkeypatch.setitem(workflow_steps._STEPS, ops.Categorify, off_by_one)
    message = r"column 'colour': expected \d+ of colour '.*', as the workflow makes it, got \d+ by"
    with pytest.raises(ValueError, match=message):
        serve(workflow, ["colour"])
    assert not (tmp_path / COLUMNS_FILE).exists()


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (ops.Clip, {"least": 19.0}),
        (ops.FillMissing, {"value": 31.0}),
        (ops.FillMedian, {"value": 0.0}),
        (ops.Normalize, {"shift": 0.0}),
        (ops.NormalizeMinMax, {"by": 2.0}),
        (ops.Bucketize, {"boundaries": (20.0, 41.0, 60.0)}),
    ],
)
def test_any_step_that_is_wrong_is_found(
    serve: Serve,
    workflow: nvt.Workflow,
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
    change: dict[str, Any],
) -> None:
    right = workflow_steps._STEPS[kind]

    def wrong(operator: Any, column: str) -> Any:
        step, samples = right(operator, column)
        return replace(step, **change), samples

    monkeypatch.setitem(workflow_steps._STEPS, kind, wrong)
    with pytest.raises(ValueError, match="as the workflow makes it, got"):
        serve(workflow, USER)


SCRIPT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "merlin", "nvtabular", "pandas", "pyarrow"):
            raise ImportError(name + " is not to be imported here")
sys.meta_path.insert(0, Refuse())
from pathlib import Path
import numpy as np
from merlin_poeem.serving.raw_columns import RawColumns
columns = RawColumns.load(Path(sys.argv[1]))
sent = {"number": (np.array([3, 4]), None), "user_id": (np.array([b"u1", b""], object), None)}
print(columns.tensors(sent)["user_id"].tolist())
"""


def test_at_the_server_there_is_no_nvtabular(
    workflow: nvt.Workflow, serve: Serve, tmp_path: Path
) -> None:
    columns = serve(workflow, ["user_id", "number"])
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    known = columns.tensors(
        {"number": (np.array([3]), None), "user_id": (np.array(["u1"], object), None)}
    )["user_id"][0]
    assert found.strip() == f"[{known}, 1]"
    assert known > 2
