"""What Triton's Python backend loads: the ``model.py`` of a version imports this class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from merlin_poeem.serving.metrics import Metrics
from merlin_poeem.serving.responses import arrays_of, error_response
from merlin_poeem.serving.retrieval import Answer, Retrieval
from merlin_poeem.serving.warm_up import warm_up


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
        arrays = [arrays_of(request) for request in requests]
        outputs = [set(request.requested_output_names()) for request in requests]
        answers = self._retrieval.answer(arrays, outputs)
        self._metrics.count(answers)
        return [
            self._response(answer, names) for answer, names in zip(answers, outputs, strict=True)
        ]

    def finalize(self) -> None:
        """Triton unloads the version."""
        self._metrics.remove()

    def _response(self, answer: Answer | Exception, names: set[str]) -> Any:
        backend = self._backend
        if isinstance(answer, Exception):
            return error_response(backend, answer)
        tensors = [
            backend.Tensor(name, array) for name, array in answer.arrays.items() if name in names
        ]
        return backend.InferenceResponse(tensors)


def _use_device(number: int) -> None:
    import cupy

    cupy.cuda.Device(number).use()
