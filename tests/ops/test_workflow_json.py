"""The operators in workflows saved as JSON: moved, edited, and on registries of other kinds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import nvtabular as nvt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merlin.schema import ColumnSchema, Schema, Tags

from merlin_poeem import Index, ItemSet, save_index
from merlin_poeem.blocks import export_index
from merlin_poeem.blocks.export.query_tower import save_query_tower
from merlin_poeem.index.copies import fingerprint_of
from merlin_poeem.index.stored_files import IndexFormatError
from merlin_poeem.ops import AssignCodes, RetrieveCandidates
from merlin_poeem.ops.workflow_json import register
from tests.blocks import toy
from tests.index_factories import (
    random_id_lists,
    random_index,
    random_queries,
    with_random_vectors,
)
from tests.ops import graph_serializer

N, K = 12, 5
SCHEMA = Schema(
    [
        ColumnSchema("user", dtype=np.int64, tags=[Tags.USER_ID]),
        ColumnSchema("item_id", dtype=np.int64, tags=[Tags.ITEM_ID, Tags.ITEM]),
        ColumnSchema("embedding", dtype=np.float32, dims=(None, 16), tags=[Tags.EMBEDDING]),
        ColumnSchema("seen", dtype=np.int64, dims=(None, (0, None))),
    ]
)
LOAD_ELSEWHERE = """
import sys
import nvtabular, pandas, pytest
from tests.ops import graph_serializer
graph_serializer.install(pytest.MonkeyPatch())
import merlin_poeem.ops
folder, frame, expected = sys.argv[1:]
got = nvtabular.Workflow.load(folder).transform(pandas.read_parquet(frame))
pandas.testing.assert_frame_equal(got, pandas.read_parquet(expected))
"""


@pytest.fixture(scope="module")
def index() -> Index:
    return with_random_vectors(random_index(), "float16")


@pytest.fixture(scope="module")
def index_path(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "items.index"
    save_index(index, path)
    return path


@pytest.fixture(scope="module")
def frame(index: Index) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user": np.arange(N),
            "item_id": np.concatenate([[7, -1, 2**62], index.item_ids[: N - 3]]),
            "embedding": list(random_queries(index, N)),
            "seen": random_id_lists(index, N, 100),
        }
    )


@pytest.fixture
def serializer() -> Iterator[ModuleType]:
    """The module that writes JSON, with both operators registered."""
    with pytest.MonkeyPatch.context() as patch:
        module = graph_serializer.install(patch)
        register(AssignCodes)
        register(RetrieveCandidates)
        yield module


def retrieve(index_path: Path, **arguments: Any) -> RetrieveCandidates:
    return RetrieveCandidates(index_path, **{"k": K, "backend": "reference", **arguments})


def workflow_of(op: Any, column: str = "embedding") -> nvt.Workflow:
    return nvt.Workflow([column] >> op).fit_schema(SCHEMA)


def node_of(folder: Path, operator: type) -> dict[str, Any]:
    """What ``graph.json`` says of the one ``operator`` in it."""
    nodes = json.loads((folder / "graph.json").read_text())["nodes"]
    (node,) = [n for n in nodes if str(n["op_class"]).endswith(f".{operator.__name__}")]
    return node


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """``change`` the node of RetrieveCandidates in ``graph.json``, as by hand."""
    path = folder / "graph.json"
    graph = json.loads(path.read_text())
    for node in graph["nodes"]:
        if str(node["op_class"]).endswith(".RetrieveCandidates"):
            change(node)
    path.write_text(json.dumps(graph))


@pytest.mark.usefixtures("serializer")
class TestSaved:
    def test_loads_in_another_process_from_the_moved_folder(
        self, index: Index, index_path: Path, frame: pd.DataFrame, tmp_path: Path
    ) -> None:
        original = tmp_path / "items.index"
        shutil.copytree(index_path, original)
        op = retrieve(original, exclude="seen", allow=ItemSet(index.item_ids[::2]), refine=3)
        found, codes = ["embedding"] >> op, ["item_id"] >> AssignCodes(original)
        workflow = nvt.Workflow(found + codes + ["user"]).fit_schema(SCHEMA)
        expected = workflow.transform(frame)
        workflow.save(tmp_path / "workflow")
        shutil.move(tmp_path / "workflow", tmp_path / "moved")
        shutil.rmtree(original)
        assert not list(tmp_path.rglob("*.pkl"))
        assert not list(tmp_path.rglob("*.tmp"))
        assert str(tmp_path) not in (tmp_path / "moved" / "graph.json").read_text()

        assert expected["candidate_count"].sum() > 0
        frame.to_parquet(tmp_path / "frame")
        expected.to_parquet(tmp_path / "expected")
        arguments = [tmp_path / name for name in ("moved", "frame", "expected")]
        child = subprocess.run(
            [sys.executable, "-c", LOAD_ELSEWHERE, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        assert child.returncode == 0, child.stderr

    def test_the_schema_is_kept(self, index_path: Path, tmp_path: Path) -> None:
        found = ["embedding"] >> retrieve(index_path, exclude="seen")
        workflow = nvt.Workflow(found + (["item_id"] >> AssignCodes(index_path)))
        workflow.fit_schema(SCHEMA).save(tmp_path)
        loaded = nvt.Workflow.load(tmp_path)
        assert loaded.output_schema == workflow.output_schema
        assert loaded.input_schema == workflow.input_schema

    def test_what_graph_json_holds(self, index_path: Path, tmp_path: Path) -> None:
        # Saved workflows are read by later releases: these names stay.
        found = ["embedding"] >> RetrieveCandidates(index_path, 7, exclude="seen", allow=[3, 2])
        codes = ["item_id"] >> AssignCodes(index_path)
        nvt.Workflow(found + codes).fit_schema(SCHEMA).save(tmp_path)
        copied = {"index_path": f"index-{fingerprint_of(index_path)}"}
        node = node_of(tmp_path, RetrieveCandidates)
        assert node["op_class"] == "merlin_poeem.ops.retrieve_candidates.RetrieveCandidates"
        assert node["op_state"] == copied
        assert node["op_params"] == {
            "k": 7,
            "n_probes": None,
            "exclude": "seen",
            "backend": "auto",
            "prefix": "candidate",
            "allow": [2, 3],
            "refine": None,
        }
        node = node_of(tmp_path, AssignCodes)
        assert node["op_class"] == "merlin_poeem.ops.assign_codes.AssignCodes"
        assert (node["op_params"], node["op_state"]) == ({}, copied)
        assert (tmp_path / "artifacts" / f"node_{node['id']}" / copied["index_path"]).is_dir()

    @given(data=st.data())
    @settings(max_examples=20)
    def test_every_argument_comes_back(
        self,
        index: Index,
        index_path: Path,
        frame: pd.DataFrame,
        tmp_path_factory: pytest.TempPathFactory,
        data: st.DataObject,
    ) -> None:
        ids = st.lists(st.sampled_from([*index.item_ids.tolist(), -1, 2**62]), max_size=40)
        filters = st.none() | st.just("seen") | ids | ids.map(ItemSet)
        arguments = {
            "k": data.draw(st.integers(1, 40)),
            "n_probes": data.draw(st.none() | st.integers(1, index.n_lists)),
            "exclude": data.draw(filters),
            "allow": data.draw(filters),
            "prefix": data.draw(st.sampled_from(["candidate", "found", "ü"])),
            "refine": data.draw(st.none() | st.integers(0, 5)),
        }
        op, folder = retrieve(index_path, **arguments), tmp_path_factory.mktemp("workflow")
        workflow = workflow_of(op)
        workflow.save(folder)
        loaded = nvt.Workflow.load(folder)
        pd.testing.assert_frame_equal(loaded.transform(frame), workflow.transform(frame))
        assert loaded.output_node.op.arguments() == op.arguments()

    def test_an_index_with_keys(self, index: Index, frame: pd.DataFrame, tmp_path: Path) -> None:
        keys = [f"item {i}" for i in range(len(index))]
        table = pd.DataFrame({"item_id": index.item_ids, "item_key": keys})
        save_index(index.with_item_table(table).with_item_keys(), tmp_path / "index")
        op = retrieve(tmp_path / "index", n_probes=8, exclude=keys[::2], allow=["absent", *keys])
        workflow = nvt.Workflow(
            (["embedding"] >> op) + (["item_key"] >> AssignCodes(tmp_path / "index"))
        ).fit_schema(SCHEMA + Schema([ColumnSchema("item_key", dtype=np.str_)]))
        frame = frame.assign(item_key=["absent", *keys[: N - 1]])
        expected = workflow.transform(frame)
        workflow.save(tmp_path / "workflow")
        shutil.rmtree(tmp_path / "index")
        assert set(expected["candidate_ids"].explode()) <= set(keys[1::2])
        assert (expected["item_key_list_id"] > 0).tolist() == [False] + [True] * (N - 1)
        loaded = nvt.Workflow.load(tmp_path / "workflow")
        pd.testing.assert_frame_equal(loaded.transform(frame), expected)
        assert loaded.output_schema == workflow.output_schema

    def test_saved_again(self, index_path: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
        """Over the first, and from what was loaded."""
        workflow = workflow_of(retrieve(index_path, exclude="seen"))
        workflow.save(tmp_path / "first")
        workflow.save(tmp_path / "first")
        nvt.Workflow.load(tmp_path / "first").save(tmp_path / "second")
        shutil.rmtree(tmp_path / "first")
        got = nvt.Workflow.load(tmp_path / "second").transform(frame)
        pd.testing.assert_frame_equal(got, workflow.transform(frame))

    def test_relative_path(
        self, index_path: Path, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workflow = workflow_of(AssignCodes(index_path), "item_id")
        monkeypatch.chdir(tmp_path)
        workflow.save("workflow")
        loaded = nvt.Workflow.load("workflow")
        monkeypatch.chdir("/")
        pd.testing.assert_frame_equal(loaded.transform(frame), workflow.transform(frame))

    def test_remote_folders_are_refused(self, index_path: Path) -> None:
        with pytest.raises(ValueError, match="expected a local folder for the workflow, got memor"):
            workflow_of(retrieve(index_path)).save("memory://workflow")

    def test_with_a_query_tower(self, tmp_path: Path) -> None:
        model = toy.trained_model(toy.v2)
        save_index(export_index(model, toy.ITEMS, n_probes=4), tmp_path / "index")
        save_query_tower(model, tmp_path / "tower")
        op = retrieve(tmp_path / "index", query_tower=tmp_path / "tower")
        workflow = nvt.Workflow(["user_id"] >> op).fit_schema(toy.SCHEMA.select_by_name("user_id"))
        expected = workflow.transform(toy.USERS)
        workflow.save(tmp_path / "workflow")
        shutil.move(tmp_path / "workflow", tmp_path / "moved")
        for name in ("index", "tower"):
            shutil.rmtree(tmp_path / name)
        got = nvt.Workflow.load(tmp_path / "moved").transform(toy.USERS)
        pd.testing.assert_frame_equal(got, expected)
        copied = node_of(tmp_path / "moved", RetrieveCandidates)["op_state"]
        assert copied["query_tower"] == f"query-tower-{op.tower_fingerprint}"
        taken = signature(RetrieveCandidates).parameters
        assert op.arguments().keys() | copied.keys() == taken.keys()


@pytest.fixture
def folder(serializer: ModuleType, index_path: Path, tmp_path: Path) -> Path:
    """Of a saved workflow of RetrieveCandidates."""
    workflow_of(retrieve(index_path)).save(tmp_path / "workflow")
    return tmp_path / "workflow"


class TestEdited:
    @pytest.mark.parametrize(
        ("name", "value", "error", "message"),
        [
            ("k", "5", TypeError, r"k: expected an integer, got '5' \(str\)"),
            ("k", True, TypeError, "k: expected an integer, got True"),
            ("k", 0, ValueError, "k: expected at least 1, got 0"),
            ("n_probes", 99, ValueError, "n_probes: expected at most n_lists = 8, got 99"),
            ("n_probes", 4.0, TypeError, "n_probes: expected an integer, got 4.0"),
            ("refine", -1, ValueError, "refine: expected at least 0, got -1"),
            ("exclude", 5, TypeError, "exclude: expected a column's name, an ItemSet"),
            ("exclude", [1.5], TypeError, "exclude: expected integers"),
            ("allow", [[1], [2]], TypeError, "allow: expected a column's name, an ItemSet"),
            ("prefix", 5, TypeError, r"prefix: expected a str, got 5 \(int\)"),
            ("backend", None, TypeError, r"backend: expected a str, got None \(NoneType\)"),
            ("sort", True, TypeError, "expected the arguments of RetrieveCandidates .*'sort'"),
        ],
    )
    def test_wrong_arguments(
        self, folder: Path, name: str, value: Any, error: type[Exception], message: str
    ) -> None:
        edit(folder, lambda node: node["op_params"].update({name: value}))
        with pytest.raises(error, match=message):
            nvt.Workflow.load(folder)

    @pytest.mark.parametrize(("field", "name"), [("op_params", "k"), ("op_state", "index_path")])
    def test_an_argument_that_is_missing(self, folder: Path, field: str, name: str) -> None:
        edit(folder, lambda node: node[field].pop(name))
        with pytest.raises(TypeError, match=f"missing a required argument: '{name}'.*was edited"):
            nvt.Workflow.load(folder)

    def test_arguments_with_a_default_may_be_missing(
        self, folder: Path, frame: pd.DataFrame
    ) -> None:
        """As in what an earlier release saved, which did not know them."""
        expected = nvt.Workflow.load(folder).transform(frame)
        edit(folder, lambda node: node["op_params"].pop("refine"))
        pd.testing.assert_frame_equal(nvt.Workflow.load(folder).transform(frame), expected)

    @pytest.mark.parametrize("field", ["op_params", "op_state"])
    def test_no_objects(self, folder: Path, field: str) -> None:
        edit(folder, lambda node: node.update({field: [1]}))
        with pytest.raises(TypeError, match=f"node_.: {field}: expected an object .*, got list"):
            nvt.Workflow.load(folder)

    @pytest.mark.parametrize("name", [5, None, "", "../index", "/tmp/index"])
    def test_no_name_of_a_folder(self, folder: Path, name: Any) -> None:
        edit(folder, lambda node: node["op_state"].update(index_path=name))
        with pytest.raises(ValueError, match="index_path: expected the name of a folder in there"):
            nvt.Workflow.load(folder)

    def test_a_path_among_the_arguments(self, folder: Path, index_path: Path) -> None:
        def move(node: dict[str, Any]) -> None:
            node["op_params"]["index_path"] = str(index_path)
            del node["op_state"]["index_path"]

        edit(folder, move)
        with pytest.raises(
            ValueError, match=r"expected \{\} as saved, got \{'index_path': 'index-"
        ):
            nvt.Workflow.load(folder)

    def test_an_index_that_is_absent(self, folder: Path) -> None:
        edit(folder, lambda node: node["op_state"].update(index_path="index-00000000"))
        with pytest.raises(FileNotFoundError, match="index-00000000: no index there"):
            nvt.Workflow.load(folder)

    def test_an_index_that_was_replaced(self, folder: Path) -> None:
        (copied,) = folder.rglob("index-*")
        save_index(random_index(seed=5), copied)
        with pytest.raises(ValueError, match=f"expected .*{copied.name}.* as saved, got .*index-"):
            nvt.Workflow.load(folder)

    def test_what_is_no_index(self, folder: Path) -> None:
        (copied,) = folder.rglob("index-*")
        shutil.rmtree(copied)
        copied.mkdir()
        with pytest.raises(IndexFormatError, match=copied.name):
            nvt.Workflow.load(folder)


class Counting(RetrieveCandidates):
    """A user's own, with an argument more."""

    def __init__(self, *args: Any, start: int = 0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.start = start

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "start": self.start}

    def transform(self, col_selector: Any, df: pd.DataFrame) -> pd.DataFrame:
        found = super().transform(col_selector, df)
        return found.assign(candidate_count=found["candidate_count"] + self.start)


