"""Fingerprints of the towers: whether an index was exported from the model that it is used with.

A model that is trained on moves its vectors away from the centroids and codes of an index that was
exported before. Searching such an index gives worse results and no error, which is why
:func:`~merlin_poeem.blocks.export_index` keeps the fingerprints of both towers in
``index.info["fingerprints"]``: a dictionary of ``"query_tower"`` and ``"item_tower"``, hexadecimal
digits each. They are saved with the index, and stay through ``extend``, ``remove`` and
``with_n_probes``, which leave the quantization as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from merlin.models.tf.core.base import ModelContext

from merlin_poeem.blocks.model.towers import Towers
from merlin_poeem.blocks.quantizer.quantizer import IVFPQQuantizer
from merlin_poeem.index.index import Index

INFO_KEY = "fingerprints"
TOWERS = ("query_tower", "item_tower")

CHUNK_BYTES = 64 << 20
DIGITS = 16
_HEXADECIMAL = re.compile(rf"[0-9a-f]{{{DIGITS}}}")


class StaleIndexError(ValueError):
    """The index was exported from a model with other weights."""


def tower_fingerprints(model: tf.keras.Model) -> dict[str, str]:
    """``{"query_tower": ..., "item_tower": ...}`` of a two-tower model, V1 or V2.

    See ``tower_fingerprint``; ``TypeError`` for other models.
    """
    return fingerprints_of(Towers.of(model))


def fingerprints_of(towers: Towers) -> dict[str, str]:
    """:func:`tower_fingerprints` of a model whose towers are found."""
    return {
        "query_tower": tower_fingerprint(towers.query),
        "item_tower": tower_fingerprint(towers.item),
    }


def tower_fingerprint(tower: tf.keras.layers.Layer) -> str:
    """Sixteen hexadecimal digits of the weights that a tower computes vectors with.

    The same for a model saved and loaded, and for equal weights under other names, in another order
    or in another kind of model. Of a quantizer counts what an index is made with, and not its
    sample and counters; the optimizer does not count. Nor does what is no weight, such as the
    activation of a layer.

    Reads each weight once, a GB in a second or two, in chunks of ``CHUNK_BYTES``. ``ValueError``
    where the tower has no weights, as it was not called yet.
    """
    weights = {id(weight): weight for weight in _weights(tower)}
    if not weights:
        raise ValueError(f"{tower.name}: expected a tower with weights, got one not called yet")
    digests = sorted(_digest(weight) for weight in weights.values())
    return hashlib.sha256(b"".join(digests)).hexdigest()[:DIGITS]


def index_fingerprints(index: Index) -> dict[str, str]:
    """The fingerprints of the towers that ``index`` was exported from.

    ``ValueError`` where it holds none: an index of ready-made vectors, or of another program, says
    nothing about a model. Who makes one of a model's vectors may put them into ``info`` himself.
    """
    found: Any = index.info.get(INFO_KEY)
    if not _are_fingerprints(found):
        raise ValueError(
            f"index: expected info[{INFO_KEY!r}] of {' and '.join(TOWERS)}, as export_index writes "
            f"it, got {found!r}: whether the index fits a model can't be told"
        )
    return dict(found)


def check_fresh(index: Index, model_or_fingerprints: tf.keras.Model | Mapping[str, str]) -> None:
    """That ``index`` was exported from a model with these weights.

    Parameters
    ----------
    model_or_fingerprints
        A two-tower model, or some of what :func:`tower_fingerprints` returns: a query tower alone
        is compared with the query tower alone.

    Raises
    ------
    StaleIndexError
        A tower has other weights.
    ValueError
        The index holds no fingerprints, see ``index_fingerprints``, or there is no tower, or
        an unknown one, to compare.
    """
    given: Any = model_or_fingerprints
    current = given if isinstance(given, Mapping) else tower_fingerprints(given)
    compare_fingerprints(index_fingerprints(index), current)


def compare_fingerprints(exported: Mapping[str, str], current: Mapping[str, str]) -> None:
    """:func:`check_fresh` of what an index holds, for those who hold no index."""
    if not current or not set(current) <= set(TOWERS):
        raise ValueError(
            f"fingerprints: expected some of {', '.join(TOWERS)}, got {sorted(current)}"
        )
    for name, fingerprint in current.items():
        if exported[name] != fingerprint:
            raise StaleIndexError(
                f"index: expected one exported from the {name.replace('_', ' ')} with fingerprint "
                f"{fingerprint}, got one from {exported[name]}: the model was trained since, or it "
                "is another one; export the index anew"
            )


def _are_fingerprints(found: Any) -> bool:
    return (
        isinstance(found, Mapping)
        and set(found) == set(TOWERS)
        and all(isinstance(v, str) and _HEXADECIMAL.fullmatch(v) for v in found.values())
    )


def _weights(layer: tf.keras.layers.Layer) -> Iterator[tf.Variable]:
    """Those of the layers inside, one perhaps several times."""
    if isinstance(layer, IVFPQQuantizer) and layer.built:
        # Not its sample and counters, which tell how to train on, and nothing about its codes.
        yield from (layer.coarse_centroids, layer.codebook, layer.rotation, layer.is_started)
        return
    yield from (*layer._trainable_weights, *layer._non_trainable_weights)
    for inner in layer._flatten_layers(recursive=False, include_self=False):
        # Every layer of a model of the first kind leads to all its embedding tables.
        if not isinstance(inner, ModelContext):
            yield from _weights(inner)


def _digest(weight: tf.Variable) -> bytes:
    digest = hashlib.sha256(f"{weight.dtype.name} {weight.shape}".encode())
    rows = tf.reshape(weight, (-1,)) if weight.shape.rank == 0 else weight
    row_bytes = max(1, weight.dtype.size * (weight.shape.num_elements() // max(1, rows.shape[0])))
    step = max(1, CHUNK_BYTES // row_bytes)
    for start in range(0, rows.shape[0], step):
        digest.update(rows[start : start + step].numpy())
    return digest.digest()
