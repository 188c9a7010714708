"""Encoding and search over Dask: what one process gives, whatever the partitions and shards."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

dask = pytest.importorskip("dask")

import dask.dataframe as dd  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from merlin_poeem import (  # noqa: E402
    Candidates,
    Index,
    IndexFormatError,
    ItemSet,
    IVFPQParams,
    Quantization,
    fit,
    load_index,
    open_searcher,
    save_index,
    search_frame,
)
from merlin_poeem.distributed import (  # noqa: E402
    encode_ddf,
    fit_ddf,
    index_ddf,
    load_shards,
    search,
    search_ddf,
    shard_index,
)
from merlin_poeem.distributed.merge import merge_candidates  # noqa: E402
from merlin_poeem.distributed.shards import MANIFEST_FILE  # noqa: E402
from merlin_poeem.frames.queries import Queries, SearchOptions  # noqa: E402
from merlin_poeem.quantization.fit import import_faiss  # noqa: E402
from merlin_poeem.quantization.params import METRICS, Metric  # noqa: E402
from merlin_poeem.quantization.stored_vectors import VECTOR_DTYPES, VectorDtype  # noqa: E402
from tests.index_factories import random_id_lists, random_index, random_queries  # noqa: E402

N, K = 30, 5
BOUNDS = (7, 7, 20)
EXACT = list(itertools.product(("reference", "faiss"), METRICS))


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    faiss = import_faiss()
    n_threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    with dask.config.set({"scheduler": "synchronous"}):
        yield
    faiss.omp_set_num_threads(n_threads)


@pytest.fixture(scope="module")
def index() -> Index:
    return random_index("cosine", rotation=True)


@pytest.fixture(scope="module")
def saved(index: Index, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("saved")
    save_index(index, folder / "whole")
    shard_index(index, 3, folder / "shards")
    return {name: folder / name for name in ("whole", "shards")}


@pytest.fixture(scope="module")
def frame(index: Index) -> pd.DataFrame:
    return query_frame(index)


def query_frame(index: Index) -> pd.DataFrame:
    """Queries as lists and as columns, and what each query's user has seen."""
    queries = random_queries(index, N)
    columns = {f"v{j}": queries[:, j] for j in range(index.dim)}
    frame = pd.DataFrame({"user": [f"u{i}" for i in range(N)], **columns})
    frame["embedding"] = list(queries)
    seen = [row.tolist() for row in random_id_lists(index, N, 100)]
    return frame.assign(seen=[None, *seen[1:]])


def in_partitions(frame: pd.DataFrame, *bounds: int) -> Any:
    """A Dask frame of the partitions between ``bounds``, empty ones too; lists stay lists."""
    parts = [frame.iloc[i:j] for i, j in itertools.pairwise([0, *bounds, len(frame)])]
    with dask.config.set({"dataframe.convert-string": False}):
        return dd.from_delayed([dask.delayed(part) for part in parts], meta=frame.iloc[:0])


def one_process(index: Index, frame: pd.DataFrame, backend: str, **asked: Any) -> pd.DataFrame:
    """``search_frame`` of each partition between ``BOUNDS``: products round by their rows."""
    searcher, edges = open_searcher(index, backend), [0, *BOUNDS, len(frame)]
    parts = [search_frame(searcher, frame.iloc[i:j], **asked) for i, j in itertools.pairwise(edges)]
    return pd.concat(parts, ignore_index=True)


def assert_same(found: Any, expected: pd.DataFrame) -> None:
    """To the bit; and what ``found`` says of itself beforehand holds, also for empty partitions."""
    parts = dask.compute(*found.to_delayed())
    for part in parts:
        pd.testing.assert_series_equal(part.dtypes, found.dtypes)
    got = pd.concat(parts, ignore_index=True)
    assert list(got.columns) == list(expected.columns)
    for name in expected.columns:
        if name in ("item_id", "score") and expected[name].dtype == object:
            for row, true_row in zip(got[name], expected[name], strict=True):
                assert row.dtype == true_row.dtype
                np.testing.assert_array_equal(row, true_row)
        else:
            pd.testing.assert_series_equal(got[name], expected[name])


