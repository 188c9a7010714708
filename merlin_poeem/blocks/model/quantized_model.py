"""The models that ``QuantizedTwoTowerModel`` and its V2 return: Merlin's, and what it leaves open.

Their ``fit`` starts the index by itself, a feature that is not finite stops it by name, ``save``
takes seconds, and what was saved trains on as before.
"""

from __future__ import annotations

import os
from typing import Any

import merlin.models.tf as mm
import tensorflow as tf
from merlin.models.tf.losses import loss_registry

from merlin_poeem.blocks.model.horovod import SameOnAllRanks, n_processes
from merlin_poeem.blocks.model.index_start import IndexStart
from merlin_poeem.blocks.model.saving import save_model


class _Quantized(tf.keras.Model):
    """What both kinds add to Merlin's model."""

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        **kwargs: Any,
    ) -> tf.keras.callbacks.History:
        """As Merlin's, whose first arguments these are."""
        given = tf.nest.flatten([] if callbacks is None else callbacks)
        # A callback of batches takes time, if it does nothing too.
        shared = [SameOnAllRanks()] if n_processes() > 1 else []
        callbacks = [IndexStart(), *shared, *given]
        return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """As Merlin's; ``InvalidArgumentError`` names a feature with NaN or infinity."""
        features, targets, weights = tf.keras.utils.unpack_x_y_sample_weight(data)
        features = {name: _finite(name, values) for name, values in features.items()}
        logs: dict[str, tf.Tensor] = super().train_step((features, targets, weights))
        return logs

    def save(
        self,
        export_path: str | os.PathLike[str],
        include_optimizer: bool = True,
        save_traces: bool = False,
        **options: Any,
    ) -> None:
        """:func:`~merlin_poeem.blocks.model.saving.save_model`, whose arguments these are."""
        save_model(self, export_path, include_optimizer, save_traces, **options)


@tf.keras.utils.register_keras_serializable(package="merlin_poeem")
class QuantizedRetrievalModel(_Quantized, mm.RetrievalModel):
    """What ``QuantizedTwoTowerModel`` returns."""

    @classmethod
    def of(cls, model: mm.RetrievalModel) -> QuantizedRetrievalModel:
        """A model of the blocks of ``model``, in its place, by its name."""
        return cls(*model.blocks, name=model.name)


@tf.keras.utils.register_keras_serializable(package="merlin_poeem")
class QuantizedRetrievalModelV2(_Quantized, mm.RetrievalModelV2):
    """What ``QuantizedTwoTowerModelV2`` returns."""

    @classmethod
    def of(cls, model: mm.RetrievalModelV2) -> QuantizedRetrievalModelV2:
        """A model of the encoder and output of ``model``, in its place, by its name."""
        return cls(query=model.encoder, output=model.last, schema=model.schema, name=model.name)

    def get_config(self) -> dict[str, Any]:
        """Merlin's, and what that leaves out of its outputs."""
        corrected = [o.name for o in self.model_outputs if _corrects_sampling(o)]
        return {**super().get_config(), "logq_sampling_correction": corrected}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> QuantizedRetrievalModelV2:
        """The model of a saved configuration, also of one from before there was this class."""
        corrected = config.pop("logq_sampling_correction", [])
        model: QuantizedRetrievalModelV2 = super().from_config(config, custom_objects)
        for output in model.model_outputs:
            if output.name in corrected:
                output.logq_sampling_correction = True
            # Merlin saves the name of a loss, and loads Keras' function of that name, which takes
            # logits for probabilities. By its name, compile finds Merlin's own loss.
            name = getattr(output.default_loss, "__name__", None)
            if name in loss_registry:
                output.default_loss = name
        return model


def _corrects_sampling(output: Any) -> bool:
    return bool(getattr(output, "logq_sampling_correction", False))


def _finite(name: str, values: Any) -> Any:
    """A feature's values, which a training step may only take if they are finite."""
    # Ragged and sparse ones Merlin refuses itself.
    if not isinstance(values, tf.Tensor) or not values.dtype.is_floating:
        return values
    message = (
        f"column {name.removesuffix('__values')!r}: expected finite values, as one NaN or infinity "
        "is enough to ruin a model; fill in or drop such rows of the training data"
    )
    with tf.control_dependencies([tf.debugging.assert_all_finite(values, message)]):
        return tf.identity(values)
