"""QueryPoeem alone: what goes in and out of the step, exported and not; who gets which answer."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merlin.schema import ColumnSchema, Schema
from merlin.systems.dag import Ensemble
from merlin.table import TensorTable

from merlin_poeem import Index, save_index, systems
from merlin_poeem.search import reference
from merlin_poeem.systems import QueryPoeem, query_poeem
from tests.index_factories import (
    FIRST_ID,
    random_id_lists,
    random_index,
    random_queries,
)
from tests.systems.served import (
    OPTIONS,
    answer_of,
    flat,
    make_ensemble,
    reload,
    vector_schema,
)

N_QUERIES, K = 12, 7


@pytest.fixture(scope="module")
def index() -> Index:
    """With vectors, that a search which asks for nothing does not look at."""
    return random_index("cosine", rotation=True, vectors="float16")


@pytest.fixture(scope="module")
def index_path(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "items.index"
    save_index(index, path)
    return path


@pytest.fixture(scope="module")
def queries(index: Index) -> np.ndarray:
    return random_queries(index, N_QUERIES)


@pytest.fixture(scope="module")
def served(index: Index, index_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    ensemble = make_ensemble(index_path, index.dim, k=K, n_probes=4, **OPTIONS)
    return reload(ensemble, tmp_path_factory.mktemp("repository"))


def request(queries: np.ndarray, **changes: Any) -> TensorTable:
    """A request that chooses nothing."""
    plain = {
        "query_vector": queries,
        "seen": flat(None, len(queries)),
        "in_stock": flat(None, len(queries)),
        "k": np.empty(0, np.int64),
        "n_probes": np.empty(0, np.int32),
        "refine": np.empty(0, np.int32),
    }
    return TensorTable({**plain, **changes})


def assert_same(got, truth) -> None:
    np.testing.assert_array_equal(got.counts, truth.counts)
    np.testing.assert_array_equal(got.item_ids, truth.item_ids)
    np.testing.assert_allclose(got.scores, truth.scores, rtol=1e-5, atol=1e-5)


def test_a_request_that_chooses_nothing_gets_the_operators_own(served, index, queries):
    got = answer_of(served.transform(request(queries)))
    assert_same(got, reference.search(index, queries, k=K, n_probes=4))
    assert (got.item_ids >= FIRST_ID).all()


def test_each_row_has_its_own_k_n_probes_and_refine(served, index, queries):
    ks = np.array([1, 400, 5, 5, 7, 1, 400, 5, 2, 3, 7, 7])
    probes = np.array([1, 8, 2, 2, 4, 8, 8, 3, 1, 1, 4, 4], np.int32)
    refine = np.array([0, 0, 3, 3, 1, 2, 0, 5, 4, 4, 1, 0])
    seen = random_id_lists(index, N_QUERIES, 200)
    chosen = {"k": ks, "n_probes": probes, "refine": refine, "seen": flat(seen, N_QUERIES)}
    got = answer_of(served.transform(request(queries, **chosen)))
    for i in range(N_QUERIES):
        asked = {"k": ks[i], "n_probes": probes[i], "refine": refine[i], "exclude": [seen[i]]}
        truth = reference.search(index, queries[[i]], **asked)
        np.testing.assert_array_equal(got[i][1], truth.item_ids)
        np.testing.assert_allclose(got[i][0], truth.scores, rtol=1e-5, atol=1e-5)
    assert len(set(got.counts.tolist())) > 4


def test_rows_of_a_kind_are_searched_together(served, queries, monkeypatch):
    searcher = served.graph.output_node.op.searcher
    calls = []
    search = type(searcher).search
    monkeypatch.setattr(
        type(searcher),
        "search",
        lambda self, rows, **options: calls.append(len(rows)) or search(self, rows, **options),
    )
    served.transform(request(queries, n_probes=np.arange(N_QUERIES) % 3 + 1))
    assert calls == [4, 4, 4]


def test_one_row_no_row_and_rows_without_candidates(served, index, queries):
    assert_same(
        answer_of(served.transform(request(queries[:1]))),
        reference.search(index, queries[:1], k=K, n_probes=4),
    )
    nobody = answer_of(served.transform(request(queries[:0])))
    assert (len(nobody), nobody.item_ids.dtype, nobody.scores.dtype) == (0, np.int64, np.float32)
    all_items = flat([[], index.item_ids, []], 3)
    got = answer_of(served.transform(request(queries[:3], seen=all_items)))
    assert got.counts.tolist() == [K, 0, K]
    nothing_allowed = flat([[]] * 3, 3)
    got = answer_of(served.transform(request(queries[:3], in_stock=nothing_allowed)))
    assert got.counts.tolist() == [0, 0, 0]


@settings(max_examples=30)
@given(data=st.data())
def test_exclusion_never_leaks(served, index, data):
    n = data.draw(st.integers(0, 6))
    queries = random_queries(index, n, data.draw(st.integers(0, 99)))
    ids = st.lists(st.sampled_from(index.item_ids.tolist()), max_size=300)
    seen = data.draw(st.lists(ids, min_size=n, max_size=n))
    allowed = data.draw(st.none() | st.lists(ids, min_size=n, max_size=n))
    probes = data.draw(st.lists(st.integers(1, 8), min_size=n, max_size=n))
    got = answer_of(
        served.transform(
            request(
                queries,
                seen=flat(seen, n),
                in_stock=flat(allowed, n),
                n_probes=np.array(probes, np.int64),
                k=np.array([400]),
            )
        )
    )
    for i in range(n):
        assert not np.isin(got[i][1], seen[i]).any()
        assert allowed is None or np.isin(got[i][1], allowed[i]).all()
        visited = reference.search(
            index,
            queries[[i]],
            k=400,
            n_probes=probes[i],
            exclude=[seen[i]],
            allow=None if allowed is None else [allowed[i]],
        )
        assert got.counts[i] == visited.counts[0]


def test_the_schema_is_what_is_returned(index, index_path, queries):
    ensemble = make_ensemble(index_path, index.dim, k=3, prefix="near")
    schema = ensemble.output_schema
    assert schema.column_names == ["near_ids", "near_scores", "near_count"]
    got = ensemble.transform(TensorTable({"query_vector": queries}))
    for name in schema.column_names:
        assert schema[name].dtype.name == got[name].values.dtype.name
        assert schema[name].is_ragged == (got[name].offsets is not None)
    assert schema["near_ids"].shape.as_tuple[1] == (0, 3)
    mapping = ensemble.graph.output_node.column_mapping
    assert mapping == {name: ["query_vector"] for name in schema.column_names}


def test_without_columns_of_its_own_a_request_is_vectors(index, index_path, queries, tmp_path):
    got = answer_of(
        reload(make_ensemble(index_path, index.dim, k=3, backend="reference"), tmp_path).transform(
            TensorTable({"query_vector": queries})
        )
    )
    assert_same(got, reference.search(index, queries, k=3))


def test_the_export_needs_the_saved_index_no_more(index, index_path, queries, tmp_path, caplog):
    copy = tmp_path / "copy"
    shutil.copytree(index_path, copy)
    ensemble = make_ensemble(copy, index.dim, k=K, backend="reference")
    with caplog.at_level(logging.INFO, logger="merlin_poeem"):
        loaded = reload(ensemble, tmp_path / "repository")
    assert "backend reference" in caplog.text
    step = loaded.graph.output_node.op
    assert step.searcher.backend == "reference"
    assert Path(step.index_path).parent.parent.parent == tmp_path / "repository/executor_model"
    shutil.rmtree(copy)
    got = answer_of(loaded.transform(TensorTable({"query_vector": queries})))
    assert_same(got, reference.search(index, queries, k=K))


SCRIPT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow" or name.startswith("merlin.models"):
            raise ImportError(name + " is not to be imported here")
sys.meta_path.insert(0, Refuse())
import numpy as np
from merlin.systems.dag import Ensemble
from merlin.table import TensorTable
loaded = Ensemble.load(sys.argv[1])
loaded.graph.output_node.op.load_artifacts(sys.argv[1])
found = loaded.transform(TensorTable({"query_vector": np.load(sys.argv[2])}))
np.save(sys.argv[3], found["candidate_ids"].values)
"""