class TestSearch:
    @pytest.mark.parametrize("form", ["long", "list"])
    @pytest.mark.parametrize("of", ["whole", "shards"])
    def test_every_partition_is_searched(
        self, index: Index, saved: dict[str, Path], frame: pd.DataFrame, of: str, form: str
    ) -> None:
        asked = {"k": K, "query_id": "user", "exclude": "seen", "n_probes": 4, "form": form}
        ddf = in_partitions(frame, *BOUNDS)
        found = search_ddf(saved[of], ddf, backend="reference", **asked)
        assert found.npartitions == ddf.npartitions
        assert not found.known_divisions
        assert_same(found, one_process(index, frame, "reference", **asked))

    @pytest.mark.parametrize("of", ["whole", "shards"])
    def test_lists_of_float64_become_the_nearest_float32(
        self, index: Index, saved: dict[str, Path], frame: pd.DataFrame, of: str
    ) -> None:
        wide = frame.assign(embedding=list(np.stack(frame["embedding"]).astype(np.float64)))
        ddf = in_partitions(wide, *BOUNDS)
        found = search_ddf(saved[of], ddf, k=K, backend="reference")
        assert_same(found, one_process(index, frame, "reference", k=K))

    @pytest.mark.parametrize("of", ["whole", "shards"])
    def test_columns_of_numbers_item_sets_and_a_named_index(
        self, index: Index, saved: dict[str, Path], frame: pd.DataFrame, of: str
    ) -> None:
        asked = {
            "k": 300,
            "vectors": [f"v{j}" for j in range(index.dim)],
            "exclude": ItemSet(index.item_ids[::3]),
            "allow": ItemSet(index.item_ids[::2]),
        }
        labelled = frame.set_index(pd.Index(np.arange(N) % 4, name="who"))
        ddf = in_partitions(labelled, *BOUNDS)
        found = search_ddf(saved[of], ddf, backend="reference", **asked)
        assert_same(found, one_process(index, labelled, "reference", **asked))

    @pytest.mark.parametrize(("backend", "metric"), EXACT)
    @pytest.mark.parametrize("n_shards", [1, 2, 5])
    def test_shards_answer_as_one_to_the_bit(
        self, backend: str, metric: str, n_shards: int, tmp_path: Path
    ) -> None:
        # Most items share their codes with others, of other shards.
        index = random_index(metric, n_items=200, n_repeated=150, rotation=True)
        frame = query_frame(index)
        shard_index(index, n_shards, tmp_path / "shards")
        asked: dict[str, Any] = {"k": 23, "n_probes": 5, "exclude": ItemSet(index.item_ids[::3])}
        ddf = in_partitions(frame, *BOUNDS)
        found = search_ddf(tmp_path / "shards", ddf, backend=backend, **asked)
        assert_same(found, one_process(index, frame, backend, **asked))

    @pytest.mark.parametrize(("backend", "metric"), EXACT)
    @pytest.mark.parametrize("dtype", VECTOR_DTYPES)
    def test_shards_look_again_as_one_to_the_bit(
        self, backend: str, metric: str, dtype: VectorDtype, tmp_path: Path
    ) -> None:
        index = random_index(metric, n_items=200, n_repeated=150, rotation=True, vectors=dtype)
        index = index.with_refine(3)
        frame = query_frame(index)
        shard_index(index, 3, tmp_path / "shards")
        save_index(index, tmp_path / "whole")
        ddf = in_partitions(frame, *BOUNDS)
        answers = []
        for refine in (None, 0, 2):
            asked = {"k": 11, "n_probes": 5, "refine": refine, "exclude": "seen"}
            expected = one_process(index, frame, backend, **asked)
            for of in ("shards", "whole"):
                assert_same(search_ddf(tmp_path / of, ddf, backend=backend, **asked), expected)
            answers.append(expected["score"].tolist())
        assert answers[0] != answers[1] != answers[2] != answers[0]

    def test_frames_of_no_rows(self, saved: dict[str, Path], frame: pd.DataFrame) -> None:
        for of in saved:
            found = search_ddf(saved[of], in_partitions(frame[:0], 0), k=K, backend="reference")
            expected = {"query_id": "i8", "rank": "i8", "item_id": "i8", "score": "f4"}
            assert found.compute().dtypes.to_dict() == {k: np.dtype(v) for k, v in expected.items()}

    @pytest.mark.parametrize("of", ["whole", "shards"])
    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"vectors": "absent"}, ValueError, "column 'absent': expected it in the frame, got "),
            ({"query_id": "absent"}, ValueError, "column 'absent': expected it in the frame, got "),
            ({"exclude": "absent"}, ValueError, "column 'absent': expected it in the frame, got "),
            ({"allow": "absent"}, ValueError, "column 'absent': expected it in the frame, got "),
            ({"vectors": ["user"]}, TypeError, "column 'user': expected numbers"),
            ({"query_id": "rank"}, ValueError, "column 'rank': expected it in the frame, got "),
            ({"form": "wide"}, ValueError, "form: expected long or list, got 'wide'"),
            ({"k": 0}, ValueError, "k: expected at least 1, got 0"),
            ({"n_probes": 9}, ValueError, "n_probes: expected at most n_lists = 8, got 9"),
            ({"refine": 2}, ValueError, "refine: expected 0, as the index holds no vectors"),
            ({"refine": -1}, ValueError, "refine: expected at least 0, got -1"),
            ({"backend": "cpu"}, ValueError, "backend: expected one of .*auto; got 'cpu'"),
        ],
    )
    def test_what_can_be_told_is_told_at_once(
        self,
        saved: dict[str, Path],
        frame: pd.DataFrame,
        of: str,
        change: dict[str, Any],
        error: type[Exception],
        message: str,
    ) -> None:
        def never() -> pd.DataFrame:
            raise AssertionError("computed")

        with dask.config.set({"dataframe.convert-string": False}):
            ddf = dd.from_delayed([dask.delayed(never)()], meta=frame[:0])
        with pytest.raises(error, match=message):
            search_ddf(saved[of], ddf, **{"k": K, **change})

    def test_no_dask_frame(self, saved: dict[str, Path], frame: pd.DataFrame) -> None:
        for given_frame in (frame, in_partitions(frame)["user"], dask.delayed(frame)):
            with pytest.raises(TypeError, match="ddf: expected a Dask DataFrame, got"):
                search_ddf(saved["whole"], given_frame, k=K)

    def test_lists_that_dask_made_text(self, saved: dict[str, Path], frame: pd.DataFrame) -> None:
        as_text = in_partitions(frame.assign(embedding=frame["embedding"].map(str)))
        as_text["embedding"] = as_text["embedding"].astype("string")
        with pytest.raises(TypeError, match=r"expected lists, got string.*convert-string"):
            search_ddf(saved["whole"], as_text, k=K)

    @pytest.mark.parametrize("of", ["whole", "shards"])
    def test_another_width(self, saved: dict[str, Path], frame: pd.DataFrame, of: str) -> None:
        short = frame.assign(embedding=[row[:15] for row in frame["embedding"]])
        found = search_ddf(saved[of], in_partitions(short), k=K, backend="reference")
        with pytest.raises(
            ValueError, match=r"'embedding': expected 16 values, .* got 15 in row 0"
        ):
            found.compute()

    @pytest.mark.parametrize("of", ["whole", "shards"])
    def test_an_index_replaced_since(self, frame: pd.DataFrame, tmp_path: Path, of: str) -> None:
        path = replaced = tmp_path / "saved"
        if of == "shards":
            replaced = Path(shard_index(random_index(), 2, path)[1].path)
        else:
            save_index(random_index(), path)
        found = search_ddf(path, in_partitions(frame), k=K, backend="reference")
        save_index(random_index(seed=5), replaced)
        with pytest.raises(ValueError, match=r"the index with fingerprint .* replaced since"):
            found.compute()

    def test_what_is_no_index(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no index there"):
            search_ddf(tmp_path / "absent", in_partitions(frame), k=K)
        with pytest.raises(IndexFormatError, match="not an index"):
            search_ddf(tmp_path, in_partitions(frame), k=K)

    def test_a_shard_is_large_to_dask_and_small_to_send(self, saved: dict[str, Path]) -> None:
        shard = load_shards(saved["shards"])[0]
        opened = search._OpenShard.open(shard, "reference")
        sent = pickle.dumps(opened)
        assert sys.getsizeof(opened) >= shard.n_items * (8 + 4)
        assert len(sent) < 1000
        arrived = pickle.loads(sent)
        assert sys.getsizeof(arrived) == sys.getsizeof(opened)
        assert arrived.searcher.index.n_items == shard.n_items


class TestMerge:
    @given(st.data())
    def test_the_best_of_the_parts_best(self, data: st.DataObject) -> None:
        # Few different scores: ties everywhere, across parts and across the k-th place.
        k, n_parts = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 4))
        scored = st.tuples(st.integers(-2, 2), st.integers(0, n_parts - 1))
        queries = data.draw(st.lists(st.dictionaries(st.integers(-9, 9), scored), max_size=4))
        parts = [
            Candidates.from_rows([best(items, k, part) for items in queries])
            for part in range(n_parts)
        ]
        merged = merge_candidates(parts, k)
        expected = Candidates.from_rows([best(items, k) for items in queries])
        np.testing.assert_array_equal(merged.counts, expected.counts)
        np.testing.assert_array_equal(merged.item_ids, expected.item_ids)
        np.testing.assert_array_equal(merged.scores, expected.scores)
        assert (merged.scores.dtype, merged.item_ids.dtype) == (np.float32, np.int64)
        assert merged.counts.dtype == np.int64


