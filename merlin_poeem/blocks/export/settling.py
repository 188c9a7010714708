"""settle_index: the last step of a training, over the catalog and not over batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from merlin_poeem.arrays import normalize
from merlin_poeem.blocks.export.export import item_vectors
from merlin_poeem.blocks.export.exported_ids import Ids
from merlin_poeem.blocks.export.tower_rows import Frames
from merlin_poeem.blocks.export.workflow_part import AnyWorkflow
from merlin_poeem.blocks.model.towers import Towers
from merlin_poeem.quantization.refit import ROUNDS, refit


def settle_index(
    model: tf.keras.Model,
    items: Frames,
    *,
    workflow: AnyWorkflow | None = None,
    frequencies: Any = None,
    rounds: int = ROUNDS,
    batch_size: int = 4096,
    progress: bool = True,
) -> None:
    """Move the index of ``model`` to where it fits ``items`` best; call it before an export.

    In training lists, rotation and codewords follow the batches: they are a little behind the
    catalog and of few vectors each. The towers stay, and with ``agreement`` the lists, which are
    those that queries visit. An index that was exported before is stale. What it is worth is in
    docs/quality.md. Memory is a few times that of all float vectors.

    Parameters
    ----------
    model, items, workflow, batch_size, progress
        As of :func:`~merlin_poeem.blocks.export_index`.
    frequencies
        (vocabulary,) how often each item id occurs in the training, as of
        ``PopularityLogQCorrection``: the index then fits often wanted items better. With a
        ``workflow`` a Series of counts by raw id, such as ``pairs["item_id"].value_counts()``; an
        item that it does not have counts once. None: all items alike.
    rounds
        As of :func:`~merlin_poeem.refit`.

    Raises
    ------
    RuntimeError
        The quantizer has not started.
    TypeError, ValueError
        What ``export_index`` and ``refit`` refuse; item ids beyond ``frequencies``.
    """
    quantizer = Towers.of(model).quantizer
    quantization = quantizer.quantization()
    item_ids, vectors = item_vectors(
        model, items, workflow=workflow, batch_size=batch_size, progress=progress
    )
    weights = None if frequencies is None else _weights(frequencies, item_ids)
    if quantizer.params.metric == "cosine":
        vectors = normalize(vectors)
    quantizer.take(
        refit(
            quantization,
            vectors,
            weights=weights,
            rounds=rounds,
            lists=not quantizer.agreement,
            rotation=quantizer.learns_rotation,
            progress=progress,
        )
    )


def _weights(frequencies: Any, item_ids: Ids) -> Any:
    """How often each of ``item_ids`` (n,) occurs."""
    if isinstance(frequencies, pd.Series):
        return frequencies.reindex(item_ids, fill_value=1).to_numpy()
    frequencies = np.asarray(frequencies)
    if item_ids.dtype == object:
        raise TypeError("frequencies: expected a Series by raw id, as ids are texts; got an array")
    fits = frequencies.ndim == 1 and item_ids.min() >= 0 and item_ids.max() < len(frequencies)
    if not fits:
        raise ValueError(
            f"frequencies: expected one for each item id from 0 up to {item_ids.max()}, got "
            f"shape {frequencies.shape} and ids from {item_ids.min()}"
        )
    return frequencies[item_ids]
