"""Frames of ids and vectors to an index, and to neighbours by title."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import Index, IVFPQParams, load_index, open_searcher, save_index, search_frame
from merlin_poeem.evaluate import agreement, exact_search
from merlin_poeem.frames.items import like_items, like_rows, with_items
from merlin_poeem.frames.list_writer import matrix_column
from merlin_poeem.frames.ready_made import index_frame, with_vectors
from merlin_poeem.index.item_table import nullable_dtype
from merlin_poeem.quantization.fit import fit
from merlin_poeem.quantization.item_codes import ItemCodes
from merlin_poeem.quantization.suggested_params import suggest_params
from tests.index_factories import FIRST_ID, random_index

faiss = pytest.importorskip("faiss")

DIM = 8
PARAMS = IVFPQParams(n_lists=8, pq_dim=DIM, n_probes=8)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make small problems slow on a busy machine."""
    n_threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(n_threads)


def to_json(vectors: np.ndarray) -> list[str]:
    return [json.dumps(row) for row in vectors.tolist()]


def catalog(n: int = 300, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Ids above 2**40 in no order, labels that are no row numbers, vectors of length one."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = FIRST_ID + 3 * rng.permutation(n)
    titles = [f"film {item_id}" for item_id in ids]
    frame = pd.DataFrame({"item_id": ids, "embedding": to_json(vectors), "title": titles})
    return frame.set_index(np.arange(n) + 7), vectors


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return catalog()[0]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return catalog()[1]


@pytest.fixture(scope="module")
def index(frame: pd.DataFrame) -> Index:
    return index_frame(frame, PARAMS, item_table=["title"])


class TestWithVectors:
    def test_searches(self, index: Index, frame: pd.DataFrame) -> None:
        queries = with_vectors(frame, into="parsed")
        assert queries["embedding"].tolist() == frame["embedding"].tolist()
        assert "parsed" not in frame
        queries = queries.rename(columns={"item_id": "film"})
        found = search_frame(open_searcher(index), queries, k=1, vectors="parsed", query_id="film")
        assert (found["film"] == found["item_id"]).mean() > 0.95

    def test_replaces_and_keeps_labels(self, frame: pd.DataFrame, vectors: np.ndarray) -> None:
        replaced = with_vectors(frame)
        pd.testing.assert_index_equal(replaced.index, frame.index)
        assert isinstance(frame["embedding"].iloc[0], str)
        np.testing.assert_array_equal(np.stack(replaced["embedding"].tolist()), vectors)


class TestIndexFrame:
    @pytest.mark.parametrize("n", [1, 2, 20])
    def test_tiny_catalogs_are_found_whole(self, n: int) -> None:
        frame, _ = catalog(n)
        index = index_frame(frame, metric="l2")
        assert index.params == suggest_params(n, DIM, metric="l2")
        found = search_frame(open_searcher(index), with_vectors(frame), k=n)
        assert (
            found.groupby("query_id")["item_id"].apply(set).tolist() == [set(frame["item_id"])] * n
        )
        assert found["item_id"].dtype == np.int64
        assert (found[found["rank"] == 1]["item_id"].to_numpy() == frame["item_id"]).all()

    def test_suggested_parameters_are_good(self, frame: pd.DataFrame, vectors: np.ndarray) -> None:
        index = index_frame(frame)
        found = open_searcher(index).search(vectors, k=10)
        exact = exact_search(frame["item_id"].to_numpy(), vectors, vectors, k=10)
        assert agreement(found, exact, 10) > 0.9

    def test_lists_give_the_same_as_json(self, frame: pd.DataFrame, index: Index) -> None:
        other = index_frame(with_vectors(frame), PARAMS)
        np.testing.assert_array_equal(other.item_ids, index.item_ids)
        np.testing.assert_array_equal(other.codes, index.codes)

    def test_options_reach_training(self, frame: pd.DataFrame, index: Index) -> None:
        assert index.quantization.rotation is None
        rotated = index_frame(frame, PARAMS, rotation=True, info={"made": "here"})
        assert rotated.quantization.rotation is not None
        assert rotated.info == {"made": "here"}

    def test_queries_reach_training(self, frame: pd.DataFrame, vectors: np.ndarray) -> None:
        looking = vectors[:100] * np.geomspace(1, 0.1, DIM, dtype=np.float32)
        expected = fit(PARAMS, vectors, queries=looking, stretch=0.5, rotation=False)
        as_frame = pd.DataFrame({"embedding": to_json(looking)})
        for queries in (looking, as_frame, with_vectors(as_frame)):
            index = index_frame(frame, PARAMS, queries=queries, stretch=0.5)
            for name in ("query_rotation", "codebook"):
                got = getattr(index.quantization, name)
                np.testing.assert_array_equal(got, getattr(expected, name))
        with pytest.raises(ValueError, match=r"queries: expected a column 'embedding', .*'other'"):
            index_frame(frame, PARAMS, queries=as_frame.rename(columns={"embedding": "other"}))
        with pytest.raises(TypeError, match="queries: expected float32"):
            index_frame(frame, PARAMS, queries=looking.astype(np.float64))

    def test_trains_on_a_sample(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given: list[np.ndarray] = []
        module = sys.modules["merlin_poeem.frames.ready_made"]

        def note(params: IVFPQParams, vectors: np.ndarray, **options: Any) -> Any:
            given.append(vectors)
            return fit(params, vectors, **options)

        fit = module.fit  # type: ignore[attr-defined]
        monkeypatch.setattr(module, "fit", note)
        params = IVFPQParams(n_lists=4, pq_dim=4, pq_bits=4)
        frame, _ = catalog(1100)
        index = index_frame(frame, params, seed=1)
        assert len(given[0]) == 64 * 16
        assert index.n_items == 1100
        np.testing.assert_array_equal(index.codes, index_frame(frame, params, seed=1).codes)
        assert not np.array_equal(index.codes, index_frame(frame, params, seed=2).codes)

    @pytest.mark.parametrize(
        ("values", "dtype"),
        [
            ([2**53 + 1, None], "Int64"),
            ([2**64 - 1, None], "UInt64"),
            ([127, None], "Int8"),
            ([True, None], "boolean"),
            ([2**53 + 1, 2], "int64"),
            ([True, False], "bool"),
        ],
    )
    def test_integers_of_the_item_table_keep_their_values(
        self, values: list[Any], dtype: str, tmp_path: Any
    ) -> None:
        frame, _ = catalog(20)
        sequels = pd.array(values * 10, dtype)
        index = index_frame(frame.assign(sequel=sequels), item_table=["sequel"])
        save_index(index, tmp_path / "films.index")
        for table in (index.item_table, load_index(tmp_path / "films.index").item_table):
            assert table["sequel"].dtype == dtype
            assert table["sequel"].tolist() == list(sequels)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (["title", "title"], "item_table: column 'title': expected it once"),
            (["title", 7], "item_table: column 7: expected a name of text, got int; rename it"),
        ],
    )
    def test_tables_are_refused_before_the_training(
        self, frame: pd.DataFrame, columns: list[Any], message: str, monkeypatch: Any
    ) -> None:
        module = sys.modules["merlin_poeem.frames.ready_made"]
        monkeypatch.setattr(module, "fit", None)
        frame = frame.assign(seventh=7).rename(columns={"seventh": 7})
        with pytest.raises(ValueError, match=message):
            index_frame(frame, PARAMS, item_table=columns)

    @pytest.mark.parametrize(
        ("change", "options", "error", "message"),
        [
            ({}, {"item_id": "key"}, ValueError, "column 'key': expected it in the frame"),
            ({}, {"vectors": "key"}, ValueError, "column 'key': expected it in the frame"),
            ({}, {"item_table": ["key"]}, ValueError, "column 'key': expected it in the frame"),
            ({}, {"item_table": "title"}, TypeError, "item_table: expected a sequence"),
            ({}, {"item_table": ["item_id"]}, ValueError, "item_table: expected columns beside"),
            ({"item_id": 5}, {}, ValueError, "column 'item_id': expected each id once"),
            ({}, {"params": PARAMS, "metric": "l2"}, ValueError, "metric: expected None beside"),
        ],
    )
    def test_refused(
        self,
        frame: pd.DataFrame,
        change: dict[str, Any],
        options: dict[str, Any],
        error: type[Exception],
        message: str,
    ) -> None:
        with pytest.raises(error, match=message):
            index_frame(frame.assign(**change), **options)