def best(items: dict[int, tuple[int, int]], k: int, part: int | None = None) -> Any:
    """The scores and ids of the ``k`` best, of all parts or of one, by sorting tuples."""
    chosen = [(-s, i) for i, (s, of) in items.items() if part is None or of == part]
    ranked = sorted(chosen)[:k]
    scores = np.array([-s for s, _ in ranked], np.float32)
    return scores, np.array([i for _, i in ranked], np.int64)


class TestShards:
    @pytest.mark.parametrize("pq_bits", [4, 8])
    def test_every_list_is_spread_evenly(self, pq_bits: int, tmp_path: Path) -> None:
        index = random_index(pq_bits=pq_bits, pq_dim=3)
        table = pd.DataFrame({"item_id": index.item_ids, "row": range(len(index))})
        index = Index.from_codes(
            index.params, index.quantization, index.item_codes, item_table=table, info={"a": 1}
        )
        shards = [load_index(shard.path) for shard in shard_index(index, 3, tmp_path / "shards")]
        sizes = np.stack([shard.list_sizes for shard in shards])
        np.testing.assert_array_equal(sizes.sum(axis=0), index.list_sizes)
        assert np.ptp(sizes, axis=0).max() <= 1
        assert np.ptp(sizes.sum(axis=1)) <= 1
        for shard in shards:
            rows = index.rows_of(shard.item_ids)
            np.testing.assert_array_equal(shard.codes, index.codes[rows])
            np.testing.assert_array_equal(shard.list_ids, index.list_ids[rows])
            np.testing.assert_array_equal(shard.scales, index.scales[rows])
            np.testing.assert_array_equal(shard.list_factors, index.list_factors)
            assert shard.item_table["row"].tolist() == sorted(rows)
            assert (shard.params, shard.info) == (index.params, {"a": 1})

    def test_as_many_as_there_are_items(self, tmp_path: Path) -> None:
        index = random_index(n_items=4)
        shards = shard_index(index, 4, tmp_path / "four")
        assert [shard.n_items for shard in shards] == [1, 1, 1, 1]
        assert shards == load_shards(tmp_path / "four")
        with pytest.raises(ValueError, match=r"n_shards: expected at most .* 4 items, got 5"):
            shard_index(index, 5, tmp_path / "five")
        with pytest.raises(ValueError, match="n_shards: expected at least 1, got 0"):
            shard_index(index, 0, tmp_path / "none")
        assert os.listdir(tmp_path) == ["four"]

    def test_nothing_is_replaced_and_nothing_is_half_there(self, tmp_path: Path) -> None:
        index = random_index(n_items=4)
        shard_index(index, 2, tmp_path / "shards")
        with pytest.raises(FileExistsError, match="expected a free name for the shards"):
            shard_index(index, 2, tmp_path / "shards")
        (tmp_path / "link").symlink_to("nowhere")
        with pytest.raises(ValueError, match="got a link to nowhere"):
            shard_index(index, 2, tmp_path / "link")
        (tmp_path / "link").unlink()
        index.info["what"] = object()
        with pytest.raises(ValueError, match="info: expected JSON"):
            shard_index(index, 2, tmp_path / "other")
        assert os.listdir(tmp_path) == ["shards"]

    def test_no_shards(self, saved: dict[str, Path], tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no shards there"):
            load_shards(tmp_path / "absent")
        with pytest.raises(IndexFormatError, match=f"not shards: it holds no {MANIFEST_FILE}"):
            load_shards(saved["whole"])

    def test_a_shard_is_missing(self, saved: dict[str, Path], tmp_path: Path) -> None:
        shards = self._copy(saved, tmp_path)
        shutil.rmtree(shards / "shard-0001")
        with pytest.raises(FileNotFoundError, match="shard-0001: missing: one of 3 shards"):
            load_shards(shards)

    def test_a_shard_of_another_split(self, saved: dict[str, Path], tmp_path: Path) -> None:
        shards = self._copy(saved, tmp_path)
        other = shard_index(random_index(seed=7), 3, tmp_path / "other")[1]
        shutil.rmtree(shards / "shard-0001")
        shutil.copytree(other.path, shards / "shard-0001")
        with pytest.raises(IndexFormatError, match=f"got {other.fingerprint}: it is of another"):
            load_shards(shards)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda content: "{", "not shards: .* is not JSON"),
            (lambda content: "[]", "has no magic"),
            (lambda content: {**content, "magic": "other"}, "has no magic"),
            (lambda content: {**content, "format_version": 2}, "newer version"),
            (lambda content: {**content, "format_version": 0}, "malformed"),
            (lambda content: {**content, "format_version": "1"}, "malformed"),
            (lambda content: {**content, "shards": content["shards"][:2]}, "checksum mismatch"),
            (lambda content: {**content, "shards": [], "crc32": 223132457}, "malformed"),
            (lambda content: signed(content, []), "malformed"),
            (lambda content: signed(content, "many"), "malformed"),
            (lambda content: signed(content, [7]), "malformed .*: shard 7"),
            (lambda content: signed(content, [{**content["shards"][0], "n_items": "4"}]), "shard"),
            (
                lambda content: signed(content, [{**content["shards"][0], "name": "../whole"}]),
                "malformed .* name '../whole'",
            ),
            (
                lambda content: signed(content, [{**content["shards"][0], "name": ".."}]),
                "malformed .* name '..'",
            ),
        ],
    )
    def test_a_damaged_manifest(
        self, saved: dict[str, Path], tmp_path: Path, change: Any, message: str
    ) -> None:
        shards = self._copy(saved, tmp_path)
        changed = change(json.loads((shards / MANIFEST_FILE).read_text()))
        text = changed if isinstance(changed, str) else json.dumps(changed)
        (shards / MANIFEST_FILE).write_text(text)
        with pytest.raises(IndexFormatError, match=message):
            load_shards(shards)

    @staticmethod
    def _copy(saved: dict[str, Path], tmp_path: Path) -> Path:
        return Path(shutil.copytree(saved["shards"], tmp_path / "shards"))


