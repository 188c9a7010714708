"""What Triton's Python backend loads: the ``model.py`` of a version imports this class."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from merlin_poeem.serving.metrics import Metrics
from merlin_poeem.serving.retrieval import Answer, Retrieval
from merlin_poeem.serving.warm_up import warm_up

logger = logging.getLogger(__name__)


class TritonPythonModel:
    """One instance of the model: a process of its own, with an index and a tower."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Open the version; a model that fails here is not ready, and Triton shows why."""
        import triton_python_backend_utils as backend  # there in Triton's stub alone

        self._backend = backend
        if args["model_instance_kind"] == "GPU":
            _use_device(int(args["model_instance_device_id"]))
        folder = Path(args["model_repository"]) / args["model_version"]
        self._retrieval = Retrieval(folder)
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._metrics = Metrics(backend, self._retrieval, labels)
        warm_up(self._retrieval)
        backend.Logger.log_info(
            f"{args['model_name']} {args['model_version']}: {self._retrieval.index.n_items} items, "
            f"search backend {self._retrieval.searcher.backend}"
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response to each request, in their order."""
        arrays = [
            {tensor.name(): self._array(tensor) for tensor in request.inputs()}
            for request in requests
        ]
        outputs = [set(request.requested_output_names()) for request in requests]
        answers = self._retrieval.answer(arrays, outputs)
        self._metrics.count(answers)
        return [
            self._response(answer, names) for answer, names in zip(answers, outputs, strict=True)
        ]

    def finalize(self) -> None:
        """Triton unloads the version."""
        self._metrics.remove()

    def _array(self, tensor: Any) -> Any:
        if tensor.is_cpu():
            return tensor.as_numpy()
        import cupy

        return cupy.from_dlpack(tensor.to_dlpack())

    def _response(self, answer: Answer | Exception, names: set[str]) -> Any:
        backend = self._backend
        if isinstance(answer, Answer):
            tensors = [
                backend.Tensor(name, array)
                for name, array in answer.arrays.items()
                if name in names
            ]
            return backend.InferenceResponse(tensors)
        if isinstance(answer, TypeError | ValueError):
            error = backend.TritonError(str(answer), backend.TritonError.INVALID_ARG)
        else:
            logger.error("a request failed", exc_info=answer)
            text = f"{type(answer).__name__}: {answer}"
            error = backend.TritonError(text, backend.TritonError.INTERNAL)
        return backend.InferenceResponse([], error)


def _use_device(number: int) -> None:
    import cupy

    cupy.cuda.Device(number).use()