class TestItems:
    def test_item_to_items_never_itself(self, index: Index, frame: pd.DataFrame) -> None:
        searcher = open_searcher(index)
        found = like_rows(searcher, with_vectors(frame), k=5)
        assert found.columns.tolist() == ["like", "rank", "item_id", "score"]
        assert found["like"].value_counts().unique().tolist() == [5]
        assert not (found["like"] == found["item_id"]).any()
        decoded = like_items(searcher, frame["item_id"].to_numpy(), k=5)
        assert decoded.columns.tolist() == ["like", "rank", "item_id", "score"]
        assert not (decoded["like"] == decoded["item_id"]).any()
        shared = found.merge(decoded, on=["like", "item_id"])
        assert len(shared) > 0.8 * len(found)

    def test_the_ids_of_rows_may_have_any_name(self, index: Index, frame: pd.DataFrame) -> None:
        searcher, parsed = open_searcher(index), with_vectors(frame.head(9))
        others = parsed.rename(columns={"item_id": "user_id", "embedding": "taste"})
        found = like_rows(searcher, others, k=3, row_id="user_id", vectors="taste")
        pd.testing.assert_frame_equal(found, like_rows(searcher, parsed, k=3))
        assert found["like"].drop_duplicates().tolist() == frame["item_id"].head(9).tolist()

    def test_n_probes_is_passed_on(self, index: Index, frame: pd.DataFrame) -> None:
        searcher = open_searcher(index)
        one = with_vectors(frame.head(1))
        assert len(like_rows(searcher, one, k=300, n_probes=1)) < 299
        assert len(like_rows(searcher, one, k=300)) == 299
        assert len(like_items(searcher, one["item_id"].to_numpy(), k=300, n_probes=1)) < 299

    def test_vectors_are_stored_and_looked_at(
        self, frame: pd.DataFrame, vectors: np.ndarray
    ) -> None:
        index = index_frame(frame, PARAMS, store_vectors="float16")
        assert index_frame(frame, PARAMS).vectors is None
        searcher, parsed, ids = (
            open_searcher(index),
            with_vectors(frame),
            frame["item_id"].to_numpy(),
        )
        exact = exact_search(ids, vectors, vectors, k=6, exclude=ids[:, None].tolist())
        best = exact.item_ids.reshape(len(ids), 6)[:, 0]
        # A second look at everything is exact search; an index with vectors takes it by default.
        looked = like_rows(searcher, parsed, k=1, refine=len(ids))
        assert (looked["item_id"].to_numpy() == best).all()
        plain = like_rows(searcher, parsed, k=1, refine=0)
        assert (plain["item_id"].to_numpy() == best).mean() < 1
        assert like_rows(searcher, parsed, k=1).equals(like_rows(searcher, parsed, k=1, refine=4))
        decoded = [like_items(searcher, ids, k=3, refine=refine) for refine in (0, 4)]
        assert not decoded[0].equals(decoded[1])

    def test_vectors_of_another_dtype(self, frame: pd.DataFrame) -> None:
        with pytest.raises(ValueError, match="store_vectors: expected float16 or int8, got 'f8'"):
            index_frame(frame, PARAMS, store_vectors="f8")

    def test_titles_after_a_save(self, index: Index, frame: pd.DataFrame, tmp_path: Any) -> None:
        save_index(index, tmp_path / "films.index")
        loaded = load_index(tmp_path / "films.index")
        found = like_rows(open_searcher(loaded), with_vectors(frame.sample(9, random_state=0)), k=4)
        titled = with_items(found, loaded)
        pd.testing.assert_frame_equal(titled[found.columns.tolist()], found)
        assert titled["title"].tolist() == [f"film {item_id}" for item_id in found["item_id"]]
        assert titled["item_id"].dtype == np.int64

    def test_like_no_items(self, index: Index) -> None:
        found = like_items(open_searcher(index, "reference"), [], k=3)
        assert (found.columns.tolist(), len(found)) == (["like", "rank", "item_id", "score"], 0)

    def test_unsigned_ids_are_joined_exactly(self) -> None:
        index = random_index(n_items=2)
        ids = [2**62, 2**62 + 1]
        index = Index.from_codes(
            index.params,
            index.quantization,
            ItemCodes(ids, index.list_ids, index.codes, index.scales),
            item_table=pd.DataFrame({"item_id": ids, "title": ["even", "odd"]}),
        )
        found = with_items(pd.DataFrame({"item_id": np.array(ids[::-1], np.uint64)}), index)
        assert found["title"].tolist() == ["odd", "even"]
        assert found["item_id"].dtype == np.int64

    def test_an_unknown_item_has_no_title(self, index: Index) -> None:
        assert with_items(pd.DataFrame({"item_id": [1]}), index)["title"].isna().all()

    @given(
        values=st.lists(st.integers(2**53, 2**63 - 1), min_size=1, max_size=5),
        dtype=st.sampled_from(["int64", "uint64", "Int64"]),
        others=st.lists(st.integers(-3, -1), max_size=2),
    )
    def test_items_without_a_row_round_no_integers(
        self, values: list[int], dtype: str, others: list[int]
    ) -> None:
        n = len(values)
        flags = np.arange(n) % 2 == 0
        table = pd.DataFrame({"item_id": range(n), "sku": pd.array(values, dtype), "new": flags})
        index = random_index(n_items=n)
        codes = ItemCodes(np.arange(n), index.list_ids, index.codes, index.scales)
        index = Index.from_codes(index.params, index.quantization, codes, item_table=table)
        found = pd.DataFrame({"item_id": [*others, *range(n)], "rank": 1})
        titled = with_items(found, index)
        nulls = [pd.NA] * len(others)
        assert titled["sku"].tolist() == [*nulls, *values]
        assert titled["new"].tolist() == [*nulls, *flags]
        assert titled["sku"].dtype == (nullable_dtype(np.dtype(dtype.lower())) if others else dtype)
        assert titled["new"].dtype == ("boolean" if others else "bool")
        assert (titled["item_id"].dtype, titled["rank"].dtype) == (np.int64, np.int64)
        assert index.item_table["sku"].dtype == dtype

    @pytest.mark.parametrize(
        ("found", "error", "message"),
        [
            ({"item_id": [1]}, TypeError, "found: expected a pandas frame with item_id"),
            (pd.DataFrame({"id": [1]}), TypeError, "found: expected a pandas frame with item_id"),
            (pd.DataFrame({"item_id": [[1]]}), TypeError, "found.item_id: expected integers"),
            (
                pd.DataFrame({"item_id": [1], "title": ["a"]}),
                ValueError,
                r"expected other columns than the item table's, got \['title'\]",
            ),
        ],
    )
    def test_refused(self, index: Index, found: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            with_items(found, index)

    def test_no_table(self) -> None:
        with pytest.raises(ValueError, match="index: expected an item table, got none"):
            with_items(pd.DataFrame({"item_id": [1]}), random_index())

    def test_like_items_refuses_unknown_ids(self, index: Index) -> None:
        with pytest.raises(ValueError, match="expected ids in the index, got 1 that are not"):
            like_items(open_searcher(index), [1], k=2)


class TestCudf:
    """Over a stand-in: columns that are read by ``to_arrow`` alone, as cuDF's."""

    @pytest.fixture
    def device_frame(self, cudf: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setattr(cudf.Series, "to_arrow", lambda self: self.arrow, raising=False)

        def column(values: Any) -> Any:
            series = cudf.Series(np.arange(len(values)).tolist())
            series.arrow = pa.array(values)
            return series

        def assign(self: Any, **columns: Any) -> Any:
            return cudf.DataFrame({**self._columns, **columns})

        monkeypatch.setattr(cudf.DataFrame, "assign", assign, raising=False)
        frame, _ = catalog()
        return cudf.DataFrame({name: column(frame[name].tolist()) for name in frame.columns})

    def test_indexes_as_pandas(self, device_frame: Any, index: Index) -> None:
        other = index_frame(device_frame, PARAMS, item_table=["title"])
        np.testing.assert_array_equal(other.item_ids, index.item_ids)
        np.testing.assert_array_equal(other.codes, index.codes)
        assert other.item_table["title"].tolist() == index.item_table["title"].tolist()

    def test_with_vectors(self, device_frame: Any, vectors: np.ndarray) -> None:
        from tests.device_frames import peek

        queries = with_vectors(device_frame)
        assert type(queries) is type(device_frame)
        np.testing.assert_array_equal(np.stack(peek(queries["embedding"])), vectors)
        assert queries["embedding"].index is device_frame.index

    def test_more_values_than_cudf_holds(self, device_frame: Any) -> None:
        matrix = np.broadcast_to(np.float32(0), (1, 2**31))
        with pytest.raises(ValueError, match="2147483648"):
            matrix_column(device_frame, matrix)