def signed(content: dict[str, Any], shards: Any) -> dict[str, Any]:
    """``content`` of other ``shards``, with a checksum that fits."""
    from merlin_poeem.distributed.shards import _checksum

    return {**content, "shards": shards, "crc32": _checksum(shards)}


PARAMS = IVFPQParams(n_lists=2, pq_dim=4, pq_bits=4, metric="cosine")


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    # More rows than the fit takes.
    return np.random.default_rng(3).standard_normal((5000, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def items(vectors: np.ndarray) -> pd.DataFrame:
    item_ids = 2**40 + np.random.default_rng(4).permutation(len(vectors))
    columns = {f"v{j}": vectors[:, j] for j in range(8)}
    return pd.DataFrame({"item_id": item_ids, "embedding": list(vectors), **columns})


@pytest.fixture(scope="module")
def quantization(vectors: np.ndarray) -> Quantization:
    return fit(PARAMS, vectors, rotation=False)


class TestEncode:
    def test_the_index_of_one_process(
        self, items: pd.DataFrame, vectors: np.ndarray, quantization: Quantization
    ) -> None:
        ddf = in_partitions(items, 1000, 1000, 3100)
        fitted = fit_ddf(PARAMS, ddf, rotation=False)
        for name in ("coarse_centroids", "codebook", "scale_range"):
            np.testing.assert_array_equal(getattr(fitted, name), getattr(quantization, name))
        assert fit_ddf(PARAMS, ddf, rotation=False, item_scales=False).scale_range is None
        looking = vectors[:100] * np.geomspace(1, 0.1, 8, dtype=np.float32)
        asked: dict[str, Any] = {"queries": looking, "stretch": 0.5, "rotation": False}
        stretched, expected = fit_ddf(PARAMS, ddf, **asked), fit(PARAMS, vectors, **asked)
        for name in ("query_rotation", "codebook"):
            np.testing.assert_array_equal(getattr(stretched, name), getattr(expected, name))
        columns = [f"v{j}" for j in range(8)]
        for given_vectors in ("embedding", columns):
            got = index_ddf(ddf, PARAMS, fitted, vectors=given_vectors, info={"a": 1})
            whole = Index.from_vectors(PARAMS, quantization, items["item_id"].to_numpy(), vectors)
            np.testing.assert_array_equal(got.item_ids, whole.item_ids)
            np.testing.assert_array_equal(got.list_offsets, whole.list_offsets)
            np.testing.assert_array_equal(got.packed_codes, whole.packed_codes)
            np.testing.assert_array_equal(got.scales, whole.scales)
            assert got.info == {"a": 1}

    @pytest.mark.parametrize("dtype", VECTOR_DTYPES)
    @pytest.mark.parametrize("metric", METRICS)
    def test_stored_vectors_of_one_process(
        self,
        items: pd.DataFrame,
        vectors: np.ndarray,
        quantization: Quantization,
        metric: Metric,
        dtype: VectorDtype,
    ) -> None:
        params, trained = replace(PARAMS, metric=metric), replace(quantization, scale_range=None)
        ddf = in_partitions(items, 1000, 1000, 3100)
        got = index_ddf(ddf, params, trained, store_vectors=dtype).vectors
        item_ids = items["item_id"].to_numpy()
        whole = Index.from_vectors(params, trained, item_ids, vectors, store_vectors=dtype).vectors
        np.testing.assert_array_equal(got.values, whole.values)
        np.testing.assert_array_equal(got.scales, whole.scales)
        assert got.dtype == dtype
        assert (got.origin is None) == (metric != "l2")
        # Nothing of float32 travels but a number an item.
        travels = encode_ddf(ddf, params, trained, store_vectors=dtype)
        assert set(travels.dtypes[-9:-1]) == {np.dtype(dtype)}
        assert travels.select_dtypes("float32").columns.tolist() == ["scale_of_vector"]
        with pytest.raises(ValueError, match="store_vectors: expected float16 or int8, got 'f8'"):
            index_ddf(ddf, params, trained, store_vectors="f8")

    @pytest.mark.parametrize("scales", [True, False])
    def test_codes_stay_a_dask_frame(
        self, items: pd.DataFrame, quantization: Quantization, scales: bool
    ) -> None:
        if not scales:
            quantization = replace(quantization, scale_range=None)
        found = encode_ddf(in_partitions(items[:50], 20, 20), PARAMS, quantization)
        codes = [f"code_{j}" for j in range(4)]
        assert list(found.columns) == ["item_id", "list_id", *codes, *["scale"] * scales]
        assert_same(found, found.compute().reset_index(drop=True))
        assert found.npartitions == 3
        expected = quantization.code_dtype
        assert (found.dtypes.iloc[2:] == expected).all()

    def test_no_items(self, items: pd.DataFrame, quantization: Quantization) -> None:
        none = in_partitions(items[:0], 0)
        assert len(index_ddf(none, PARAMS, quantization)) == 0
        with pytest.raises(ValueError, match="ddf: expected at least one row, got none"):
            fit_ddf(PARAMS, none)

    def test_an_id_in_two_partitions(self, items: pd.DataFrame, quantization: Quantization) -> None:
        twice = pd.concat([items[:20], items[4:5]])
        with pytest.raises(ValueError, match=rf"1 repeated, such as \[{items['item_id'][4]}\]"):
            index_ddf(in_partitions(twice, 10), PARAMS, quantization)

    @pytest.mark.parametrize("function", [encode_ddf, index_ddf])
    def test_what_can_be_told_is_told_at_once(
        self, items: pd.DataFrame, quantization: Quantization, function: Any
    ) -> None:
        ddf = in_partitions(items)
        with pytest.raises(ValueError, match="column 'id': expected it in the frame, got "):
            function(ddf, PARAMS, quantization, item_id="id")
        with pytest.raises(ValueError, match="column 'v': expected it in the frame, got "):
            function(ddf, PARAMS, quantization, vectors="v")
        with pytest.raises(
            TypeError, match=r"a Dask DataFrame, got pandas.DataFrame; .*from_pandas"
        ):
            function(items, PARAMS, quantization)
        with pytest.raises(ValueError, match="quantization: expected n_lists = 3"):
            function(ddf, IVFPQParams(n_lists=3, pq_dim=4, pq_bits=4), quantization)

    def test_what_only_the_rows_tell(self, items: pd.DataFrame, quantization: Quantization) -> None:
        no_id = items[:9].assign(item_id=[None, *range(8)])
        with pytest.raises(ValueError, match="'item_id': expected no nulls, got 1, first in row 0"):
            index_ddf(in_partitions(no_id), PARAMS, quantization)
        short = items[:9].assign(embedding=[row[:7] for row in items["embedding"][:9]])
        with pytest.raises(ValueError, match=r"'embedding': expected 8 values, .* got 7 in row 0"):
            index_ddf(in_partitions(short), PARAMS, quantization)
        with pytest.raises(
            ValueError, match=r"'embedding': expected 8 values a row .* first; got 7"
        ):
            fit_ddf(PARAMS, in_partitions(pd.concat([items[:9], short]), 9))

    def test_fit_takes_names_alone(self, items: pd.DataFrame) -> None:
        with pytest.raises(TypeError, match=r"vectors: expected a column's name .* got 0 \(int\)"):
            fit_ddf(PARAMS, in_partitions(items), vectors=0)

    def test_fit_names_columns_that_are_missing(self, items: pd.DataFrame) -> None:
        with pytest.raises(ValueError, match="column 'v': expected it in the frame, got "):
            fit_ddf(PARAMS, in_partitions(items), vectors=["v0", "v"])


def test_device_partitions(cudf: ModuleType, index: Index, frame: pd.DataFrame) -> None:
    """What runs on a partition takes and gives cuDF frames; Dask's own part needs a GPU."""
    from tests.device_frames import ListSeries

    searcher = open_searcher(index, "reference")
    columns = {
        "embedding": ListSeries.of(frame["embedding"].tolist(), "f4"),
        "seen": ListSeries.of(frame["seen"].tolist(), "i8"),
    }
    on_device = cudf.DataFrame(columns)
    options = SearchOptions(k=K, n_probes=4, exclude="seen")
    queries = Queries.read(on_device, options, index.dim)
    found = queries.search(searcher, options)
    answer = search._answer(queries, options, on_device_meta(cudf), [found])
    assert type(answer) is cudf.DataFrame
    expected = search_frame(searcher, frame, k=K, n_probes=4, exclude="seen")
    for name in expected.columns:
        assert answer[name].to_numpy().tolist() == expected[name].tolist()


def on_device_meta(cudf: ModuleType) -> Any:
    names = ("query_id", "rank", "item_id", "score")
    return cudf.DataFrame({name: np.empty(0, np.int64) for name in names})


class TestItemKeys:
    """Texts for ids, in each worker those of the index that it opened; shards refuse them."""

    @pytest.fixture(scope="class")
    @classmethod
    def keyed(cls) -> Index:
        index = random_index("cosine")
        skus = [f"sku {i}" for i in index.item_ids]
        table = pd.DataFrame({"item_id": index.item_ids, "sku": skus})
        return index.with_item_table(table).with_item_keys("sku")

    @pytest.mark.parametrize("form", ["long", "list"])
    @pytest.mark.parametrize("given_keys", [None, "seen", ["sku 5", "all"]])
    @pytest.mark.parametrize("name", ["exclude", "allow"])
    def test_as_search_frame(
        self, keyed: Index, tmp_path: Path, form: Any, given_keys: Any, name: str
    ) -> None:
        save_index(keyed, tmp_path / "keyed")
        keys = keyed.item_keys.keys_of(keyed.item_ids)
        if isinstance(given_keys, list):
            given_keys = [given_keys[0], *keys[:200]]
        lists = random_id_lists(keyed, N, 40)
        frame = pd.DataFrame(
            {
                "user": [f"u{i}" for i in range(N)],
                "embedding": list(random_queries(keyed, N)),
                "seen": [[f"sku {each}" for each in ids] for ids in lists],
            }
        )
        options = {"k": K, "query_id": "user", "form": form, name: given_keys}
        truth = search_frame(open_searcher(keyed), frame, **options)
        with dask.config.set({"dataframe.convert-string": False}):
            ddf = dd.from_pandas(frame, npartitions=3, sort=False)
        lazy = search_ddf(tmp_path / "keyed", ddf, **options)
        found = lazy.compute().reset_index(drop=True)
        assert found.dtypes.tolist() == lazy.dtypes.tolist() == truth.dtypes.tolist()
        as_plain = list if form == "list" else str
        assert list(map(as_plain, found["item_id"])) == list(map(as_plain, truth["item_id"]))
        assert len(found)

    def test_shards(self, keyed: Index, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"shard index\.without_item_keys\(\), and join"):
            shard_index(keyed, 2, tmp_path / "shards")
        assert not (tmp_path / "shards").exists()
        assert len(shard_index(keyed.without_item_keys(), 2, tmp_path / "shards")) == 2