def test_the_server_needs_neither_tensorflow_nor_merlin_models(
    index, index_path, queries, tmp_path
):
    make_ensemble(index_path, index.dim, k=K).export(str(tmp_path))
    np.save(tmp_path / "queries.npy", queries)
    exported = tmp_path / "executor_model" / "1" / "ensemble"
    arguments = [exported, tmp_path / "queries.npy", tmp_path / "found.npy"]
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    subprocess.run(command, check=True, timeout=120)
    truth = reference.search(index, queries, k=K)
    np.testing.assert_array_equal(np.load(arguments[2]), truth.item_ids)


def test_what_the_package_offers():
    for name in systems.__all__:
        assert getattr(systems, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'export_all'"):
        _ = systems.export_all


def test_an_index_that_was_replaced_is_not_exported(index, index_path, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(index_path, copy)
    ensemble = make_ensemble(copy, index.dim)
    save_index(index.remove(index.item_ids[:1]), copy)
    with pytest.raises(ValueError, match="it was replaced since"):
        ensemble.export(str(tmp_path / "repository"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"query_vector": np.zeros((2, 16))}, TypeError, "expected float32, got float64"),
        ({"query_vector": np.zeros((2, 9), "f4")}, ValueError, r"\(n, 16\), got \(2, 9\)"),
        ({"k": np.array([1.0])}, TypeError, "k: expected an integer a row, got float64"),
        ({"k": np.array([1, 2, 3])}, ValueError, "k: expected 2 values, one a row, or one for all"),
        ({"n_probes": np.array([1, 9])}, ValueError, "at most n_lists = 8, got 9"),
        ({"refine": np.array([-1])}, ValueError, "refine: expected at least 0, got -1"),
        ({"refine": np.array([1.0])}, TypeError, "refine: expected an integer a row, got float64"),
        ({"seen": flat([[1]], 1)}, ValueError, "exclude: expected 2 lists, one a query; got 1"),
        (
            {"seen": flat([[1.5], []], 2)},
            TypeError,
            "column 'seen': expected integers, got float64",
        ),
        (
            {"in_stock": np.zeros((2, 3), np.int64)},
            ValueError,
            "allow: expected in_stock__values and in_stock__offsets, got no offsets",
        ),
    ],
)
def test_bad_requests(served, changes, error, message):
    with pytest.raises(error, match=message):
        served.transform(request(**{"queries": np.zeros((2, 16), np.float32)}, **changes))


