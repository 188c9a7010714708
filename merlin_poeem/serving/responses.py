"""Triton's requests and errors, as our arrays and exceptions."""

from __future__ import annotations

import logging
from typing import Any

from merlin_poeem.arrays import to_host
from merlin_poeem.serving.tower_facts import OUTPUT as QUERY_VECTOR

logger = logging.getLogger(__name__)


def arrays_of(request: Any) -> dict[str, Any]:
    """The tensors of a request by name: NumPy's, but CuPy's of query vectors that are on a GPU.

    Those are not copied; what else is there, which a step before may have put there, is.
    """
    arrays = {tensor.name(): _array_of(tensor) for tensor in request.inputs()}
    return {name: one if name == QUERY_VECTOR else to_host(one) for name, one in arrays.items()}


def error_response(backend: Any, error: Exception) -> Any:
    """What the client gets; ``backend`` is ``triton_python_backend_utils``.

    What is no fault of the request is logged, too.
    """
    kinds = backend.TritonError
    if isinstance(error, TypeError | ValueError):
        return backend.InferenceResponse([], kinds(str(error), kinds.INVALID_ARG))
    logger.error("a request failed", exc_info=error)
    text = f"{type(error).__name__}: {error}"
    return backend.InferenceResponse([], kinds(text, kinds.INTERNAL))


def _array_of(tensor: Any) -> Any:
    if tensor.is_cpu():
        return tensor.as_numpy()
    import cupy

    return cupy.from_dlpack(tensor)
