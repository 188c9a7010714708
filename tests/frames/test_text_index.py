"""Texts to vectors to an index that is saved with all that a query needs."""

from __future__ import annotations

import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import IndexFormatError, load_index
from merlin_poeem.evaluate import agreement, exact_search
from merlin_poeem.frames.ready_made import index_frame
from merlin_poeem.frames.text_index import (
    BATCH_SIZE,
    INFO,
    PROBE,
    TextIndex,
    embed,
    encode,
    gaussian_projection,
)
from merlin_poeem.quantization.suggested_params import suggest_params
from tests.index_factories import FIRST_ID, random_index

faiss = pytest.importorskip("faiss")
pytest.importorskip("sklearn")

WIDTH = 16
SUBJECTS = ("council", "police", "farmers", "union", "doctors")
VERBS = ("warn of", "welcome", "reject", "call for")
OBJECTS = ("floods", "harvest", "hospital", "smoke", "medal", "strike", "trade")
TEXTS = [f"{s} {v} {o}" for s in SUBJECTS for v in VERBS for o in OBJECTS]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make small problems slow on a busy machine."""
    n_threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(n_threads)


def encoder_of(width: int, seed: int = 0) -> Any:
    """Every word a random vector, a text their sum."""

    def word_vector(word: str) -> np.ndarray:
        return np.random.default_rng([seed, zlib.crc32(word.encode())]).normal(size=width)

    def encoder(texts: list[str]) -> np.ndarray:
        assert all(type(text) is str for text in texts)
        sums = [sum(word_vector(word) for word in text.split()) for text in texts]
        return np.array(sums, np.float32).reshape(-1, width)

    return encoder


ENCODER = encoder_of(WIDTH)


def headlines() -> pd.DataFrame:
    ids = FIRST_ID + np.arange(len(TEXTS))[::-1] * 3
    return pd.DataFrame({"item_id": ids, "text": TEXTS, "day": np.arange(len(TEXTS))})


@pytest.fixture(scope="module")
def built() -> TextIndex:
    return TextIndex.build(headlines(), ENCODER, item_table=["day"])


@pytest.fixture(scope="module")
def projected() -> TextIndex:
    return TextIndex.build(headlines(), ENCODER, project_to=12, seed=3)


class TestSearch:
    def test_nearest_texts_come_with_ids(self, built: TextIndex) -> None:
        found = built.search(TEXTS, k=3)
        columns = ["query", "rank", "item_id", "score", "text", "day"]
        assert found.columns.tolist() == columns
        assert found["item_id"].dtype == np.int64
        first = found[found["rank"] == 1]
        assert (first["query"] == first["text"]).mean() > 0.95
        text_of = dict(zip(headlines()["item_id"], TEXTS, strict=True))
        assert [text_of[item_id] for item_id in found["item_id"]] == found["text"].tolist()

    def test_agrees_with_exact_search(self, built: TextIndex) -> None:
        vectors, ids = ENCODER(TEXTS), headlines()["item_id"].to_numpy()
        exact = exact_search(ids, vectors, vectors, k=5, metric="cosine")
        assert agreement(built.searcher.search(vectors, k=5), exact, 5) > 0.9

    def test_stored_vectors_are_looked_at(self) -> None:
        built = TextIndex.build(headlines(), ENCODER, project_to=8, store_vectors="int8")
        assert built.index.vectors.values.shape == (len(TEXTS), 8)
        found = [built.search(TEXTS, k=5, refine=refine) for refine in (None, 0, 4)]
        pd.testing.assert_frame_equal(found[0], found[2])
        assert found[1]["score"].tolist() != found[2]["score"].tolist()

    def test_one_text(self, built: TextIndex) -> None:
        pd.testing.assert_frame_equal(
            built.search(TEXTS[7], k=2, n_probes=1), built.search([TEXTS[7]], k=2, n_probes=1)
        )
        assert len(built.search(TEXTS[7], k=999, n_probes=1)) < len(TEXTS)

    def test_a_query_given_twice_is_answered_twice(self, built: TextIndex) -> None:
        assert built.search([TEXTS[0], TEXTS[0]], k=2)["rank"].tolist() == [1, 2, 1, 2]

    def test_no_queries(self, built: TextIndex) -> None:
        assert len(built.search([], k=2)) == 0

    @pytest.mark.parametrize("query", [None, 5])
    def test_refused_queries(self, built: TextIndex, query: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="column 'query': expected"):
            built.search([query], k=2)

    def test_another_width_later(self, built: TextIndex) -> None:
        other = TextIndex(built.index, ENCODER)
        other.encoder = encoder_of(WIDTH + 1)
        message = f"expected {WIDTH} values, the index's dim; got {WIDTH + 1}"
        with pytest.raises(ValueError, match=message):
            other.search(TEXTS[0], k=1)


class TestProjection:
    def test_is_that_of_scikit_learn(self) -> None:
        from sklearn.random_projection import GaussianRandomProjection

        vectors = ENCODER(TEXTS)
        expected = GaussianRandomProjection(12, random_state=3).fit_transform(vectors)
        projection = gaussian_projection(WIDTH, 12, seed=3)
        assert projection.dtype == np.float32
        np.testing.assert_allclose(vectors @ projection, expected, rtol=1e-4, atol=1e-4)

    def test_of_items_and_queries_alike(self, projected: TextIndex) -> None:
        assert projected.index.dim == 12
        found = projected.search(TEXTS, k=1)
        assert (found["query"] == found["text"]).mean() > 0.95
        vectors = ENCODER(TEXTS) @ gaussian_projection(WIDTH, 12, seed=3)
        frame = headlines().assign(embedding=list(vectors))
        again = index_frame(frame, projected.index.params, seed=3)
        np.testing.assert_array_equal(again.codes, projected.index.codes)

    def test_too_wide(self) -> None:
        with pytest.raises(ValueError, match="project_to: expected at most the encoder's width"):
            TextIndex.build(headlines(), ENCODER, project_to=WIDTH + 1)

    def test_without_scikit_learn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.random_projection", None)
        with pytest.raises(ImportError, match=r"project_to needs sklearn.* install scikit-learn"):
            TextIndex.build(headlines(), ENCODER, project_to=2)


class TestSaveAndLoad:
    @pytest.mark.parametrize("name", ["built", "projected"])
    def test_answers_alike(self, name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        texts = request.getfixturevalue(name)
        texts.save(tmp_path / "texts.index")
        loaded = TextIndex.load(tmp_path / "texts.index", ENCODER)
        queries = ["police welcome strike", "doctors of harvest", "unheard words"]
        pd.testing.assert_frame_equal(loaded.search(queries, k=7), texts.search(queries, k=7))
        if name == "projected":
            np.testing.assert_array_equal(loaded.projection, texts.projection)

    def test_no_pickle_and_no_other_file(self, projected: TextIndex, tmp_path: Path) -> None:
        projected.save(tmp_path / "texts.index")
        suffixes = {file.suffix for file in (tmp_path / "texts.index").iterdir()}
        assert suffixes == {".json", ".npy", ".parquet"}

    def test_another_encoder_is_noticed(self, built: TextIndex, tmp_path: Path) -> None:
        built.save(tmp_path / "texts.index")
        with pytest.raises(ValueError, match=r"encoder: expected vectors of width 16, .* got 20"):
            TextIndex.load(tmp_path / "texts.index", encoder_of(20))
        with pytest.raises(ValueError, match="built with, got another: the vector of 'the quick"):
            TextIndex.load(tmp_path / "texts.index", encoder_of(WIDTH, seed=1))

    def test_rounding_of_another_machine_is_none(self, built: TextIndex) -> None:
        rounded = TextIndex(built.index, lambda texts: ENCODER(texts) * np.float32(1.001))
        assert rounded.index is built.index

    def test_another_index_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"index: expected one that TextIndex.build made"):
            TextIndex(random_index(), ENCODER)

    @pytest.mark.parametrize(
        ("part", "value"),
        [
            ("probe", None),
            ("probe", {"shape": [3], "float32": "AAAA"}),
            ("probe", {"shape": [1, 1], "float32": "AAAAAA=="}),
            ("probe", {"shape": [1], "float32": "AAAAAA=="}),
            ("projection", {"shape": [1, 1], "float32": "?"}),
            ("projection", {"shape": [1, 1], "float32": "AAAAAA=="}),
        ],
    )
    def test_damaged_info(self, projected: TextIndex, part: str, value: Any) -> None:
        index = projected.index.with_n_probes(1)
        index.info[INFO] = {**index.info[INFO], part: value}
        with pytest.raises(IndexFormatError, match="malformed info: text_index"):
            TextIndex(index, ENCODER)

    def test_survives_extend_and_remove(self, built: TextIndex) -> None:
        text = "farmers welcome rain"
        table = pd.DataFrame({"item_id": [7], "text": [text], "day": [0]})
        extended = built.index.extend([7], ENCODER([text]), item_table=table)
        reduced = extended.remove(headlines()["item_id"].to_numpy()[:5])
        assert TextIndex(reduced, ENCODER).search(text, k=1)["item_id"].tolist() == [7]

    def test_the_index_is_an_index(self, built: TextIndex, tmp_path: Path) -> None:
        built.save(tmp_path / "texts.index")
        index = load_index(tmp_path / "texts.index")
        assert index.params == suggest_params(len(TEXTS), WIDTH, metric="cosine")
        assert sorted(index.item_table["text"]) == sorted(TEXTS)


class TestEmbed:
    def test_batches(self) -> None:
        sizes = []

        def encoder(texts: list[str]) -> np.ndarray:
            sizes.append(len(texts))
            return ENCODER(texts)

        texts = [f"text {i}" for i in range(BATCH_SIZE + 5)]
        np.testing.assert_array_equal(encode(texts, encoder), ENCODER(texts))
        assert sizes == [BATCH_SIZE, 5]

    @given(
        n=st.integers(0, 7),
        batch_size=st.integers(1, 3),
        project_to=st.sampled_from([None, 2]),
    )
    def test_an_encoder_may_use_its_memory_again(
        self, n: int, batch_size: int, project_to: int | None
    ) -> None:
        memory = np.zeros((batch_size, WIDTH), np.float32)

        def encoder(texts: list[str]) -> np.ndarray:
            memory[: len(texts)] = ENCODER(texts)
            return memory[: len(texts)]

        texts = TEXTS[:n]
        frame = pd.DataFrame({"text": texts})
        projection = None if project_to is None else np.ones((WIDTH, project_to), np.float32)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules["merlin_poeem.frames.text_index"], "BATCH_SIZE", batch_size)
            got = encode(texts, encoder)
            embedded = embed(frame, encoder, into="v", projection=projection)
        memory[...] = 9
        expected = ENCODER(texts)
        np.testing.assert_array_equal(got, expected if n else np.empty((0, 1), np.float32))
        again = embed(frame, ENCODER, into="v", projection=projection)
        for vector, wanted in zip(embedded["v"], again["v"], strict=True):
            np.testing.assert_allclose(vector, wanted, rtol=1e-5, atol=1e-6)

    def test_the_probe_of_such_an_encoder(self, built: TextIndex) -> None:
        memory = np.zeros((BATCH_SIZE, WIDTH), np.float32)

        def encoder(texts: list[str]) -> np.ndarray:
            memory[: len(texts)] = ENCODER(texts)
            return memory[: len(texts)]

        other = TextIndex.build(headlines(), encoder, item_table=["day"])
        assert other.index.info == built.index.info
        np.testing.assert_array_equal(other.index.codes, built.index.codes)

    def test_keeps_labels(self) -> None:
        frame = headlines().set_index("item_id")
        embedded = embed(frame, ENCODER, into="v")
        pd.testing.assert_frame_equal(embedded[["text", "day"]], frame)
        np.testing.assert_array_equal(np.stack(embedded["v"].tolist()), ENCODER(TEXTS))

    def test_no_rows(self) -> None:
        assert len(embed(headlines().head(0), ENCODER)) == 0

    @pytest.mark.parametrize(
        ("encoder", "error", "message"),
        [
            (lambda texts: ENCODER(texts).astype(float), TypeError, "expected float32, got float6"),
            (lambda texts: ENCODER(texts)[0], ValueError, "expected two dimensions"),
            (lambda texts: ENCODER(texts)[1:], ValueError, "expected 140, one a text; got 139"),
            (lambda texts: ENCODER(texts) * np.nan, ValueError, "expected finite values"),
        ],
    )
    def test_refused_encoders(self, encoder: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=f"encoder's vectors: {message}"):
            embed(headlines(), encoder)

    def test_refused_frames(self) -> None:
        frame = headlines()
        with pytest.raises(ValueError, match="column 'title': expected it in the frame"):
            embed(frame, ENCODER, text="title")
        frame.loc[3, "text"] = None
        with pytest.raises(ValueError, match="column 'text': expected no nulls, got 1, first in r"):
            embed(frame, ENCODER)

    @pytest.mark.parametrize("name", ["query", "rank", "score", "vector", "item_id"])
    def test_refused_columns(self, name: str) -> None:
        frame = headlines().rename(columns={"day": name})
        with pytest.raises(ValueError, match=rf"columns: expected other names .* got \['{name}'\]"):
            TextIndex.build(frame, ENCODER, item_table=[name])

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"item_table": ["day", "day"]}, ValueError, "column 'day': expected it once"),
            ({"item_table": ["text"]}, ValueError, "column 'text': expected it once"),
            ({"item_table": [7]}, ValueError, "column 7: expected a name of text, got int; ren"),
            ({"item_table": "day"}, TypeError, "item_table: expected a sequence of column names"),
            ({"item_table": ["title"]}, ValueError, "column 'title': expected it in the frame"),
            ({"text": "title"}, ValueError, "column 'title': expected it in the frame"),
            ({"item_id": "key"}, ValueError, "column 'key': expected it in the frame"),
        ],
    )
    @pytest.mark.parametrize("on_dask", [False, True])
    def test_columns_are_refused_before_texts_are_encoded(
        self, options: dict[str, Any], error: type[Exception], message: str, on_dask: bool
    ) -> None:
        def encoder(texts: list[str]) -> np.ndarray:
            raise AssertionError("encoded before the columns were looked at")

        frame = headlines()
        if on_dask:
            frame = pytest.importorskip("dask.dataframe").from_pandas(frame, npartitions=2)
        with pytest.raises(error, match=message):
            TextIndex.build(frame, encoder, **options)

    def test_the_projection_is_read_only(self, projected: TextIndex) -> None:
        with pytest.raises(ValueError, match="read-only"):
            projected.projection[...] = 0


class TestDask:
    @pytest.fixture(autouse=True)
    def in_this_process(self) -> Iterator[None]:
        dask = pytest.importorskip("dask")
        pytest.importorskip("dask.dataframe")
        with dask.config.set(scheduler="synchronous"):
            yield

    @pytest.mark.parametrize("project_to", [None, 12])
    def test_partitions_give_the_same(self, project_to: int | None) -> None:
        sizes = []

        def encoder(texts: list[str]) -> np.ndarray:
            if texts != [PROBE]:
                sizes.append(len(texts))
            return ENCODER(texts)

        whole = TextIndex.build(headlines(), ENCODER, project_to=project_to)
        parts = TextIndex.build(headlines(), encoder, project_to=project_to, n_partitions=4)
        assert sizes == [35] * 4
        np.testing.assert_array_equal(parts.index.item_ids, whole.index.item_ids)
        np.testing.assert_array_equal(parts.index.codes, whole.index.codes)
        pd.testing.assert_frame_equal(parts.search(TEXTS, k=2), whole.search(TEXTS, k=2))

    def test_a_projection_that_is_written_to_before_dask_runs(self) -> None:
        import dask.dataframe

        projection = gaussian_projection(WIDTH, 12)
        frame = dask.dataframe.from_pandas(headlines(), npartitions=2)
        lazy = embed(frame, ENCODER, into="v", projection=projection)
        expected = embed(headlines(), ENCODER, into="v", projection=projection.copy())
        projection[...] = 0
        np.testing.assert_allclose(
            np.stack(lazy.compute()["v"].tolist()), np.stack(expected["v"].tolist()), rtol=1e-5
        )

    def test_rows_and_lists_stay_as_they_are(self) -> None:
        frame = headlines().assign(tags=[["a", text[0]] for text in TEXTS])
        frame.index = frame.index[::-1]
        whole, parts = (
            TextIndex.build(frame, ENCODER, item_table=["tags"], n_partitions=n) for n in (None, 4)
        )
        np.testing.assert_array_equal(parts.index.codes, whole.index.codes)
        tags = (list(map(list, one.index.item_table["tags"])) for one in (parts, whole))
        assert next(tags) == next(tags)

    def test_a_dask_frame_with_an_empty_partition(self, built: TextIndex) -> None:
        import dask.dataframe

        frame = dask.dataframe.from_pandas(headlines(), npartitions=3)
        with_empty = dask.dataframe.concat([frame[frame["day"] < 0], frame])
        other = TextIndex.build(with_empty, ENCODER, item_table=["day"])
        np.testing.assert_array_equal(other.index.codes, built.index.codes)

    def test_an_encoder_that_has_no_hash(self, built: TextIndex) -> None:
        lock = threading.Lock()

        def encoder(texts: list[str]) -> np.ndarray:
            with lock:
                return ENCODER(texts)

        other = TextIndex.build(headlines(), encoder, item_table=["day"], n_partitions=2)
        np.testing.assert_array_equal(other.index.codes, built.index.codes)

    def test_without_dask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "dask.dataframe", None)
        with pytest.raises(ImportError, match=r"needs dask.dataframe, .* 'dask\[dataframe\]'"):
            TextIndex.build(headlines(), ENCODER, n_partitions=2)

    def test_refused(self) -> None:
        with pytest.raises(ValueError, match="n_partitions: expected at least 1, got 0"):
            TextIndex.build(headlines(), ENCODER, n_partitions=0)
