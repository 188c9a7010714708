"""Sentence encoders of TensorFlow: a SavedModel of texts, as TF-Hub's NNLM is one."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
from merlin_poeem.frames.text_index import TextIndex  # noqa: E402
from workflows import headlines  # noqa: E402
from workflows.encoders import NNLM, open_encoder  # noqa: E402

WIDTH = 16


class Sentences(tf.Module):
    """Sums of hashed words' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.Variable(tf.random.stateless_normal((512, WIDTH), seed=(1, 2)))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        words = tf.strings.split(texts)
        rows = tf.strings.to_hash_bucket_fast(words.values, 512)
        segments = words.value_rowids()
        return tf.math.segment_sum(tf.gather(self.table, rows), segments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sentences")
    tf.saved_model.save(Sentences(), str(path))
    return path


def test_a_saved_model_indexes_headlines(folder: Path, tmp_path: Path) -> None:
    encoder = open_encoder(f"saved-model:{folder}")
    vectors = encoder(["flood damage", "flood", "damage"])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[0], vectors[1] + vectors[2], rtol=1e-5, atol=1e-5)
    frame = headlines.simulate(300)
    headlines.build(frame, encoder, project_to=12).save(tmp_path / "h.index")
    texts = TextIndex.load(tmp_path / "h.index", open_encoder(f"saved-model:{folder}"))
    found = texts.search(frame["headline_text"].tolist()[:30], k=1)
    assert (found["query"] == found["headline_text"]).mean() > 0.9


def test_tf_hub_is_asked_for_what_was_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(handle: str) -> object:
        asked.append(handle)
        return tf.saved_model.load(str(folder))

    monkeypatch.setitem(sys.modules, "tensorflow_hub", SimpleNamespace(load=load))
    vectors = open_encoder(f"tf-hub:{NNLM}")(["flood damage"])
    assert asked == [NNLM]
    np.testing.assert_array_equal(vectors, Sentences()(tf.constant(["flood damage"])))


def test_a_missing_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="SavedModel file does not exist"):
        open_encoder(f"saved-model:{tmp_path}")
