"""IVFPQTopK: one trace, Merlin's TopKEncoder around it, and bare TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import merlin.models.tf as mm
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from merlin.io import Dataset
from merlin.schema import ColumnSchema, Schema, Tags

from merlin_poeem import Index, ItemCodes, ItemSet, IVFPQParams, Quantization
from merlin_poeem.blocks.in_graph import search as graph_search
from merlin_poeem.blocks.in_graph.predict import batch_predict, save_encoder
from merlin_poeem.blocks.in_graph.searcher import TensorFlowSearcher
from merlin_poeem.blocks.in_graph.state import FILL_ID
from merlin_poeem.blocks.in_graph.topk import IVFPQTopK
from merlin_poeem.quantization.params import METRICS
from merlin_poeem.search import reference
from merlin_poeem.search.ragged import Candidates, IdLists
from tests.index_factories import random_id_lists, random_index, random_queries
from tests.search import test_contract as contract

N_USERS, K = 40, 5
SCHEMA = Schema(
    [
        ColumnSchema(
            "user_id",
            dtype=np.int64,
            tags=[Tags.USER, Tags.USER_ID, Tags.CATEGORICAL],
            properties={"domain": {"min": 0, "max": N_USERS - 1, "name": "user_id"}},
        )
    ]
)
USERS = pd.DataFrame({"user_id": np.arange(N_USERS)})
FEATURES = {"user_id": tf.constant(np.arange(N_USERS)[:, None])}


@pytest.fixture(scope="module")
def index() -> Index:
    """With vectors, that a search which asks for nothing does not look at."""
    return random_index("cosine", rotation=True, n_probes=3, vectors="float16")


@pytest.fixture(scope="module")
def encoder(index: Index):
    """A TopKEncoder over ``index``, its query encoder with its first weights.

    Always the same ones: with others two scores may be so close that rounding decides.
    """
    tf.keras.utils.set_random_seed(0)
    layer = IVFPQTopK.from_index(index, k=K)
    tower = mm.MLPBlock([index.dim], no_activation_last_layer=True)
    encoder = mm.TopKEncoder(mm.Encoder(SCHEMA, tower), topk_layer=layer, k=K)
    encoder(FEATURES)
    return encoder


@pytest.fixture(scope="module")
def queries(encoder) -> np.ndarray:
    return encoder.blocks[0](FEATURES).numpy()


@pytest.fixture(scope="module")
def seen(index: Index) -> list[np.ndarray]:
    return random_id_lists(index, N_USERS, 60)


@pytest.fixture(scope="module")
def saved(encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "saved"
    save_encoder(encoder, path)
    return path


def assert_same(found, truth: Candidates) -> None:
    """``found`` (scores, ids, counts) is ``truth``, and filled up where that is short."""
    scores, item_ids = truth.padded(found[1].shape[1], fill_id=FILL_ID)
    np.testing.assert_array_equal(found[2], truth.counts)
    np.testing.assert_array_equal(found[1], item_ids)
    np.testing.assert_allclose(found[0], scores, rtol=1e-5, atol=1e-5)


def test_the_encoder_searches_and_takes_its_options_at_call_time(encoder, index, queries, seen):
    assert_same(encoder(FEATURES), reference.search(index, queries, k=K))
    ragged = tf.ragged.constant([ids.tolist() for ids in seen], dtype=tf.int64)
    found = encoder(FEATURES, k=300, n_probes=4, exclude=ragged)
    assert found.identifiers.dtype == tf.int64
    truth = reference.search(index, queries, k=300, n_probes=4, exclude=seen)
    assert (truth.counts < 300).any()
    assert_same(found, truth)
    found = encoder(FEATURES, k=9, n_probes=4, refine=3, exclude=ragged)
    truth = reference.search(index, queries, k=9, n_probes=4, refine=3, exclude=seen)
    assert_same(found, truth)
    assert_same(encoder(FEATURES, refine=tf.constant(2)), refined(index, queries, 2))
    sold_out = index.item_ids[::2]
    layer = encoder.topk_layer
    found = layer(queries, exclude=tf.constant(sold_out), allow=ragged)
    truth = reference.search(index, queries, k=K, exclude=[sold_out] * N_USERS, allow=seen)
    assert_same(found, truth)
    assert layer.search.experimental_get_tracing_count() == 1


def refined(index: Index, queries: np.ndarray, refine: int) -> Candidates:
    """Which differs from a search that looks once."""
    looked = reference.search(index, queries, k=K, refine=refine)
    plain = reference.search(index, queries, k=K, refine=0)
    assert not np.array_equal(looked.item_ids, plain.item_ids)
    return looked


def test_refine_of_the_layer_and_of_the_index(index, queries):
    looks = index.with_refine(3)
    for made_of, options, refine in ((looks, {}, 3), (index, {"refine": 2}, 2)):
        layer = IVFPQTopK.from_index(made_of, k=K, **options)
        assert layer.get_config()["refine"] == layer.refine == refine
        assert_same(layer(queries), refined(index, queries, refine))
    plain = IVFPQTopK.from_index(looks, k=K, refine=0)
    assert_same(plain(queries), reference.search(index, queries, k=K))
    stored = {weight.name: weight.dtype for weight in plain.weights if "vectors" in weight.name}
    assert set(stored.values()) == {tf.float16}
    assert sum(w.shape.num_elements() * w.dtype.size for w in plain.weights) < 300 * len(index)


def test_a_layer_without_vectors_cannot_look_again():
    index = random_index()
    message = "refine: expected 0, as the index holds no vectors"
    with pytest.raises(ValueError, match=f"{message}; got 4"):
        IVFPQTopK.from_index(index, refine=4)
    layer, queries = IVFPQTopK.from_index(index, k=3), random_queries(index, 2)
    assert not any("vector" in weight.name for weight in layer.weights)
    with pytest.raises(ValueError, match=f"{message}; got 2"):
        layer(queries, refine=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        layer(queries, refine=tf.constant(2))
    with pytest.raises(ValueError, match="store_vectors: expected float16 or int8, got 'float32'"):
        IVFPQTopK(3, 4, 2, 2, vectors="float32")


def test_queries_in_several_blocks(monkeypatch):
    monkeypatch.setattr(graph_search, "BLOCK_BYTES", 5 * 80 * graph_search.SCAN_BYTES)
    # Another kind of index than all others here: traced anew.
    index = random_index("cosine", n_lists=9)
    queries, lists = random_queries(index, 23), random_id_lists(index, 23, 50)
    searcher = TensorFlowSearcher(index)
    assert graph_search.queries_per_block(searcher.layer.state, *map(tf.constant, (4, 8, 0))) < 6
    contract.check(searcher, queries, k=4, n_probes=8, exclude=lists, allow=lists[::-1])


def test_a_second_look_in_several_blocks(monkeypatch):
    monkeypatch.setattr(graph_search, "BLOCK_BYTES", 5 * 80 * graph_search.SCAN_BYTES)
    index = random_index("l2", n_lists=9, vectors="int8")
    queries, lists = random_queries(index, 23), random_id_lists(index, 23, 50)
    searcher = TensorFlowSearcher(index)
    state = searcher.layer.state
    plain, looking = (
        graph_search.queries_per_block(state, *map(tf.constant, (4, 8, refine)))
        for refine in (0, 9)
    )
    assert looking < plain < 6
    contract.check(searcher, queries, k=4, n_probes=8, refine=9, exclude=lists)


def test_the_graph_holds_stock_operations_only(encoder):
    graph = encoder.topk_layer.search.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    assert not {node.op for node in nodes} & {"PyFunc", "EagerPyFunc", "PyFuncStateless"}


def test_equal_scores_of_different_lists_come_by_id():
    # Codes of the vectors themselves: the same codes in two lists score the same.
    rng = np.random.default_rng(0)
    quantization = Quantization(
        rng.standard_normal((2, 4)).astype("f4"),
        rng.standard_normal((2, 4, 2)).astype("f4"),
        encodes_residual=False,
    )
    ids = rng.permutation(64) - 32
    codes = ItemCodes(ids, np.arange(64, dtype=np.int32) % 2, np.full((64, 2), 3, np.uint8))
    for metric in ("inner_product", "l2"):
        params = IVFPQParams(n_lists=2, pq_dim=2, pq_bits=2, metric=metric)
        searcher = TensorFlowSearcher(Index.from_codes(params, quantization, codes))
        found = searcher.search(random_queries(searcher.index, 3), k=40, n_probes=2)
        np.testing.assert_array_equal(found.item_ids.reshape(3, 40), [np.arange(-32, 8)] * 3)


@pytest.mark.parametrize(("metric", "dtype"), [("inner_product", "int8"), ("l2", "float16")])
def test_equal_vectors_have_equal_scores_wherever_they_lie(metric, dtype):
    # A width that fills no registers, and more candidates than one thread takes.
    index = random_index(metric, n_items=3000, pq_dim=3, pq_len=7)
    alike = np.repeat(random_queries(index, 1, seed=7), len(index), axis=0)
    index = index.with_vectors(index.item_ids, alike, dtype)
    queries = random_queries(index, 31)
    found = IVFPQTopK.from_index(index, k=40)(queries, n_probes=8, refine=75)
    assert (found.scores.numpy() == found.scores.numpy()[:, :1]).all()
    np.testing.assert_array_equal(found.identifiers, [np.sort(index.item_ids)[:40]] * 31)


def test_evaluate(encoder, index, queries):
    found = reference.search(index, queries, k=K)
    positions = np.arange(N_USERS) % (K + 1)  # the last of them is a miss
    # Merlin's metrics put scores that are equal in an order of chance.
    scores = found.scores.reshape(N_USERS, K)
    positions[scores[:, 1] - scores[:, 2] < 1e-5] = K
    targets = [int(found[i][1][p]) if p < K else 7 for i, p in enumerate(positions)]
    encoder.compile(metrics=[mm.RecallAt(K), mm.RecallAt(2)], run_eagerly=False, k=K)
    data = tf.data.Dataset.from_tensors((FEATURES, tf.constant(targets)))
    recall = encoder.evaluate(data, verbose=0, return_dict=True)
    assert recall[f"recall_at_{K}"] == pytest.approx((positions < K).mean())
    assert recall["recall_at_2"] == pytest.approx((positions < 2).mean())
    assert 0 < recall["recall_at_2"] < recall[f"recall_at_{K}"] < 1


def test_evaluation_of_rows_that_are_short():
    index = random_index(n_items=2, n_lists=1, filled_lists=1, n_probes=1)
    layer = IVFPQTopK.from_index(index, k=4)
    queries = random_queries(index, 2)
    outcome = layer(queries, targets=tf.constant([FILL_ID, index.item_ids[0]]), testing=True)
    assert outcome.targets.numpy().sum(axis=1).tolist() == [0, 1]
    assert np.isfinite(outcome.outputs).all()
    assert np.isneginf(layer(queries).scores[:, 2:]).all()
    with pytest.raises(ValueError, match="targets: expected the item id"):
        layer(queries, testing=True)


def test_keras_loads_what_was_saved(encoder, saved, index, queries):
    loaded = tf.keras.models.load_model(saved)
    assert type(loaded.topk_layer) is IVFPQTopK
    assert_same(loaded(FEATURES), reference.search(index, queries, k=K))
    found = loaded(FEATURES, k=20, n_probes=4)
    assert_same(found, reference.search(index, queries, k=20, n_probes=4))
    assert_same(loaded(FEATURES, refine=3), refined(index, queries, 3))
    config = encoder.topk_layer.get_config()
    assert IVFPQTopK.from_config(config).get_config() == config


def test_merlin_batch_predict(encoder, index, queries):
    frame = encoder.batch_predict(Dataset(USERS, schema=SCHEMA), batch_size=16).to_ddf().compute()
    truth = reference.search(index, queries, k=K).item_ids.reshape(N_USERS, K)
    np.testing.assert_array_equal(frame[[f"id_{i}" for i in range(K)]], truth)


SCRIPT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("merlin", "merlin_poeem"):
            raise ImportError(name + " is not to be imported here")
sys.meta_path.insert(0, Refuse())
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
given = np.load(sys.argv[2])
inputs = {name: tf.constant(given[name]) for name in given.files}
plain = model.signatures["serving_default"](user_id=inputs["user_id"])
found = model.signatures["search"](**inputs)
np.savez(sys.argv[3], *(plain[n] for n in ("scores", "identifiers", "counts")),
         *(found[n] for n in ("scores", "identifiers", "counts")))
"""


