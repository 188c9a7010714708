"""What our models add to Merlin's: a check of the features, and a save after which all goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import merlin.models.tf as mm
import numpy as np
import pytest
import tensorflow as tf
from merlin.io import Dataset
from merlin.schema import ColumnSchema, Schema, Tags

from merlin_poeem.blocks import (
    IndexStart,
    batch_predict,
    export_index,
    find_quantizer,
    item_vectors,
    query_vectors,
    top_k_encoder,
    tower_fingerprints,
)
from merlin_poeem.blocks.export.query_tower import save_query_tower
from merlin_poeem.blocks.model import horovod
from tests.blocks import toy

BUILDS = pytest.mark.parametrize("build", [toy.v1, toy.v2], ids=["V1", "V2"])


def measured(model: Any) -> dict[str, float]:
    data = Dataset(toy.interactions(), schema=toy.SCHEMA)
    # Merlin's metrics put items of equal score in an order that is drawn.
    tf.keras.utils.set_random_seed(0)
    return model.evaluate(data, batch_size=128, verbose=0, return_dict=True)


@BUILDS
@pytest.mark.parametrize("compiled", [True, False])
def test_a_loaded_model_compiled_anew_has_the_loss_and_metrics_that_it_had(
    build: Any, compiled: bool, saved_toy: Any
) -> None:
    """Merlin's own V2 takes logits for probabilities from then on."""
    model = toy.trained_model(build)
    model.compile("adam", run_eagerly=True)
    loaded = tf.keras.models.load_model(saved_toy(build), compile=compiled)
    loaded.compile("adam", run_eagerly=True)
    expected, got = measured(model), measured(loaded)
    assert got.keys() == expected.keys()
    np.testing.assert_allclose(
        [got[name] for name in expected], list(expected.values()), rtol=1e-4, atol=1e-6
    )
    quantizers = find_quantizer(model), find_quantizer(loaded)
    for name in ("step", "warmup_steps", "is_started", "n_sampled"):
        before, after = (getattr(quantizer, name).numpy() for quantizer in quantizers)
        assert before == after


def own_loss(targets: Any, predictions: Any) -> Any:
    return tf.reduce_mean(predictions - targets, axis=-1)


def test_what_merlin_leaves_out_of_an_outputs_configuration(tmp_path: Path) -> None:
    class Popular(mm.InBatchSamplerV2):
        def with_sampling_probs(self, items: Any) -> Any:
            return items.with_sampling_prob(tf.fill((tf.shape(items.id)[0], 1), 0.5))

    model = toy.v2(
        toy.make_quantizer(),
        negative_samplers=[Popular()],
        logits_temperature=0.3,
        logq_sampling_correction=True,
        downscore_false_negatives=False,
    )
    config = model.get_config()
    with tf.keras.utils.custom_object_scope({"Popular": Popular}):
        output = type(model).from_config(config).last
    assert output.logq_sampling_correction
    assert not output.downscore_false_negatives
    assert output.logits_temperature == 0.3
    assert output.default_loss == "categorical_crossentropy"
    assert [type(sampler) for sampler in output.negative_samplers] == [Popular]
    # A loss of one's own stays what it is.
    config = toy.v2(toy.make_quantizer(), default_loss=own_loss).get_config()
    with tf.keras.utils.custom_object_scope({"own_loss": own_loss}):
        assert type(model).from_config(config).last.default_loss is own_loss
    # A model that was saved before had no such entry.
    config = toy.v2(toy.make_quantizer()).get_config()
    del config["logq_sampling_correction"]
    assert not type(model).from_config(config).last.logq_sampling_correction


@BUILDS
def test_a_save_holds_no_trace_of_a_layer_and_a_function_that_serves(
    build: Any, saved_toy: Any
) -> None:
    saved = tf.saved_model.load(str(saved_toy(build)))
    assert list(saved.signatures) == ["serving_default"]
    inputs = {name: tf.constant([[1], [2]], tf.int64) for name in toy.SCHEMA.column_names}
    specs = saved.signatures["serving_default"].structured_input_signature[1]
    inputs = {name: tf.reshape(inputs[name], (-1, *spec.shape[1:])) for name, spec in specs.items()}
    (scores,) = saved.signatures["serving_default"](**inputs).values()
    model = toy.trained_model(build)
    np.testing.assert_allclose(scores, tf.nest.flatten(model(inputs))[0], atol=1e-5)
    assert (saved_toy(build) / "saved_model.pb").stat().st_size < 500_000
    assert (saved_toy(build) / ".merlin" / "output_schema.json").exists()


