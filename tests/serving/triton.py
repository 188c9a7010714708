"""A stand-in for ``triton_python_backend_utils``, which only Triton's own processes have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def is_cpu(self) -> bool:
        return isinstance(self._array, np.ndarray)

    def as_numpy(self) -> np.ndarray:
        assert self.is_cpu(), "a tensor on a GPU is no NumPy array"
        return self._array

    @property
    def _hidden(self) -> np.ndarray:
        """What the stand-in of CuPy takes by DLPack."""
        return self._array._hidden


class TritonError:
    INVALID_ARG, INTERNAL = 3, 1

    def __init__(self, message: str, code: int) -> None:
        self.message, self.code = message, code


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        self.arrays = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}
        self.error = error


class InferenceRequest:
    def __init__(self, arrays: dict[str, Any], outputs: list[str]) -> None:
        self._tensors = [Tensor(name, array) for name, array in arrays.items()]
        self._outputs = outputs

    def inputs(self) -> list[Tensor]:
        return self._tensors

    def requested_output_names(self) -> list[str]:
        return self._outputs


class MetricFamily:
    COUNTER, GAUGE = "counter", "gauge"

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert description
        self.kind = kind

    def Metric(self, labels: dict[str, str]) -> Any:  # Triton's own name
        metric = SimpleNamespace(value=0.0, labels=labels)

        def increment(by: float) -> None:
            assert by > 0 or self.kind == self.GAUGE
            metric.value += by

        def put(value: float) -> None:
            assert self.kind == self.GAUGE
            metric.value = value

        metric.increment, metric.set = increment, put
        return metric


def make_backend() -> Any:
    """The module."""
    return SimpleNamespace(
        Tensor=Tensor,
        TritonError=TritonError,
        InferenceResponse=InferenceResponse,
        MetricFamily=MetricFamily,
        Logger=SimpleNamespace(log_info=lambda message: None),
    )