def test_a_column_that_is_missing_is_named(served, queries):
    table = request(queries)
    del table["in_stock"]
    with pytest.raises(KeyError, match="in_stock"):
        served.transform(table)


@pytest.mark.parametrize(
    "option", ["exclude", "allow", "k_column", "n_probes_column", "refine_column"]
)
def test_columns_are_named_by_texts(index_path, option):
    with pytest.raises(TypeError, match=f"{option}: expected the name of a .*, got list"):
        QueryPoeem(index_path, **{option: [5, 6]})


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (vector_schema(9), r"'query_vector': expected float32 with dims \(n, 16\)"),
        (vector_schema(16, np.float64), "expected float32 .*got float64"),
        (
            Schema([ColumnSchema("query_vector", dtype=np.float32)]),
            r"expected float32 with dims \(n, 16\)",
        ),
    ],
)
def test_vectors_of_another_kind(index_path, schema, message):
    with pytest.raises(ValueError, match=message):
        Ensemble(["query_vector"] >> QueryPoeem(index_path), schema)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (ColumnSchema("seen", dtype=np.float32, dims=(None, None)), "ragged lists of integers"),
        (ColumnSchema("seen", dtype=np.int64), "expected ragged lists of integers, got int64 num"),
        (ColumnSchema("seen", dtype=np.int64, dims=(None, 3)), "expected ragged lists"),
    ],
)
def test_options_of_another_kind(index_path, column, message):
    step = QueryPoeem(index_path, exclude="seen")
    with pytest.raises(ValueError, match=message):
        Ensemble(["query_vector"] >> step, vector_schema(16) + Schema([column]))


def test_two_columns_of_vectors(index_path):
    schema = vector_schema(16) + Schema([ColumnSchema("other", dtype=np.int64)])
    with pytest.raises(ValueError, match=r"expected one of query vectors, got \['query_vector'"):
        Ensemble(["query_vector", "other"] >> QueryPoeem(index_path), schema)


def test_more_candidates_than_offsets_can_count(served, queries, monkeypatch):
    monkeypatch.setattr(query_poeem, "MOST_CANDIDATES", 80)
    with pytest.raises(ValueError, match=f"expected at most 80 in a request, got {12 * K}"):
        served.transform(request(queries))


def test_wrong_arguments(index_path, tmp_path):
    with pytest.raises(FileNotFoundError, match="no index there"):
        QueryPoeem(tmp_path / "nothing")
    with pytest.raises(ValueError, match="k: expected at least 1"):
        QueryPoeem(index_path, k=0)
    with pytest.raises(ValueError, match="at most n_lists = 8"):
        QueryPoeem(index_path, n_probes=9)
    with pytest.raises(ValueError, match="refine: expected at least 0, got -1"):
        QueryPoeem(index_path, refine=-1)
    save_index(random_index(), tmp_path / "without")
    with pytest.raises(ValueError, match="refine: expected 0, as the index holds no vectors"):
        QueryPoeem(tmp_path / "without", refine=2)


def test_refine_of_the_operator_and_of_the_index(index, index_path, queries, tmp_path):
    save_index(index.with_refine(3), tmp_path / "looks")
    for path, options, refine in (
        (index_path, {}, 0),
        (index_path, {"refine": 2}, 2),
        (tmp_path / "looks", {}, 3),
        (tmp_path / "looks", {"refine": 0}, 0),
    ):
        ensemble = make_ensemble(path, index.dim, k=K, **options)
        got = answer_of(ensemble.transform(TensorTable({"query_vector": queries})))
        assert_same(got, reference.search(index, queries, k=K, refine=refine))
