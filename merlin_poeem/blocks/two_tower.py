"""Attach an IVFPQQuantizer to Merlin's two-tower models: one line each for V1 and V2.

The quantizer must be the last layer of the item tower, and of no other: the codes are then the
codes of the very vectors that the model scores. What would break that is refused here by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import merlin.models.tf as mm
import tensorflow as tf
from merlin.schema import Schema

from merlin_poeem.blocks.list_agreement import ListAgreement
from merlin_poeem.blocks.quantizer import IVFPQQuantizer
from merlin_poeem.blocks.temperature import Temperature


def QuantizedTwoTowerModel(
    schema: Schema,
    query_tower: mm.Block,
    quantizer: IVFPQQuantizer,
    item_tower: mm.Block | None = None,
    *,
    prediction_tasks: Any = None,
    logits_temperature: float = 1.0,
    samplers: Sequence[Any] = (),
    **kwargs: Any,
) -> mm.RetrievalModel:
    """``mm.TwoTowerModel`` with ``quantizer`` as the last layer of its item tower.

    Parameters
    ----------
    schema, query_tower, item_tower, **kwargs
        As of ``mm.TwoTowerModel``; the item tower is a copy of the query tower where none is given.
    prediction_tasks, logits_temperature, samplers
        As of ``mm.TwoTowerModel``, except that the temperature acts here: Merlin's release leaves
        the logits of this model as they are.
    quantizer
        A new quantizer. With metric ``cosine`` the query tower is normalised here, and the item
        tower by the quantizer.

    Raises
    ------
    ValueError
        ``l2_normalization=True`` or ``post=``, which would act after the quantizer; a tower that
        ends in a ReLU, or a query tower that holds a quantizer; a temperature or samplers beside
        ``prediction_tasks``, which has its own.
    """
    _refuse_layers_after(kwargs)
    item_tower = query_tower.copy() if item_tower is None else item_tower
    for name, tower in (("query_tower", query_tower), ("item_tower", item_tower)):
        _check_tower(name, tower)
    if quantizer.params.metric == "cosine":
        query_tower = query_tower.connect(mm.L2Norm())
    if prediction_tasks is None:
        scaling = None if logits_temperature == 1 else Temperature(logits_temperature)
        prediction_tasks = mm.ItemRetrievalTask(schema, list(samplers), post_logits=scaling)
    elif logits_temperature != 1 or samplers:
        raise ValueError("logits_temperature, samplers: expected none beside prediction_tasks")
    return mm.TwoTowerModel(
        schema,
        query_tower=query_tower,
        item_tower=item_tower.connect(quantizer),
        prediction_tasks=prediction_tasks,
        **{**kwargs, "post": _agreement(quantizer)},
    )


def QuantizedTwoTowerModelV2(
    query_tower: mm.Encoder,
    candidate_tower: mm.Encoder,
    quantizer: IVFPQQuantizer,
    **kwargs: Any,
) -> mm.RetrievalModelV2:
    """``mm.TwoTowerModelV2`` with ``quantizer`` as the last layer of its candidate tower.

    Parameters
    ----------
    query_tower, candidate_tower
        Two encoders, not yet built, without ``post=``.
    quantizer
        A new quantizer. With metric ``cosine`` the query tower is normalised here, and the
        candidate tower by the quantizer.
    **kwargs
        As of ``mm.TwoTowerModelV2``.

    Raises
    ------
    ValueError
        A tower with ``post=``, ending in a ReLU, or holding a quantizer; the same tower twice.
    """
    if query_tower is candidate_tower:
        raise ValueError("candidate_tower: expected another encoder than query_tower, got the same")
    for name, tower in (("query_tower", query_tower), ("candidate_tower", candidate_tower)):
        if tower.post is not None:
            raise ValueError(
                f"{name}: expected no post= (the quantizer goes there), got {tower.post.name}"
            )
        _check_tower(name, tower)
    if quantizer.params.metric == "cosine":
        query_tower.post = mm.L2Norm()
    candidate_tower.post = quantizer
    model = mm.TwoTowerModelV2(query_tower, candidate_tower, **kwargs)
    model.encoder.set_post(_agreement(quantizer))
    return model


def find_quantizer(model: tf.keras.Model) -> IVFPQQuantizer:
    """The quantizer of a model, however it was attached.

    Raises ``ValueError`` unless there is exactly one and it is the last layer of the item tower.
    """
    in_query = [q.name for q in _quantizers(query_tower_of(model))]
    if in_query:
        raise ValueError(
            f"query tower: expected no quantizer, got {', '.join(in_query)}; without an item_tower "
            "of its own a model copies the query tower: use QuantizedTwoTowerModel"
        )
    item_tower = item_tower_of(model)
    found = list(_quantizers(item_tower))
    if len(found) != 1:
        raise ValueError(f"item tower: expected one IVFPQQuantizer, got {len(found)}")
    quantizer, last = found[0], _last_layer(item_tower)
    if last != quantizer:
        raise ValueError(
            f"item tower: expected the quantizer to be the last layer, got {last.name} after it; "
            "normalise before the quantizer, not with l2_normalization=True or post="
        )
    return quantizer


def has_quantizer(model: tf.keras.Model) -> bool:
    """Whether a quantizer is anywhere in the model, at its place or not."""
    # Not of the model itself: Keras' state of a compiled model cannot always be walked through.
    towers = (query_tower_of(model), item_tower_of(model))
    return any(True for tower in towers for _ in _quantizers(tower))


def item_tower_of(model: tf.keras.Model) -> tf.keras.layers.Layer:
    """The item (candidate) tower of a V1 or V2 two-tower model; ``TypeError`` for other models."""
    if isinstance(model, mm.RetrievalModelV2):
        return model.candidate_encoder
    return _retrieval_block(model).item_block()


def query_tower_of(model: tf.keras.Model) -> tf.keras.layers.Layer:
    """The query (user) tower of a V1 or V2 two-tower model; ``TypeError`` for other models."""
    if isinstance(model, mm.RetrievalModelV2):
        return model.query_encoder
    return _retrieval_block(model).query_block()


def _retrieval_block(model: tf.keras.Model) -> Any:
    if not isinstance(model, mm.RetrievalModel):
        raise TypeError(f"model: expected a Merlin two-tower model, got {type(model).__name__}")
    block = model.retrieval_block
    if block.post is not None and not isinstance(block.post, ListAgreement):
        raise ValueError(f"post: expected None, got {block.post.name}, which acts on both towers")
    return block


def _agreement(quantizer: IVFPQQuantizer) -> ListAgreement | None:
    return ListAgreement(quantizer) if quantizer.agreement else None


def _refuse_layers_after(kwargs: dict[str, Any]) -> None:
    if kwargs.get("l2_normalization"):
        raise ValueError(
            "l2_normalization: expected False, as it would normalise after the quantizer; "
            "give the quantizer metric='cosine' instead"
        )
    if kwargs.get("post") is not None:
        raise ValueError("post: expected None, as it would act after the quantizer, on both towers")


def _check_tower(name: str, tower: Any) -> None:
    if list(_quantizers(tower)):
        raise ValueError(f"{name}: expected a tower without quantizer, it is attached here")
    activation = getattr(_last_layer(tower), "activation", None)
    if activation is tf.keras.activations.relu:
        raise ValueError(
            f"{name}: expected no activation in the last layer, got relu, which folds all vectors "
            "into one corner of the space; use MLPBlock(..., no_activation_last_layer=True)"
        )


def _quantizers(layer: tf.Module) -> Iterator[IVFPQQuantizer]:
    yield from (m for m in layer.submodules if isinstance(m, IVFPQQuantizer))


def _last_layer(layer: Any) -> Any:
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