def test_keras_checkpoints_it(tmp_path: Path) -> None:
    model = toy.v1(toy.make_quantizer())
    checkpoint = tf.keras.callbacks.ModelCheckpoint(str(tmp_path / "best"))
    toy.train(model, callbacks=[checkpoint], run_eagerly=True)
    loaded = tf.keras.models.load_model(tmp_path / "best")
    assert tower_fingerprints(loaded) == tower_fingerprints(model)


STAND_IN = """
import sys
import merlin.models.tf
import tensorflow as tf
try:
    model = tf.keras.models.load_model(sys.argv[1])
except ValueError as error:
    print("load_model:", error)
else:
    from merlin_poeem.blocks import export_index
    try:
        export_index(model, None)
    except TypeError as error:
        print(error)
"""


def test_a_model_loaded_before_its_classes_were_imported(saved_toy: Any) -> None:
    command = [sys.executable, "-c", STAND_IN, str(saved_toy(toy.v2))]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "merlin_poeem>QuantizedRetrievalModelV2" in run.stdout
    assert "import merlin_poeem.blocks before tf.keras.models.load_model" in run.stdout


@pytest.mark.parametrize(
    "use",
    [
        lambda model: export_index(model, toy.ITEMS),
        lambda model: item_vectors(model, toy.ITEMS),
        lambda model: query_vectors(model, toy.USERS),
        lambda model: top_k_encoder(model, export_index(toy.trained_model(toy.v1), toy.ITEMS)),
        lambda model: next(batch_predict(model, toy.USERS)),
        lambda model: save_query_tower(model, "nowhere"),
        find_quantizer,
        tower_fingerprints,
    ],
)
def test_whatever_takes_a_model_says_what_to_import(use: Any) -> None:
    stand_in = type("merlin_poeem>QuantizedRetrievalModel", (tf.keras.Model,), {})()
    with pytest.raises(TypeError, match=r"import merlin_poeem\.blocks before tf\.keras"):
        use(stand_in)


@BUILDS
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_stops_the_training_by_name(build: Any, value: float) -> None:
    price = ColumnSchema("price", [Tags.ITEM, Tags.CONTINUOUS], dtype=np.float32)
    schema = Schema([*toy.SCHEMA, price])
    rows = toy.interactions().assign(price=np.float32(1))
    rows.loc[200, "price"] = value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "SCHEMA", schema)
        model = build(toy.make_quantizer())
    model.compile("adam", metrics=[])
    with pytest.raises(tf.errors.InvalidArgumentError, match="column 'price': expected finite val"):
        model.fit(Dataset(rows, schema=schema), batch_size=128, verbose=0)


class FakeHorovod:
    """Two processes, of which this is the second."""

    def __init__(self) -> None:
        self.shared: list[list[str]] = []

    def size(self) -> int:
        return 2

    def rank(self) -> int:
        return 1

    def broadcast_variables(self, variables: Any, root_rank: int) -> None:
        assert root_rank == 0
        self.shared.append([variable.name for variable in variables])


@pytest.fixture
def fake_horovod(monkeypatch: pytest.MonkeyPatch) -> FakeHorovod:
    fake = FakeHorovod()
    monkeypatch.setattr(horovod, "backend", SimpleNamespace(hvd=fake, hvd_installed=True))
    monkeypatch.setitem(sys.modules, "horovod", SimpleNamespace(tensorflow=fake))
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", fake)
    return fake


def test_all_processes_get_the_quantizer_of_the_first(fake_horovod: FakeHorovod) -> None:
    model = toy.trained_model(toy.v1)
    callback = horovod.SameOnAllRanks()
    callback.set_model(model)
    for batch in range(horovod.INTERVAL + 1):
        callback.on_train_batch_end(batch)
    assert len(fake_horovod.shared) == 2
    callback.on_train_end()
    names = {variable.name for variable in find_quantizer(model).variables}
    assert [set(shared) for shared in fake_horovod.shared] == [names] * 3
    assert len(names) == len(fake_horovod.shared[0]) >= 12


def test_fit_brings_it_along_where_there_are_several_processes(
    fake_horovod: FakeHorovod, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought: list[Any] = []
    monkeypatch.setattr(mm.RetrievalModel, "fit", lambda *given, **_: brought.append(given[6]))
    model = toy.v1(toy.make_quantizer())
    model.fit(None)
    fake_horovod.size = lambda: 1  # type: ignore[method-assign]
    model.fit(None)
    kinds = [[type(callback) for callback in callbacks] for callbacks in brought]
    assert kinds == [[IndexStart, horovod.SameOnAllRanks], [IndexStart]]


def test_one_process_saves(fake_horovod: FakeHorovod, tmp_path: Path) -> None:
    toy.trained_model(toy.v1).save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_process_alone_has_nothing_to_share() -> None:
    callback = horovod.SameOnAllRanks()
    callback.set_model(None)  # it is not looked at
    callback.on_train_batch_end(0)
    assert horovod.is_first()
