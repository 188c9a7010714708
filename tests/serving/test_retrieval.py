"""Requests that are answered together, and what is wrong with some of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merlin_poeem import Index, open_searcher
from merlin_poeem.serving.retrieval import Answer, Retrieval
from tests.index_factories import (
    assert_answers,
    random_id_lists,
    random_index,
    random_queries,
)
from tests.serving.served import answered, candidates_of, exported, request_of

TITLES = "title"


def with_table(index: Index) -> Index:
    """Titles of all items but one, of which nothing is known."""
    ids = index.item_ids
    titles = [f"Überfilm {item_id}" for item_id in ids]
    return index.with_item_table(pd.DataFrame({"item_id": ids, "title": titles}).iloc[1:])


@pytest.fixture(scope="module")
def index() -> Index:
    return with_table(random_index(vectors="float16"))


@pytest.fixture(scope="module")
def retrieval(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Retrieval:
    folder = tmp_path_factory.mktemp("served")
    return Retrieval(exported(index, folder, k=7, largest_k=50, titles=TITLES))


@given(data=st.data())
def test_each_request_gets_its_own_answer(index: Index, retrieval: Retrieval, data) -> None:
    requests, asked = [], []
    for number in range(data.draw(st.integers(1, 5))):
        queries = random_queries(index, data.draw(st.integers(1, 4)), seed=number)
        options: dict[str, Any] = {
            "k": data.draw(st.sampled_from([None, 1, 20])),
            "n_probes": data.draw(st.sampled_from([None, 1, 8])),
            "refine": data.draw(st.sampled_from([None, 0, 2])),
        }
        for name in ("exclude", "allow"):
            if data.draw(st.booleans()):
                options[name] = random_id_lists(index, len(queries), 90, seed=number)
        requests.append(request_of(queries, **options))
        asked.append((queries, options))
    for answer, (queries, options) in zip(retrieval.answer(requests), asked, strict=True):
        found = candidates_of(answered(answer))
        assert_answers(index, found, queries, **{**options, "k": options["k"] or 7})


def test_rows_have_options_of_their_own(index: Index, retrieval: Retrieval) -> None:
    queries = random_queries(index, 4)
    wanted = {"k": [3, 9, 3, 1], "n_probes": [1, 8, 8, 2], "refine": [0, 0, 3, 1]}
    (answer,) = retrieval.answer([request_of(queries, **wanted)])
    arrays = answered(answer)
    assert arrays["scores"].shape == arrays["item_ids"].shape == (4, 9)
    assert arrays["counts"].dtype == np.int32
    found = candidates_of(arrays)
    searcher = open_searcher(index, "faiss")
    for row, (k, n_probes, refine) in enumerate(zip(*wanted.values(), strict=True)):
        alone = searcher.search(queries[[row]], k=k, n_probes=n_probes, refine=refine)
        scores, item_ids = found[row]
        np.testing.assert_array_equal(item_ids, alone.item_ids)
        np.testing.assert_array_equal(scores, alone.scores)


def test_titles(index: Index, retrieval: Retrieval) -> None:
    queries = random_queries(index, 3)
    request = request_of(queries, k=50, n_probes=8, exclude=[index.item_ids[40:].tolist()] * 3)
    with_titles, without = retrieval.answer([request, request], [{"titles"}, {"item_ids"}])
    arrays = answered(with_titles)
    assert "titles" not in answered(without)
    unknown = int(index.item_ids[0])
    assert unknown in arrays["item_ids"]
    counts = arrays["counts"].reshape(-1)
    assert (counts < 50).any()
    for ids, titles, count in zip(arrays["item_ids"], arrays["titles"], counts, strict=True):
        for place, (item_id, title) in enumerate(zip(ids, titles, strict=True)):
            is_known = place < count and item_id != unknown
            assert title.decode() == (f"Überfilm {item_id}" if is_known else "")


def wrong(queries: np.ndarray, **changed: Any) -> dict[str, np.ndarray]:
    return {**request_of(queries), **changed}


ONES = np.ones((2, 1), np.int32)
IDS = np.full((2, 3), 5, np.int64)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"k": 0 * ONES}, ValueError, "k: expected 1 to 50, got 0 in row 0"),
        (
            {"k": np.array([[3], [51]], np.int32)},
            ValueError,
            "k: expected 1 to 50, got 51 in row 1",
        ),
        ({"k": ONES.astype(np.float32)}, TypeError, "k: expected integers, got float32"),
        ({"k": np.ones((2, 2), np.int32)}, ValueError, r"k: expected shape \(n, 1\)"),
        ({"k": ONES[:1]}, ValueError, "k: expected 2 rows, as the others have; got 1"),
        ({"n_probes": 9 * ONES}, ValueError, "n_probes: expected 1 to 8, got 9 in row 0"),
        ({"refine": -ONES}, ValueError, "refine: expected at least 0"),
        ({"exclude": IDS.astype(np.float64)}, TypeError, "exclude: expected int64, got float64"),
        ({"exclude": IDS.reshape(-1)}, ValueError, "exclude: expected 2 rows"),
        ({"exclude": IDS, "exclude_count": 4 * ONES}, ValueError, "counts from 0 to 3, the width"),
        ({"allow": IDS, "allow_count": -ONES}, ValueError, "allow_count: .*got -1 in row 0"),
        ({"allow_count": ONES}, ValueError, "allow_count: expected allow beside it, got none"),
        ({"seen": IDS}, ValueError, "seen: expected one of .*'exclude'"),
        ({"query_vector": np.zeros((2, 15), np.float32)}, ValueError, r"shape \(n, 16\)"),
        ({"query_vector": np.zeros((2, 16))}, TypeError, "query_vector: expected float32"),
        ({"query_vector": np.full((2, 16), np.nan, np.float32)}, ValueError, "query_vector: .*NaN"),
    ],
)
def test_a_wrong_request_hurts_no_other(
    index: Index,
    retrieval: Retrieval,
    changed: dict[str, np.ndarray],
    error: type[Exception],
    message: str,
) -> None:
    queries = random_queries(index, 2)
    right = request_of(queries)
    first, answer, last = retrieval.answer([right, wrong(queries, **changed), right])
    assert isinstance(answer, error)
    with pytest.raises(error, match=message):
        answered(answer)
    for other in (first, last):
        assert_answers(index, candidates_of(answered(other)), queries, k=7)


def test_a_request_without_its_vectors(retrieval: Retrieval) -> None:
    empty, without = retrieval.answer([{}, {"k": ONES}])
    assert "request: expected tensors" in str(empty)
    assert "query_vector: expected it in the request, got ['k']" in str(without)


def test_rows_that_get_fewer_are_counted(index: Index, retrieval: Retrieval) -> None:
    queries = random_queries(index, 2)
    few = [index.item_ids[:3].tolist(), index.item_ids[:40].tolist()]
    (answer,) = retrieval.answer([request_of(queries, k=10, n_probes=8, allow=few)])
    assert isinstance(answer, Answer)
    assert answer.n_short == 1


def test_item_keys(tmp_path: Path) -> None:
    index = random_index()
    codes = replace(index.item_codes, item_ids=np.arange(len(index)) * 2)
    plain = Index.from_codes(index.params, index.quantization, codes)
    keys = [f"Größe-{item_id}" for item_id in plain.item_ids]
    table = pd.DataFrame({"item_id": plain.item_ids, "item_key": keys})
    keyed = plain.with_item_table(table).with_item_keys()
    retrieval = Retrieval(exported(keyed, tmp_path))
    queries = random_queries(plain, 2)
    whole = open_searcher(plain, "reference").search(queries, k=6)
    texts = [[f"Größe-{i}".encode() for i in whole[row][1][:2]] for row in range(2)]
    texts[0].append(b"unknown")
    exclude = np.full((2, 3), b"", object)
    for row, of_row in enumerate(texts):
        exclude[row, : len(of_row)] = of_row
    counts = np.array([[3], [2]], np.int32)
    request = {**request_of(queries, k=4), "exclude": exclude, "exclude_count": counts}
    bad = {**request, "exclude": np.full((2, 3), b"\xff", object)}
    answer, refused = retrieval.answer([request, bad])
    assert isinstance(refused, ValueError)
    assert "exclude: expected texts in UTF-8, got b'\\xff' in row 0" in str(refused)
    found = answered(answer)["item_ids"]
    for row in range(2):
        assert [key.decode() for key in found[row]] == [f"Größe-{i}" for i in whole[row][1][2:]]
