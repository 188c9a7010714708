"""Sentence encoders by name: WordLlama, and SavedModels of texts, as TF-Hub's NNLM is one."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from merlin_poeem import TextIndex, encoders
from merlin_poeem.encoders import NNLM, open_encoder

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow"
)
needs_wordllama = pytest.mark.skipif(
    importlib.util.find_spec("wordllama") is None, reason="needs wordllama"
)
WIDTH = 16
WORDS = ("flood", "damage", "council", "hospital", "harvest", "swimmers", "trade", "talks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel that sums hashed words' vectors."""
    import tensorflow as tf

    class Sentences(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = tf.Variable(tf.random.stateless_normal((512, WIDTH), seed=(1, 2)))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts: tf.Tensor) -> tf.Tensor:
            words = tf.strings.split(texts)
            rows = tf.strings.to_hash_bucket_fast(words.values, 512)
            return tf.math.segment_sum(tf.gather(self.table, rows), words.value_rowids())

    path = tmp_path_factory.mktemp("sentences")
    tf.saved_model.save(Sentences(), str(path))
    return path


@needs_tensorflow
class TestSavedModel:
    def test_opens_a_text_index(self, folder: Path, tmp_path: Path) -> None:
        pytest.importorskip("faiss")
        encoder = open_encoder(f"saved-model:{folder}")
        vectors = encoder(["flood damage", "flood", "damage"])
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors[0], vectors[1] + vectors[2], rtol=1e-5, atol=1e-5)
        texts = [" ".join(np.random.default_rng(i).choice(WORDS, 4)) for i in range(300)]
        frame = pd.DataFrame({"item_id": np.arange(300), "text": texts})
        TextIndex.build(frame, encoder).save(tmp_path / "texts.index")
        loaded = TextIndex.load(tmp_path / "texts.index", open_encoder(f"saved-model:{folder}"))
        found = loaded.search(texts[:30], k=1)
        same_words = [
            sorted(a.split()) == sorted(b.split()) for a, b in found[["query", "text"]].to_numpy()
        ]
        assert np.mean(same_words) > 0.9

    def test_tf_hub_is_asked_for_what_was_named(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import tensorflow as tf

        asked = []

        def load(handle: str) -> object:
            asked.append(handle)
            return tf.saved_model.load(str(folder))

        monkeypatch.setitem(sys.modules, "tensorflow_hub", SimpleNamespace(load=load))
        vectors = open_encoder(f"tf-hub:{NNLM}")(["flood damage"])
        assert asked == [NNLM]
        np.testing.assert_array_equal(
            vectors, open_encoder(f"saved-model:{folder}")(["flood damage"])
        )

    def test_a_missing_model_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="SavedModel file does not exist"):
            open_encoder(f"saved-model:{tmp_path}")


class TestWordLlama:
    @needs_wordllama
    def test_meaning(self) -> None:
        encoder = open_encoder("wordllama")
        one, like, unlike = encoder(["doctors at the hospital", "a nurse's clinic", "gold medal"])
        assert one.dtype == np.float32
        assert one @ like > one @ unlike

    def test_leaves_logging_alone(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        root = logging.getLogger()
        before = root.level, list(root.handlers)

        def noisy_import(name: str, remedy: str) -> SimpleNamespace:
            # As the package does when it is first imported, which another test may have done.
            root.setLevel(logging.INFO)
            root.addHandler(logging.NullHandler())
            model = SimpleNamespace(load=lambda **options: SimpleNamespace(embed=len))
            return SimpleNamespace(__file__=str(tmp_path / "__init__.py"), WordLlama=model)

        monkeypatch.setattr(encoders, "_import", noisy_import)
        assert encoders.wordllama() is len
        assert (root.level, root.handlers) == before


@pytest.mark.parametrize(
    ("missing", "name", "message"),
    [
        (
            "wordllama",
            "wordllama",
            r"needs wordllama: pip install 'merlin-poeem\[text\]' on Python",
        ),
        ("tensorflow_hub", "tf-hub:x", "needs tensorflow-hub: pip install tensorflow-hub"),
        ("tensorflow", "saved-model:x", "needs tensorflow: pip install tensorflow"),
    ],
)
def test_what_to_install(
    missing: str, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=message):
        open_encoder(name)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("bert", ValueError, "encoder: expected wordllama, tf-hub:HANDLE .* got 'bert'"),
        ("wordllama:x", ValueError, "got 'wordllama:x'"),
        ("tf-hub:", ValueError, "got 'tf-hub:'"),
        ("saved-model", ValueError, "got 'saved-model'"),
        (len, TypeError, "encoder: expected a name, got <built-in function len>"),
    ],
)
def test_other_names(name: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_encoder(name)