def test_the_saved_model_runs_without_merlin(saved, index, queries, seen, tmp_path):
    lists = IdLists.from_rows(seen)
    chosen = {"k": np.int32(30), "n_probes": np.int32(3), "refine": np.int32(2)}
    inputs = {**chosen, "user_id": FEATURES["user_id"].numpy()}
    given, found = tmp_path / "given.npz", tmp_path / "found.npz"
    np.savez(given, exclude__values=lists.values, exclude__offsets=lists.offsets, **inputs)
    arguments = [str(saved), str(given), str(found)]
    subprocess.run([sys.executable, "-I", "-c", SCRIPT, *arguments], check=True, timeout=120)
    arrays = [array for _, array in sorted(np.load(found).items())]
    assert_same(arrays[:3], reference.search(index, queries, k=K))
    truth = reference.search(index, queries, k=30, n_probes=3, refine=2, exclude=seen)
    assert_same(arrays[3:], truth)


def test_save_encoder_needs_inputs(index):
    tower = mm.MLPBlock([index.dim])
    layer = IVFPQTopK.from_index(index)
    with pytest.raises(ValueError, match="expected one that has been called"):
        save_encoder(mm.TopKEncoder(mm.Encoder(SCHEMA, tower), topk_layer=layer), "nowhere")


