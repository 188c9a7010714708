"""AssignCodes and RetrieveCandidates inside NVTabular workflows: fitted, partitioned, reloaded."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.dataframe as dd
import numpy as np
import nvtabular as nvt
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from merlin.dag.ops.subgraph import Subgraph
from merlin.io import Dataset
from merlin.schema import ColumnSchema, Schema, Tags

from merlin_poeem import Index, ItemSet, open_searcher, save_index, search_frame
from merlin_poeem.blocks import StaleIndexError, export_index, query_vectors
from merlin_poeem.blocks.export.query_tower import save_query_tower
from merlin_poeem.blocks.model.towers import query_tower_of
from merlin_poeem.ops import AssignCodes, RetrieveCandidates
from tests.blocks import toy
from tests.index_factories import (
    random_id_lists,
    random_index,
    random_queries,
    with_random_vectors,
)

N, K = 30, 5


@pytest.fixture(scope="module")
def index() -> Index:
    return random_index()


@pytest.fixture(scope="module")
def index_path(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "items.index"
    save_index(index, path)
    return path


@pytest.fixture(scope="module")
def frame(index: Index) -> pd.DataFrame:
    """Ids that the index holds, but for three rows; queries; what each query's user has seen."""
    item_ids = np.concatenate([[7, -1, 2**62], index.item_ids[: N - 3]])
    return pd.DataFrame(
        {
            "user": np.arange(N),
            "item_id": item_ids,
            "embedding": list(random_queries(index, N)),
            "seen": [row.tolist() for row in random_id_lists(index, N, 100)],
        }
    )


def in_partitions(frame: pd.DataFrame, *bounds: int) -> Dataset:
    """A dataset of the partitions between ``bounds``, empty ones too."""
    edges = [0, *bounds, len(frame)]
    parts = [frame.iloc[i:j] for i, j in pairwise(edges)]
    ddf = dd.concat([dd.from_pandas(part, npartitions=1) for part in parts])
    assert ddf.npartitions == len(parts)
    schema = Schema(
        [
            ColumnSchema("user", dtype=np.int64, tags=[Tags.USER_ID]),
            ColumnSchema(
                "item_id",
                dtype=np.int64,
                tags=[Tags.ITEM_ID, Tags.ITEM],
                properties={"domain": {"min": 0, "max": 9, "name": "other"}},
            ),
            ColumnSchema("embedding", dtype=np.float32, dims=(None, 16), tags=[Tags.EMBEDDING]),
            ColumnSchema("seen", dtype=np.int64, dims=(None, (0, None))),
            ColumnSchema("allowed", dtype=np.int64, dims=(None, (0, None))),
        ]
    ).select_by_name(list(frame.columns))
    return Dataset(ddf, schema=schema)


def run(workflow: Any, dataset: Dataset) -> pd.DataFrame:
    return workflow.fit_transform(dataset).to_ddf().compute().reset_index(drop=True)


def transformed(op: RetrieveCandidates, dataset: Dataset) -> pd.DataFrame:
    """Without ``Workflow.fit``, which fails where a whole sampled partition has no candidate."""
    workflow = nvt.Workflow(["embedding"] >> op).fit_schema(dataset.schema)
    return workflow.transform(dataset).to_ddf().compute().reset_index(drop=True)


def expected_codes(index: Index, item_ids: Any) -> pd.DataFrame:
    """By a dictionary, one item at a time."""
    table = np.column_stack([index.list_ids, index.codes.astype(np.int32)]) + 1
    known = dict(zip(index.item_ids.tolist(), table.tolist(), strict=True))
    n_codes = index.params.pq_dim
    rows = [known.get(item_id, [0] * (1 + n_codes)) for item_id in item_ids]
    names = ["item_id_list_id", *(f"item_id_code_{j}" for j in range(n_codes))]
    return pd.DataFrame(rows, columns=names, dtype=np.int32)


def assert_candidates(got: pd.DataFrame, expected: pd.DataFrame, atol: float = 0) -> None:
    for name, column in (("ids", "item_id"), ("scores", "score")):
        for row, true_row in zip(got[f"candidate_{name}"], expected[column], strict=True):
            assert row.dtype == true_row.dtype
            np.testing.assert_allclose(row, true_row, rtol=0, atol=atol if name == "scores" else 0)
    assert got["candidate_count"].tolist() == expected["count"].tolist()
    assert got["candidate_count"].dtype == np.int64


