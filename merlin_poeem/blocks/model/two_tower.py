"""Attach an IVFPQQuantizer to Merlin's two-tower models: one line each for V1 and V2.

The quantizer must be the last layer of the item tower, and of no other: the codes are then the
codes of the very vectors that the model scores. What would break that is refused here by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import merlin.models.tf as mm
import tensorflow as tf
from merlin.schema import Schema

from merlin_poeem.blocks.model.list_agreement import ListAgreement
from merlin_poeem.blocks.model.quantized_model import (
    QuantizedRetrievalModel,
    QuantizedRetrievalModelV2,
)
from merlin_poeem.blocks.model.seen_queries import SeenQueries
from merlin_poeem.blocks.model.temperature import Temperature
from merlin_poeem.blocks.model.towers import last_layer, quantizers_in
from merlin_poeem.blocks.quantizer.quantizer import IVFPQQuantizer


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
) -> QuantizedRetrievalModel:
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
    model = mm.TwoTowerModel(
        schema,
        query_tower=query_tower,
        item_tower=item_tower.connect(quantizer),
        prediction_tasks=prediction_tasks,
        **{**kwargs, "post": _after_towers(quantizer)},
    )
    return QuantizedRetrievalModel.of(model)


def QuantizedTwoTowerModelV2(
    query_tower: mm.Encoder,
    candidate_tower: mm.Encoder,
    quantizer: IVFPQQuantizer,
    **kwargs: Any,
) -> QuantizedRetrievalModelV2:
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
    towers = query_tower, candidate_tower
    model = QuantizedRetrievalModelV2.of(mm.TwoTowerModelV2(*towers, **kwargs))
    model.encoder.set_post(_after_towers(quantizer))
    return model


def _after_towers(quantizer: IVFPQQuantizer) -> mm.Block | None:
    """What takes the outputs of both towers, for what the quantizer learns of their pairs."""
    blocks: list[mm.Block] = []
    if quantizer.stretch:
        blocks.append(SeenQueries(quantizer))
    if quantizer.agreement:
        blocks.append(ListAgreement(quantizer))
    return mm.SequentialBlock(blocks) if len(blocks) > 1 else next(iter(blocks), None)


def _refuse_layers_after(kwargs: dict[str, Any]) -> None:
    if kwargs.get("l2_normalization"):
        raise ValueError(
            "l2_normalization: expected False, as it would normalise after the quantizer; "
            "give the quantizer metric='cosine' instead"
        )
    if kwargs.get("post") is not None:
        raise ValueError("post: expected None, as it would act after the quantizer, on both towers")


def _check_tower(name: str, tower: Any) -> None:
    if list(quantizers_in(tower)):
        raise ValueError(f"{name}: expected a tower without quantizer, it is attached here")
    activation = getattr(last_layer(tower), "activation", None)
    if activation is tf.keras.activations.relu:
        raise ValueError(
            f"{name}: expected no activation in the last layer, got relu, which folds all vectors "
            "into one corner of the space; use MLPBlock(..., no_activation_last_layer=True)"
        )