@pytest.mark.parametrize("form", ["long", "list"])
def test_batch_predict(encoder, index, queries, seen, form):
    users = USERS.assign(seen=seen)
    dataset = Dataset(users, schema=SCHEMA, npartitions=3) if form == "long" else users
    options = {"k": 70, "n_probes": 3, "refine": 2}
    frames = batch_predict(encoder, dataset, exclude="seen", form=form, batch_size=7, **options)
    frame = pd.concat(frames, ignore_index=True)
    truth = reference.search(index, queries, exclude=seen, **options)
    if form == "list":
        np.testing.assert_array_equal(frame["user_id"], USERS["user_id"])
        np.testing.assert_array_equal(frame["count"], truth.counts)
        frame = pd.DataFrame({"item_id": np.concatenate(frame["item_id"])})
    else:
        np.testing.assert_array_equal(frame["user_id"], truth.query_numbers)
        assert frame["rank"].iloc[: truth.counts[0]].tolist() == [*range(1, truth.counts[0] + 1)]
    np.testing.assert_array_equal(frame["item_id"], truth.item_ids)


@pytest.mark.parametrize("given", [list, tuple, set, np.array, pd.Series, ItemSet])
def test_batch_predict_without_some_items_for_all(encoder, index, queries, given):
    best = reference.search(index, queries, k=3).item_ids[:5].tolist()
    found = next(batch_predict(encoder, USERS, exclude=given(best), batch_size=7))
    truth = reference.search(index, queries, k=K, exclude=ItemSet(np.array(best)))
    np.testing.assert_array_equal(found["item_id"], truth.item_ids)


