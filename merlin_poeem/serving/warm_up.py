"""The first requests of a version, so that no client waits for what is set up on first use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from merlin_poeem.serving.input_spec import TEXT, InputSpec
from merlin_poeem.serving.retrieval import Retrieval

BATCHES = (1, 32)


def warm_up(retrieval: Retrieval) -> None:
    """Answer a request of each of ``BATCHES``; raises what is wrong with the version."""
    for n_rows in BATCHES:
        arrays = {spec.name: _any_of(spec, n_rows) for spec in retrieval.spec.inputs}
        (answer,) = retrieval.answer([arrays])
        if isinstance(answer, Exception):
            raise answer


def _any_of(spec: InputSpec, n_rows: int) -> NDArray[Any]:
    shape = (n_rows, 1 if spec.length in (0, None) else spec.length)
    if spec.dtype == TEXT:
        return np.full(shape, b"", object)
    return np.zeros(shape, spec.dtype)