class TestAssignCodes:
    @pytest.mark.parametrize("bounds", [(), (7, 7, 20), (0, 11), (11, N)])
    def test_every_item_gets_its_codes(
        self, index: Index, index_path: Path, frame: pd.DataFrame, bounds: tuple[int, ...]
    ) -> None:
        workflow = nvt.Workflow(["item_id"] >> AssignCodes(index_path))
        got = run(workflow, in_partitions(frame, *bounds))
        pd.testing.assert_frame_equal(got, expected_codes(index, frame["item_id"]))
        assert (got[:3] == 0).all(axis=None)
        assert (got[3:] > 0).all(axis=None)

    @pytest.mark.parametrize("pq_bits", [4, 8, 10])
    def test_schema_holds_the_domains(
        self, pq_bits: int, tmp_path: Path, frame: pd.DataFrame
    ) -> None:
        index = random_index(pq_bits=pq_bits)
        save_index(index, tmp_path / "index")
        workflow = nvt.Workflow(["item_id"] >> AssignCodes(tmp_path / "index"))
        frame = frame.assign(item_id=index.item_ids[:N])
        got = run(workflow, in_partitions(frame, 10))
        pd.testing.assert_frame_equal(got, expected_codes(index, frame["item_id"]))
        schema = workflow.output_schema
        assert schema.column_names == list(got.columns)
        for name in schema.column_names:
            largest = index.n_lists if name == "item_id_list_id" else 2**pq_bits
            column = schema[name]
            assert column.properties["domain"] == {"min": 0, "max": largest, "name": name}
            assert column.properties["embedding_sizes"]["cardinality"] == largest + 1
            assert column.dtype.to_numpy == np.int32
            assert not column.is_list
            assert set(column.tags) == {Tags.ITEM, Tags.CATEGORICAL}

    @pytest.mark.parametrize(
        "convert",
        [
            pytest.param(lambda ids: pd.Series([float(i) for i in ids]), id="float64"),
            pytest.param(lambda ids: pd.Series(ids, dtype="Int64"), id="Int64"),
            pytest.param(lambda ids: pd.Series(ids, dtype=object), id="object"),
        ],
    )
    def test_nulls_are_unknown_items(
        self, index: Index, index_path: Path, convert: Callable[[list[Any]], pd.Series]
    ) -> None:
        item_ids = [*index.item_ids[:4].tolist(), 5]
        column = convert(item_ids)
        column[2] = None
        got = AssignCodes(index_path).transform(
            nvt.ColumnSelector(["item_id"]), pd.DataFrame({"item_id": column})
        )
        item_ids[2] = None
        pd.testing.assert_frame_equal(got, expected_codes(index, item_ids))

    def test_only_nulls(self, index: Index, index_path: Path) -> None:
        for column in ([None, None], [np.nan, np.nan]):
            got = AssignCodes(index_path).transform(
                nvt.ColumnSelector(["item_id"]), pd.DataFrame({"item_id": column})
            )
            pd.testing.assert_frame_equal(got, expected_codes(index, [None, None]))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([1.5, 2.0], "column 'item_id': expected integers, got float64 with 1.5"),
            ([2.0**53, np.nan], r"float64 with 9007199254740992.0; from 2\*\*53 on it loses ids"),
            (np.float32([1, 2**24]), r"float32 with 16777216.0; from 2\*\*24 on it loses ids"),
            (["a", None], r"column 'item_id': expected integers, got 'a' \(str\)"),
            ([["a"], None], r"column 'item_id': expected integers, got 'a' \(str\)"),
            ([[1.5], [2.0]], "column 'item_id': expected integers, got float64 with 1.5"),
            ([[[1, 2]], [[3]]], "column 'item_id': expected integers, got array"),
        ],
    )
    def test_refuses_what_is_no_id(self, index_path: Path, values: Any, message: str) -> None:
        with pytest.raises(TypeError, match=message):
            AssignCodes(index_path).transform(
                nvt.ColumnSelector(["item_id"]), pd.DataFrame({"item_id": values})
            )

    @given(data=st.data())
    @settings(max_examples=30)
    def test_lists_give_lists(self, index: Index, index_path: Path, data: st.DataObject) -> None:
        item_ids = st.none() | st.sampled_from([*index.item_ids[:30].tolist(), -1, 2**62])
        lists = data.draw(st.lists(st.none() | st.lists(item_ids, max_size=5), min_size=1))
        lists.append([7])  # or else nothing tells that these are lists
        labels = pd.Index(np.arange(len(lists))[::-1])
        frame = pd.DataFrame({"item_id": pd.Series(lists, labels, dtype=object)})
        got = AssignCodes(index_path).transform(nvt.ColumnSelector(["item_id"]), frame)
        assert got.index.equals(labels)
        for i, row in enumerate(lists):
            expected = expected_codes(index, row or [])
            assert list(got.columns) == list(expected.columns)
            for name in expected:
                assert got[name].iloc[i].dtype == np.int32
                assert got[name].iloc[i].tolist() == expected[name].tolist()

    @pytest.mark.parametrize("of_arrays", [True, False])
    def test_lists_of_numpy_floats(self, index: Index, index_path: Path, of_arrays: bool) -> None:
        known = float(index.item_ids[0])
        rows = [[known, np.nan], [np.nan]]
        column = [np.array(row) if of_arrays else row for row in rows]
        got = AssignCodes(index_path).transform(
            nvt.ColumnSelector(["item_id"]), pd.DataFrame({"item_id": column})
        )
        expected = expected_codes(index, [int(known), None, None])
        for name in expected:
            assert np.concatenate(got[name]).tolist() == expected[name].tolist()
            assert got[name].map(len).tolist() == [2, 1]

    @pytest.mark.parametrize("lengths", [(0, K), (K, K)], ids=["ragged", "fixed"])
    def test_schema_of_lists(
        self, index_path: Path, frame: pd.DataFrame, lengths: tuple[int, int]
    ) -> None:
        column = ColumnSchema(
            "item_id", dtype=np.int64, tags=[Tags.ITEM, Tags.ITEM_ID], dims=(None, lengths)
        )
        workflow = nvt.Workflow(["item_id"] >> AssignCodes(index_path))
        workflow.fit_schema(Schema([column]))
        for name in workflow.output_schema.column_names:
            coded = workflow.output_schema[name]
            assert coded.shape == column.shape
            assert (coded.is_list, coded.is_ragged) == (True, lengths[0] != lengths[1])
            assert coded.dtype.to_numpy == np.int32
            assert set(coded.tags) == {Tags.ITEM, Tags.CATEGORICAL}
            largest = 8 if name == "item_id_list_id" else 256
            assert coded.properties["domain"] == {"min": 0, "max": largest, "name": name}

    def test_codes_of_candidates(self, index: Index, index_path: Path, frame: pd.DataFrame) -> None:
        found = ["embedding"] >> RetrieveCandidates(index_path, k=K)
        codes = found["candidate_ids"] >> AssignCodes(index_path)
        got = run(nvt.Workflow(found + codes), in_partitions(frame, 7))
        for i, ids in enumerate(got["candidate_ids"]):
            expected = expected_codes(index, ids.tolist())
            for name in expected:
                column = got[name.replace("item_id", "candidate_ids")]
                assert column[i].tolist() == expected[name].tolist()

    def test_lists_of_cudf(self, cudf: Any, index: Index, index_path: Path) -> None:
        from tests import device_frames

        known = index.item_ids[:3].tolist()
        rows: list[Any] = [known[:2], None, [], [None, 7, known[2]]]
        lists = device_frames.ListSeries.of(rows, np.int64)
        frame = device_frames.DataFrame({"item_id": lists})
        got = AssignCodes(index_path).transform(nvt.ColumnSelector(["item_id"]), frame)
        assert type(got) is device_frames.DataFrame
        assert got.index is frame.index
        for i, row in enumerate(rows):
            expected = expected_codes(index, row or [])
            assert got.columns == list(expected.columns)
            for name in expected:
                column = device_frames.peek(got[name])[i]
                assert column.dtype == np.int32
                assert column.tolist() == expected[name].tolist()

    def test_empty_index(self, tmp_path: Path, frame: pd.DataFrame) -> None:
        save_index(random_index(n_items=0), tmp_path / "index")
        workflow = nvt.Workflow(["item_id"] >> AssignCodes(tmp_path / "index"))
        got = run(workflow, in_partitions(frame))
        assert (got == 0).all(axis=None)
        assert len(got) == N