def test_batch_predict_names_queries_by_texts(encoder):
    names = USERS["user_id"].map("user {}".format)
    found = next(batch_predict(encoder, USERS.assign(name=names), query_id="name"))
    expected = next(batch_predict(encoder, USERS))
    assert found["name"].tolist() == expected["user_id"].map("user {}".format).tolist()
    np.testing.assert_array_equal(found["item_id"], expected["item_id"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k: expected at least 1, got 0"),
        ({"exclude": 5.5}, TypeError, "exclude: expected a column's name, an ItemSet"),
        ({"frames": USERS.assign(user_id=-1)}, ValueError, "the schema's domain, got -1 in row 0"),
        ({"n_probes": 9}, ValueError, "at most n_lists = 8, got 9"),
        ({"exclude": "bought"}, ValueError, r"expected the columns \['bought'\]"),
        ({"form": "wide"}, ValueError, "form: expected long or list, got 'wide'"),
        ({"frames": USERS.assign(user_id=None)}, ValueError, "'user_id': expected no nulls"),
    ],
)
def test_batch_predict_refuses(encoder, change, error, message):
    with pytest.raises(error, match=message):
        next(batch_predict(encoder, **{"frames": USERS, **change}))


def test_batch_predict_wants_our_layer(index):
    candidates = tf.zeros((3, index.dim))
    tower = mm.Encoder(SCHEMA, mm.MLPBlock([index.dim]))
    with pytest.raises(TypeError, match=r"an IVFPQTopK layer, got merlin\.BruteForce"):
        next(batch_predict(mm.TopKEncoder(tower, candidates=candidates), USERS))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": tf.zeros((2, 15))}, ValueError, r"expected shape \(n, 16\), got \(2, 15\)"),
        ({"inputs": tf.fill((2, 16), np.nan)}, tf.errors.InvalidArgumentError, "finite values"),
        ({"inputs": tf.fill((2, 16), np.inf)}, tf.errors.InvalidArgumentError, "finite values"),
        ({"k": 0}, ValueError, "k: expected at least 1, got 0"),
        ({"k": tf.constant(0)}, tf.errors.InvalidArgumentError, "k: expected at least 1"),
        ({"n_probes": tf.constant(9)}, tf.errors.InvalidArgumentError, "at most n_lists = 8"),
        ({"refine": -1}, ValueError, "refine: expected at least 0, got -1"),
        ({"refine": tf.constant(-1)}, tf.errors.InvalidArgumentError, "refine: expected at least"),
        (
            {"exclude": tf.ragged.constant([[1]], dtype=tf.int64)},
            tf.errors.InvalidArgumentError,
            "exclude: expected as many lists as queries",
        ),
        (
            {"exclude": (tf.constant([1]), tf.constant([0, 1, 1, 1]))},
            tf.errors.InvalidArgumentError,
            "exclude: expected one list a query",
        ),
        *(
            (
                {"exclude": (tf.constant([7, 8, 9]), tf.constant(offsets))},
                tf.errors.InvalidArgumentError,
                "exclude offsets: expected to rise from 0 to the number of ids",
            )
            for offsets in ([0, 1, 2], [0, 2, 4], [1, 2, 3], [0, 4, 3], [0])
        ),
        (
            {"exclude": (tf.constant([1.5, 2]), tf.constant([0, 1, 2]))},
            TypeError,
            "exclude: expected integers, got float32",
        ),
        ({"allow": tf.constant([1.5])}, TypeError, "allow: expected integers, got float32"),
        ({"allow": tf.constant([[1], [2]])}, ValueError, "allow: expected a ragged"),
    ],
)
def test_the_layer_refuses(encoder, change, error, message):
    with pytest.raises(error, match=message):
        encoder.topk_layer(**{"inputs": tf.zeros((2, 16)), **change})


@pytest.mark.parametrize("metric", METRICS)
def test_values_whose_products_overflow(metric):
    layer = IVFPQTopK.from_index(random_index(metric), k=5)
    queries = tf.fill((2, 16), -2e15)
    if metric == "cosine":
        assert np.isfinite(layer(queries).scores).all()
        return
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"values of at most 1e\+15 in size"):
        layer(queries)


def test_the_id_that_fills_up_is_an_id_as_any_other(encoder, index, queries):
    best = reference.search(index, queries, k=1).item_ids[0]
    found = encoder.topk_layer(queries, exclude=tf.constant([FILL_ID, best]))
    truth = reference.search(index, queries, k=K, exclude=[[best]] * N_USERS)
    assert_same(found, truth)


def test_candidate_vectors_are_refused(encoder):
    with pytest.raises(NotImplementedError, match="expected an Index, got candidate vectors"):
        encoder.topk_layer.index(tf.zeros((3, 16)))
