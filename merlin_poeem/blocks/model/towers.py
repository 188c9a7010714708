"""Where the two towers of Merlin's models are, and the quantizer in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import merlin.models.tf as mm
import tensorflow as tf
from merlin.models.tf.core.combinators import SequentialBlock
from merlin.models.tf.transforms.features import Rename

from merlin_poeem.arrays import type_name
from merlin_poeem.blocks.model.beside_towers import BesideTowers
from merlin_poeem.blocks.quantizer.quantizer import IVFPQQuantizer


@dataclass(frozen=True)
class Towers:
    """The two towers of a model, and the quantizer in them; each is looked for once."""

    query: tf.keras.layers.Layer
    item: tf.keras.layers.Layer

    @classmethod
    def of(cls, model: tf.keras.Model) -> Towers:
        """Of a two-tower model, V1 or V2; ``TypeError`` for other models."""
        return cls(query_tower_of(model), item_tower_of(model))

    @property
    def has_quantizer(self) -> bool:
        """Whether a quantizer is anywhere in the towers, at its place or not."""
        # Not of the model itself: Keras' state of a compiled model cannot always be walked through.
        return any(True for tower in (self.query, self.item) for _ in quantizers_in(tower))

    @cached_property
    def quantizer(self) -> IVFPQQuantizer:
        """``ValueError`` unless there is exactly one and it is the last layer of the item tower."""
        in_query = [q.name for q in quantizers_in(self.query)]
        if in_query:
            raise ValueError(
                f"query tower: expected no quantizer, got {', '.join(in_query)}; without an "
                "item_tower of its own a model copies the query tower: use QuantizedTwoTowerModel"
            )
        found = list(quantizers_in(self.item))
        if len(found) != 1:
            raise ValueError(f"item tower: expected one IVFPQQuantizer, got {len(found)}")
        quantizer, last = found[0], last_layer(self.item)
        if last != quantizer:
            raise ValueError(
                f"item tower: expected the quantizer to be the last layer, got {last.name} after "
                "it; normalise before the quantizer, not with l2_normalization=True or post="
            )
        return quantizer


def find_quantizer(model: tf.keras.Model) -> IVFPQQuantizer:
    """The quantizer of a model, however it was attached.

    Raises ``ValueError`` unless there is exactly one and it is the last layer of the item tower.
    """
    return Towers.of(model).quantizer


def item_tower_of(model: tf.keras.Model) -> tf.keras.layers.Layer:
    """The item (candidate) tower of a V1 or V2 two-tower model; ``TypeError`` for other models."""
    refuse_stand_in(model)
    if isinstance(model, mm.RetrievalModelV2):
        return model.candidate_encoder
    return _retrieval_block(model).item_block()


def query_tower_of(model: tf.keras.Model) -> tf.keras.layers.Layer:
    """The query (user) tower of a V1 or V2 two-tower model; ``TypeError`` for other models."""
    refuse_stand_in(model)
    if isinstance(model, mm.RetrievalModelV2):
        return model.query_encoder
    return _retrieval_block(model).query_block()


def refuse_stand_in(model: Any) -> None:
    """``TypeError`` where ``model``, or a layer of it, is not of the class that was saved.

    Keras makes one up, of the registered name, for a class that was not imported when it loaded.
    """
    # Not its submodules: Keras' state of a compiled model cannot always be walked through.
    layers = model._flatten_layers() if isinstance(model, tf.keras.Model) else [model]
    names = list(dict.fromkeys(type(layer).__name__ for layer in layers if _is_stand_in(layer)))
    if names:
        raise TypeError(
            f"model: expected the classes that were saved, got Keras' stand-ins for "
            f"{', '.join(names[:3])}: import merlin_poeem.blocks before "
            "tf.keras.models.load_model, and load the model again"
        )


def _is_stand_in(layer: Any) -> bool:
    # Registered names are "package>Class", which no class statement can write.
    return ">" in type(layer).__name__


def _retrieval_block(model: tf.keras.Model) -> Any:
    if not isinstance(model, mm.RetrievalModel):
        raise TypeError(f"model: expected a Merlin two-tower model, got {type_name(model)}")
    block = model.retrieval_block
    for layer in _layers_of(block.post):
        # Ours look at what they pass on; the other is Merlin's own, and renames the columns.
        if not isinstance(layer, BesideTowers | Rename):
            raise ValueError(
                f"post: expected none, got {layer.name}, which acts on the vectors of both towers"
            )
    return block


def _layers_of(block: Any) -> list[Any]:
    """The layers of nested sequential blocks, of a layer itself, of None none."""
    if block is None:
        return []
    if isinstance(block, SequentialBlock):
        return [layer for inner in block.layers for layer in _layers_of(inner)]
    return [block]


def quantizers_in(layer: tf.Module) -> Iterator[IVFPQQuantizer]:
    """All quantizers anywhere in ``layer``."""
    yield from (m for m in layer.submodules if isinstance(m, IVFPQQuantizer))


def last_layer(layer: Any) -> Any:
    """The layer that acts last inside nested sequential blocks, towers and encoders."""
    while True:
        if getattr(layer, "post", None) is not None:
            layer = layer.post
        elif isinstance(layer, mm.Encoder):
            layer = layer.blocks[-1]
        elif getattr(layer, "block", None) is not None:
            layer = layer.block
        elif getattr(layer, "dense", None) is not None:
            layer = layer.dense
        elif getattr(layer, "layers", None) and not isinstance(layer, mm.ParallelBlock):
            layer = layer.layers[-1]
        else:
            return layer