class TestRetrieveCandidates:
    @pytest.mark.parametrize("backend", ["reference", "faiss"])
    @pytest.mark.parametrize("bounds", [(), (7, 7, 20), (0, 11), (11, N)])
    def test_results_are_those_of_search_frame(
        self,
        index: Index,
        index_path: Path,
        frame: pd.DataFrame,
        bounds: tuple[int, ...],
        backend: str,
    ) -> None:
        op = RetrieveCandidates(index_path, k=K, exclude="seen", n_probes=4, backend=backend)
        got = run(nvt.Workflow(["embedding"] >> op), in_partitions(frame, *bounds))
        searcher = open_searcher(index, backend)
        expected = search_frame(searcher, frame, k=K, n_probes=4, exclude="seen", form="list")
        assert_candidates(got, expected)

    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    def test_vectors_become_the_nearest_float32(
        self, index: Index, index_path: Path, frame: pd.DataFrame, dtype: Any
    ) -> None:
        vectors = list(np.stack(frame["embedding"]).astype(dtype))
        op = RetrieveCandidates(index_path, k=K, backend="reference")
        got = run(nvt.Workflow(["embedding"] >> op), in_partitions(frame.assign(embedding=vectors)))
        searcher = open_searcher(index, "reference")
        assert_candidates(got, search_frame(searcher, frame, k=K, form="list"))

    def test_a_second_look(self, frame: pd.DataFrame, index: Index, tmp_path: Path) -> None:
        index = with_random_vectors(index, "float16").with_refine(3)
        save_index(index, tmp_path / "index")
        searcher, answers = open_searcher(index, "reference"), []
        for refine in (None, 0, 2):
            op = RetrieveCandidates(tmp_path / "index", k=K, backend="reference", refine=refine)
            got = run(nvt.Workflow(["embedding"] >> op), in_partitions(frame, 7))
            expected = search_frame(searcher, frame, k=K, refine=refine, form="list")
            assert_candidates(got, expected)
            answers.append([row.tolist() for row in expected["score"]])
        assert answers[0] != answers[1] != answers[2] != answers[0]

    def test_fewer_than_k_are_not_padded(
        self, index: Index, index_path: Path, frame: pd.DataFrame
    ) -> None:
        seen = [index.item_ids[i * 20 :].tolist() for i in range(N)]  # row 0 has seen them all
        frame = frame.assign(seen=seen)
        op = RetrieveCandidates(index_path, k=30, n_probes=8, exclude="seen")
        got = run(nvt.Workflow(["embedding"] >> op), in_partitions(frame, 10))
        assert got["candidate_count"].tolist()[:4] == [0, 20, 30, 30]
        assert [len(row) for row in got["candidate_ids"]] == got["candidate_count"].tolist()

    def test_vectors_in_columns(self, index: Index, index_path: Path, frame: pd.DataFrame) -> None:
        names = [f"e{i}" for i in range(index.dim)]
        wide = pd.DataFrame(np.stack(frame["embedding"]), columns=names)
        op = RetrieveCandidates(index_path, k=K)
        got = nvt.Workflow(names >> op).fit_transform(Dataset(wide)).to_ddf().compute()
        assert_candidates(got, search_frame(open_searcher(index), frame, k=K, form="list"))

    def test_schema(self, index_path: Path, frame: pd.DataFrame) -> None:
        selected = nvt.ColumnSelector(tags=[Tags.EMBEDDING])
        op = RetrieveCandidates(index_path, k=K, exclude="seen", prefix="found")
        workflow = nvt.Workflow(selected >> op)
        workflow.fit(in_partitions(frame, 4))
        schema = workflow.output_schema
        assert schema.column_names == ["found_ids", "found_scores", "found_count"]
        dtypes = [schema[name].dtype.to_numpy for name in schema.column_names]
        assert dtypes == [np.int64, np.float32, np.int64]
        assert [schema[name].is_list for name in schema.column_names] == [True, True, False]
        assert schema["found_ids"].is_ragged
        assert schema["found_ids"].value_count.max == K
        assert set(workflow.input_schema.column_names) == {"embedding", "seen"}

    def test_to_parquet(self, index_path: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
        workflow = nvt.Workflow(["embedding"] >> RetrieveCandidates(index_path, k=K))
        found = workflow.fit_transform(in_partitions(frame, 8))
        found.to_parquet(tmp_path / "found")
        read = Dataset(str(tmp_path / "found"), engine="parquet").to_ddf().compute()
        for name, column in found.to_ddf().compute().items():
            np.testing.assert_array_equal(np.stack(read[name]), np.stack(column))

    def test_partitions_without_candidates(
        self, index: Index, index_path: Path, frame: pd.DataFrame
    ) -> None:
        frame = frame.assign(seen=[index.item_ids.tolist()] * 10 + [None] * (N - 10))
        op = RetrieveCandidates(index_path, k=K, n_probes=8, exclude="seen")
        got = transformed(op, in_partitions(frame, 10))
        assert got["candidate_count"].tolist() == [0] * 10 + [K] * (N - 10)
        assert {row.dtype for row in got["candidate_ids"]} == {np.dtype(np.int64)}

    @settings(max_examples=10)
    @given(data=st.data())
    def test_exclusion_never_leaks(
        self, index: Index, index_path: Path, frame: pd.DataFrame, data: st.DataObject
    ) -> None:
        n_rows = data.draw(st.integers(1, 8))
        some = st.lists(st.sampled_from(index.item_ids.tolist()), max_size=60)
        seen = data.draw(st.lists(st.none() | some, min_size=n_rows, max_size=n_rows))
        frame = frame.iloc[:n_rows].assign(seen=seen)
        k, n_probes = data.draw(st.integers(1, 40)), data.draw(st.integers(1, index.n_lists))
        op = RetrieveCandidates(index_path, k=k, n_probes=n_probes, exclude="seen")
        got = transformed(op, in_partitions(frame, data.draw(st.integers(0, n_rows))))
        for ids, excluded in zip(got["candidate_ids"], seen, strict=True):
            assert not set(ids.tolist()) & set(excluded or ())
        options = {"k": k, "n_probes": n_probes, "exclude": "seen"}
        expected = search_frame(open_searcher(index), frame, form="list", **options)
        assert_candidates(got, expected)

    def test_allowed_items_only(self, index: Index, index_path: Path, frame: pd.DataFrame) -> None:
        allowed = random_id_lists(index, N, 200, seed=7)
        frame = frame.assign(allowed=[None, *allowed[1:]])
        op = RetrieveCandidates(
            index_path, k=30, n_probes=8, exclude="seen", allow="allowed", backend="reference"
        )
        workflow = nvt.Workflow(["embedding"] >> op).fit_schema(in_partitions(frame).schema)
        got = workflow.transform(frame)
        searcher = open_searcher(index, "reference")
        filters = {"exclude": "seen", "allow": "allowed"}
        expected = search_frame(searcher, frame, k=30, n_probes=8, form="list", **filters)
        assert_candidates(got, expected)
        assert got["candidate_count"][0] == 0
        assert got["candidate_count"].sum() > 0
        assert set(workflow.input_schema.column_names) == {"embedding", "seen", "allowed"}

    def test_items_for_all_rows(self, index: Index, index_path: Path, frame: pd.DataFrame) -> None:
        sold_out, in_stock = index.item_ids[::3].tolist(), ItemSet(index.item_ids[::2])
        op = RetrieveCandidates(index_path, k=K, exclude=sold_out, allow=in_stock)
        workflow = nvt.Workflow(["embedding"] >> op)
        got = run(workflow, in_partitions(frame, 9))
        filters = {"exclude": sold_out, "allow": in_stock}
        assert_candidates(
            got, search_frame(open_searcher(index), frame, k=K, form="list", **filters)
        )
        assert workflow.input_schema.column_names == ["embedding"]
        with pytest.raises(TypeError, match="exclude: expected a column's name, an ItemSet"):
            RetrieveCandidates(index_path, k=K, exclude=5)

    def test_an_index_with_keys(self, index: Index, frame: pd.DataFrame, tmp_path: Path) -> None:
        keys = [f"item {i}" for i in range(len(index))]
        table = pd.DataFrame({"item_id": index.item_ids, "item_key": keys})
        keyed = index.with_item_table(table).with_item_keys()
        save_index(keyed, tmp_path / "index")
        filters = {"exclude": keys[::3], "allow": keys[::2]}
        found = ["embedding"] >> RetrieveCandidates(tmp_path / "index", k=K, **filters)
        codes = found["candidate_ids"] >> AssignCodes(tmp_path / "index")
        workflow = nvt.Workflow(found + codes)
        got = run(workflow, in_partitions(frame, 9))
        expected = search_frame(open_searcher(keyed), frame, k=K, form="list", **filters)
        for ids, true_ids in zip(got["candidate_ids"], expected["item_id"], strict=True):
            assert ids.tolist() == true_ids.tolist()
        assert got["candidate_ids"].explode().isin(keys[2::6] + keys[4::6]).all()
        lists = np.concatenate(got["candidate_ids_list_id"])
        held = keyed.rows_of(keyed.item_keys.ids_of(np.concatenate(got["candidate_ids"])))
        np.testing.assert_array_equal(lists, keyed.list_ids[held] + 1)
        assert workflow.output_schema["candidate_ids"].dtype.name == "str"

    def test_bad_arguments(self, index_path: Path) -> None:
        with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
            RetrieveCandidates(index_path, k=0)
        with pytest.raises(ValueError, match="n_probes: expected at most n_lists = 8, got 9"):
            RetrieveCandidates(index_path, k=1, n_probes=9)
        with pytest.raises(ValueError, match="refine: expected 0, as the index holds no vectors"):
            RetrieveCandidates(index_path, k=1, refine=4)

    def test_refuses_two_columns_of_vectors(self, index_path: Path, frame: pd.DataFrame) -> None:
        workflow = nvt.Workflow(["embedding", "user"] >> RetrieveCandidates(index_path, k=K))
        with pytest.raises(ValueError, match=r"one list column .*, or 16 .*, got 2: \['embedding'"):
            workflow.fit(in_partitions(frame))


class TestQueryTower:
    """User features in: the tower of a model that the index was exported from."""

    @pytest.fixture(scope="class")
    def saved(self, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
        """A trained model, its index and its query tower saved, and what it finds for its users."""
        model = toy.trained_model(toy.v2)
        index = export_index(model, toy.ITEMS, n_probes=4)
        folder = tmp_path_factory.mktemp("towers")
        save_index(index, folder / "index")
        save_query_tower(model, folder / "tower")
        seen = [list(range(i % 7)) for i in range(len(toy.USERS))]
        users = toy.USERS.assign(seen=seen, allowed=[list(range(40))] * len(seen))
        vectors = list(query_vectors(model, users, index=index)[1])
        filters = {"exclude": "seen", "allow": "allowed"}
        expected = search_frame(
            open_searcher(index), users.assign(embedding=vectors), k=K, form="list", **filters
        )
        schema = toy.SCHEMA.select_by_name("user_id") + Schema(
            [
                ColumnSchema(name, dtype=np.int64, dims=(None, (0, None)))
                for name in ("seen", "allowed")
            ]
        )
        return SimpleNamespace(
            folder=folder, model=model, users=users, schema=schema, expected=expected
        )

    def make(self, saved: SimpleNamespace, tower: str = "tower", index: str = "index") -> Any:
        return RetrieveCandidates(
            saved.folder / index,
            k=K,
            exclude="seen",
            allow="allowed",
            query_tower=saved.folder / tower,
        )

    def test_results_are_those_of_the_model(self, saved: SimpleNamespace) -> None:
        op = self.make(saved)
        workflow = nvt.Workflow(["user_id"] >> op).fit_schema(saved.schema)
        parts = dd.concat(
            [
                dd.from_pandas(saved.users.iloc[rows], 1)
                for rows in (slice(0), slice(20), slice(20, None))
            ]
        )
        dataset = Dataset(parts, schema=saved.schema)
        got = workflow.transform(dataset).to_ddf().compute(scheduler="synchronous")
        assert_candidates(got, saved.expected, atol=1e-5)
        assert len(pickle.dumps(op)) < 1000

    def test_saved_moved_and_loaded(self, saved: SimpleNamespace, tmp_path: Path) -> None:
        folder = SimpleNamespace(folder=tmp_path / "original")
        shutil.copytree(saved.folder, folder.folder)
        workflow = nvt.Workflow((["user_id"] >> self.make(folder)) + ["user_id"])
        workflow.fit_schema(saved.schema).save(tmp_path / "workflow")
        shutil.move(tmp_path / "workflow", tmp_path / "moved")
        shutil.rmtree(folder.folder)
        got = nvt.Workflow.load(tmp_path / "moved").transform(saved.users)
        assert_candidates(got, saved.expected, atol=1e-5)
        assert list(tmp_path.glob("moved/*.tmp")) == []

    def test_a_stale_index_is_refused(self, saved: SimpleNamespace) -> None:
        weight = query_tower_of(saved.model).trainable_weights[0]
        before = weight.numpy()
        weight.assign_add(tf.ones_like(weight))
        save_query_tower(saved.model, saved.folder / "newer")
        weight.assign(before)
        with pytest.raises(StaleIndexError, match="from the query tower with fingerprint"):
            self.make(saved, tower="newer")

    def test_an_index_that_says_nothing_is_refused(self, saved: SimpleNamespace) -> None:
        save_index(random_index(), saved.folder / "ready-made")
        with pytest.raises(ValueError, match="whether the index fits a model can't be told"):
            self.make(saved, index="ready-made")

    def test_a_tower_replaced_since_is_refused(
        self, saved: SimpleNamespace, tmp_path: Path
    ) -> None:
        op = self.make(saved)
        op.tower_fingerprint = "0" * 16
        with pytest.raises(ValueError, match="expected the query tower with fingerprint 0000"):
            op.set_storage_path(tmp_path, copy=True)
        assert not list(tmp_path.glob("query-tower*"))

    def test_other_columns_are_refused(self, saved: SimpleNamespace) -> None:
        with pytest.raises(ValueError, match=r"those of the query tower, \['user_id'\], got \['a"):
            self.make(saved).column_mapping(nvt.ColumnSelector(["age", "user_id"]))
        with pytest.raises(FileNotFoundError, match="no query tower there"):
            self.make(saved, tower="absent")


OPS: list[Any] = [
    pytest.param("item_id", AssignCodes, id="AssignCodes"),
    pytest.param(
        "embedding", partial(RetrieveCandidates, k=K, exclude="seen"), id="RetrieveCandidates"
    ),
]


@pytest.mark.parametrize(("column", "make"), OPS)
class TestBoth:
    def test_saved_moved_and_loaded(
        self,
        column: str,
        make: Callable[[Path], Any],
        index_path: Path,
        frame: pd.DataFrame,
        tmp_path: Path,
    ) -> None:
        original = tmp_path / "items.index"
        shutil.copytree(index_path, original)
        workflow = nvt.Workflow(([column] >> make(original)) + ["user"])
        dataset = in_partitions(frame, 9)
        expected = run(workflow, dataset)
        workflow.save(tmp_path / "workflow")
        workflow.save(tmp_path / "workflow")  # again, over the first
        assert (tmp_path / "workflow" / "workflow.pkl").stat().st_size < 30_000
        shutil.move(tmp_path / "workflow", tmp_path / "moved")
        shutil.rmtree(original)
        loaded = nvt.Workflow.load(tmp_path / "moved")
        got = loaded.transform(dataset).to_ddf().compute().reset_index(drop=True)
        pd.testing.assert_frame_equal(got, expected)
        assert loaded.output_schema == workflow.output_schema
        assert list(tmp_path.glob("moved/*.tmp")) == []
        on_frame = loaded.transform(frame)  # a plain frame in, as when serving
        pd.testing.assert_frame_equal(on_frame[expected.columns], expected)

    def test_saved_in_a_subgraph(
        self,
        column: str,
        make: Callable[[Path], Any],
        index_path: Path,
        frame: pd.DataFrame,
        tmp_path: Path,
    ) -> None:
        workflow = nvt.Workflow(Subgraph("part", [column] >> make(index_path)))
        # Not fit: it reads Python lists of the column "seen" as of an unknown dtype.
        expected = workflow.fit_schema(in_partitions(frame).schema).transform(frame)
        workflow.save(tmp_path)
        assert len(list(tmp_path.glob("index-*"))) == 1
        got = nvt.Workflow.load(tmp_path).transform(frame)
        pd.testing.assert_frame_equal(got, expected)

    def test_after_another_operator(
        self,
        column: str,
        make: Callable[[Path], Any],
        index_path: Path,
        frame: pd.DataFrame,
        tmp_path: Path,
    ) -> None:
        same = [column] >> nvt.ops.LambdaOp(lambda values: values)
        dataset = in_partitions(frame, 12)
        users = ["user"] >> nvt.ops.Categorify(
            out_path=str(tmp_path)
        )  # a statistic that is fitted beside it
        got = run(nvt.Workflow((same >> make(index_path)) + users), dataset)
        expected = run(nvt.Workflow([column] >> make(index_path)), dataset)
        pd.testing.assert_frame_equal(got[expected.columns], expected)
        assert got["user"].nunique() == N

    def test_empty_partitions_beside_other_columns(
        self, column: str, make: Callable[[Path], Any], index_path: Path, frame: pd.DataFrame
    ) -> None:
        # merlin-core drops the empty output, and looks for its columns in the data.
        op = make(index_path)
        workflow = nvt.Workflow(([column] >> op) + ["user"]).fit_schema(in_partitions(frame).schema)
        missing = next(iter(op.column_mapping(nvt.ColumnSelector([column]))))
        with pytest.raises(KeyError, match=missing):
            workflow.transform(in_partitions(frame, 0)).to_ddf().compute(scheduler="synchronous")
        alone = nvt.Workflow([column] >> op).fit_schema(in_partitions(frame).schema)
        assert len(alone.transform(in_partitions(frame, 0)).to_ddf().compute()) == N

    def test_missing_columns_are_named(
        self, column: str, make: Callable[[Path], Any], index_path: Path, frame: pd.DataFrame
    ) -> None:
        dataset = in_partitions(frame.drop(columns=[column]))
        with pytest.raises(ValueError, match=column):
            nvt.Workflow([column] >> make(index_path)).fit(dataset)

    def test_a_frame_keeps_its_labels(
        self, column: str, make: Callable[[Path], Any], index_path: Path, frame: pd.DataFrame
    ) -> None:
        labels = pd.MultiIndex.from_product([["a", "b"], range(N // 2)])
        op, selector = make(index_path), nvt.ColumnSelector([column])
        got = op.transform(selector, frame.set_axis(labels))
        assert got.index.equals(labels)
        expected = op.transform(selector, frame)
        pd.testing.assert_frame_equal(got.reset_index(drop=True), expected)

    def test_refuses_an_index_replaced_since(
        self, column: str, make: Callable[[Path], Any], frame: pd.DataFrame, tmp_path: Path
    ) -> None:
        path = tmp_path / "items.index"
        save_index(random_index(), path)
        op = make(path)
        workflow = nvt.Workflow([column] >> op).fit_schema(in_partitions(frame).schema)
        save_index(random_index(seed=5), path)
        with pytest.raises(
            ValueError, match=f"expected the index with fingerprint {op.fingerprint}"
        ):
            workflow.save(tmp_path / "workflow")
        assert not list(tmp_path.glob("workflow/index-*"))

    def test_what_is_no_index(
        self, column: str, make: Callable[[Path], Any], tmp_path: Path
    ) -> None:
        with pytest.raises(FileNotFoundError, match="no index there"):
            make(tmp_path / "absent")

    def test_pickles_small(
        self, column: str, make: Callable[[Path], Any], index_path: Path, frame: pd.DataFrame
    ) -> None:
        op, selector = make(index_path), nvt.ColumnSelector([column])
        expected = op.transform(selector, frame)
        pickled = pickle.dumps(op)
        assert len(pickled) < 1000
        pd.testing.assert_frame_equal(pickle.loads(pickled).transform(selector, frame), expected)

    def test_remote_folders_are_refused(
        self, column: str, make: Callable[[Path], Any], index_path: Path
    ) -> None:
        with pytest.raises(ValueError, match="expected a local folder for the workflow, got s3://"):
            make(index_path).set_storage_path("s3://bucket/workflow", copy=True)
