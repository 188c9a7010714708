"""What each row of a request asks for itself: k, n_probes, refine, filters; keys and titles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("tritonclient.grpc")
pytest.importorskip("faiss")

from merlin_poeem import Candidates, Index
from merlin_poeem.search import reference
from tests.index_factories import assert_answers, random_id_lists, random_index, random_queries
from tests.serving.real_server.conftest import Serve
from tests.serving.real_server.wire import ASKS, Ask, Tensors, id_lists, options
from workflows.serving.triton_server import TritonServer

N_ROWS = 24
INDEX = random_index(vectors="float16")
QUERIES = random_queries(INDEX, N_ROWS)


def table_of(index: Index) -> pd.DataFrame:
    """Keys and titles of the items, some titles missing, some not of ASCII."""
    ids = index.item_ids
    titles = [None if i % 5 == 0 else f"Título {i} „x“" for i in ids.tolist()]
    keys = [f"film-{i % 2**40}" for i in ids.tolist()]
    return pd.DataFrame({"item_id": ids, "title": titles, "item_key": keys})


@pytest.fixture(scope="module")
def index() -> Index:
    return INDEX.with_item_table(table_of(INDEX).drop(columns="item_key"))


@pytest.fixture(scope="module")
def model(serve: Serve, index: Index) -> str:
    return serve(index, "options", k=7, largest_k=500, titles="title").name


@pytest.fixture(params=ASKS)
def ask(request: pytest.FixtureRequest) -> Ask:
    return ASKS[request.param]


def assert_each_row(index: Index, found: Candidates, rows: list[dict[str, Any]]) -> None:
    """Row i is the answer to query i with ``rows[i]``."""
    for i, asked in enumerate(rows):
        scores, item_ids = found[i]
        alone = Candidates(np.array([len(scores)]), scores, item_ids)
        assert_answers(index, alone, QUERIES[i : i + 1], **asked)


def test_each_row_has_its_own(triton: TritonServer, model: str, index: Index, ask: Ask) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {
            "k": int(rng.integers(1, 60)),
            "n_probes": int(rng.integers(1, INDEX.n_lists + 1)),
            "refine": int(rng.choice([0, 1, 3])),
            "exclude": [exclude],
            "allow": [allow],
        }
        for exclude, allow in zip(
            random_id_lists(INDEX, N_ROWS, 150, seed=2),
            random_id_lists(INDEX, N_ROWS, 300, seed=3),
            strict=True,
        )
    ]
    names = ("k", "n_probes", "refine")
    tensors: Tensors = {"query_vector": QUERIES}
    tensors |= options(N_ROWS, **{name: [row[name] for row in rows] for name in names})
    for name in ("exclude", "allow"):
        tensors |= id_lists(name, [row[name][0] for row in rows])
    answer = ask(triton, model, tensors)
    assert answer.tensors["item_ids"].shape == (N_ROWS, max(row["k"] for row in rows))
    assert_each_row(index, answer.candidates(), rows)


def test_without_options(triton: TritonServer, model: str, index: Index, ask: Ask) -> None:
    found = ask(triton, model, {"query_vector": QUERIES}).candidates()
    assert_answers(index, found, QUERIES, k=7)


def test_without_counts_all_of_a_row_counts(triton: TritonServer, model: str, ask: Ask) -> None:
    best = reference.search(INDEX, QUERIES, k=7).padded(7, fill_id=-1)[1]
    tensors = {"query_vector": QUERIES, "exclude": best}
    found = ask(triton, model, tensors).candidates()
    assert_answers(INDEX, found, QUERIES, k=7, exclude=list(best))


def test_an_allow_list_without_items_allows_none(
    triton: TritonServer, model: str, ask: Ask
) -> None:
    lists = [[], INDEX.item_ids[:3]]
    tensors = {"query_vector": QUERIES[:2], **id_lists("allow", lists)}
    found = ask(triton, model, {**tensors, **options(2, n_probes=INDEX.n_lists)}).candidates()
    assert found.counts.tolist() == [0, 3]


def test_titles(triton: TritonServer, model: str, index: Index, ask: Ask) -> None:
    answer = ask(triton, model, {"query_vector": QUERIES, **options(N_ROWS, k=[3, 400] * 12)})
    found = answer.candidates()
    titles = table_of(index).fillna("").set_index("item_id")["title"]
    expected = [titles[found[i][1]].tolist() for i in range(len(found))]
    assert answer.texts("titles") == expected


def test_only_the_outputs_that_are_asked_for(triton: TritonServer, model: str, ask: Ask) -> None:
    wanted = ("titles", "counts")
    answer = ask(triton, model, {"query_vector": QUERIES[:1]}, wanted)
    assert sorted(answer.tensors) == sorted(wanted)


@pytest.fixture(scope="module")
def keyed(serve: Serve) -> str:
    with_keys = INDEX.with_item_table(table_of(INDEX)).with_item_keys()
    return serve(with_keys, "keys", k=20).name


def test_item_keys(triton: TritonServer, keyed: str, ask: Ask) -> None:
    best = reference.search(INDEX, QUERIES[:3], k=20)
    key_of = table_of(INDEX).set_index("item_id")["item_key"]
    keys = [key_of[best[i][1]].tolist() for i in range(3)]
    first = ask(triton, keyed, {"query_vector": QUERIES[:3]})
    np.testing.assert_array_equal(first.tensors["counts"][:, 0], best.counts)
    assert [set(row) for row in first.texts("item_ids")] == [set(row) for row in keys]
    excluded = [keys[0][:4], [], [*keys[2], "no film's key"]]
    tensors = {"query_vector": QUERIES[:3], **id_lists("exclude", excluded)}
    second = ask(triton, keyed, tensors).texts("item_ids")
    assert second[1] == first.texts("item_ids")[1]
    assert not set(second[0]) & set(keys[0][:4])
    assert not set(second[2]) & set(keys[2])
    assert set(keys[0][4:]) <= set(second[0])