class TestRegistry:
    def test_nvtabulars_own_operators_stay(self, serializer: ModuleType) -> None:
        assert "merlin.dag.ops.selection.SelectionOp" in serializer._REGISTRY

    def test_what_others_registered_stays(
        self, serializer: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(serializer, "_REGISTRY", {"others.Op": "theirs"})
        register(AssignCodes)
        assert serializer._REGISTRY["others.Op"] == "theirs"
        assert serializer._REGISTRY.keys() == {
            "others.Op",
            "merlin_poeem.ops.assign_codes.AssignCodes",
        }

    def test_unregistered_operators_are_refused(
        self, serializer: ModuleType, folder: Path, index_path: Path
    ) -> None:
        serializer._REGISTRY.clear()
        with pytest.raises(
            serializer.WorkflowSerializationError, match=r"No serializer .*RetrieveCandidates'"
        ):
            workflow_of(retrieve(index_path)).save(folder)
        with pytest.raises(
            serializer.WorkflowSerializationError, match=r"Unknown operator .*RetrieveCandidates'"
        ):
            nvt.Workflow.load(folder)

    def test_a_subclass_registers_itself(
        self, serializer: ModuleType, index_path: Path, frame: pd.DataFrame, tmp_path: Path
    ) -> None:
        workflow = workflow_of(Counting(index_path, K, backend="reference", start=100))
        with pytest.raises(TypeError, match="got Counting, of which only the base RetrieveCandida"):
            workflow.save(tmp_path)
        register(Counting)
        workflow.save(tmp_path)
        got = nvt.Workflow.load(tmp_path).transform(frame)
        assert got["candidate_count"].min() > 100
        pd.testing.assert_frame_equal(got, workflow.transform(frame))

    @pytest.mark.parametrize(
        "module",
        [
            pytest.param(SimpleNamespace(), id="nothing"),
            pytest.param(
                SimpleNamespace(_REGISTRY={}, _register=graph_serializer._register),
                id="no own operators",
            ),
            pytest.param(
                SimpleNamespace(
                    _REGISTRY={}, _build_registry=dict, _register=lambda class_path, cls: None
                ),
                id="other arguments",
            ),
        ],
    )
    def test_another_interface_is_a_warning(
        self, module: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module.__spec__ = graph_serializer.__spec__  # find_spec asks for it
        monkeypatch.setitem(sys.modules, graph_serializer.NAME, module)
        with pytest.warns(
            UserWarning,
            match=r"expected _REGISTRY, _build_registry\(\) and _register\(class_path, cls, "
            r"to_dict_fn, from_dict_fn\), got another .* workflow with AssignCodes can't be saved",
        ):
            register(AssignCodes)
        assert getattr(module, "_REGISTRY", {}) == {}

    @pytest.mark.skipif(
        find_spec(graph_serializer.NAME) is not None, reason="this NVTabular writes JSON"
    )
    def test_nothing_to_do_where_workflows_are_pickled(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            register(AssignCodes)
        assert graph_serializer.NAME not in sys.modules
