"""Queries that another library has on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from merlin_poeem.arrays import array_module

DLPACK_CUDA = 2


def as_device_array(queries: Any) -> Any:
    """A device array of another library as CuPy's, over the same memory; others as they are."""
    if array_module(queries) is not np:
        return queries
    if hasattr(queries, "__cuda_array_interface__"):
        import cupy

        return cupy.asarray(queries)
    if hasattr(queries, "__dlpack_device__") and queries.__dlpack_device__()[0] == DLPACK_CUDA:
        import cupy

        return cupy.from_dlpack(queries)
    return queries
