"""A stand-in for Triton's server and for ``triton_python_backend_utils``, the module it gives.

It does what Triton does with a model repository: reads each ``config.pbtxt``, loads SavedModels by
the signature that is named there and ``model.py`` by its class, and refuses tensors, in and out,
that are not those of the configuration.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf
import tritonclient.grpc.model_config_pb2 as model_config
from google.protobuf import json_format, text_format
from tritonclient.utils import np_to_triton_dtype


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array

    def is_cpu(self) -> bool:
        return True


class TritonError:
    def __init__(self, message: str) -> None:
        self._message = message

    def message(self) -> str:
        return self._message


class TritonModelException(Exception):
    pass


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        self._tensors, self._error = output_tensors, error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


def _find(tensors: list[Tensor], name: str) -> Tensor | None:
    return next((tensor for tensor in tensors if tensor.name() == name), None)


class Server:
    """The models of one repository, loaded."""

    def __init__(self, repository: Path) -> None:
        self.repository = Path(repository)
        self.utils = self._backend_utils()
        self.configs = {
            path.parent.name: text_format.Parse(path.read_text(), model_config.ModelConfig())
            for path in self.repository.glob("*/config.pbtxt")
        }
        self.models: dict[str, Any] = {}

    def load(self) -> Server:
        """Load every model; fails where a model is not what its configuration says."""
        for folder, config in self.configs.items():
            assert config.name == folder
            load = {"python": self._load_python, "tensorflow": self._load_tensorflow}
            self.models[folder] = load[config.backend](config)
        return self

    def infer(self, model: str, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        config = self.configs[model]
        _check(config.input, given, f"{model} input")
        found = self.models[model](given)
        _check(config.output, found, f"{model} output")
        return found

    def _load_tensorflow(self, config: Any) -> Any:
        assert config.platform == "tensorflow_savedmodel"
        path = self.repository / config.name / "1" / "model.savedmodel"
        loaded = tf.saved_model.load(str(path))
        function = loaded.signatures[config.parameters["TF_SIGNATURE_DEF"].string_value]
        _check_specs(config.input, function.structured_input_signature[1])
        _check_specs(config.output, function.structured_outputs)

        def run(given: dict[str, np.ndarray], keep_alive: Any = loaded) -> dict[str, np.ndarray]:
            tensors = {name: tf.constant(array) for name, array in given.items()}
            return {name: tensor.numpy() for name, tensor in function(**tensors).items()}

        return run

    def _load_python(self, config: Any) -> Any:
        path = self.repository / config.name / "1" / "model.py"
        spec = importlib.util.spec_from_file_location("model", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        model.initialize(
            {
                "model_config": json.dumps(json_format.MessageToDict(config)),
                "model_name": config.name,
                "model_version": "1",
                "model_repository": str(self.repository / config.name),
            }
        )
        self.python_model = model

        def run(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            tensors = [Tensor(name, array) for name, array in given.items()]
            request = self.utils.InferenceRequest(config.name, [], tensors)
            (response,) = model.execute([request])
            if response.has_error():
                raise TritonModelException(response.error().message())
            return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}

        return run

    def _backend_utils(self) -> ModuleType:
        """The module ``triton_python_backend_utils``, whose requests go to this server."""
        server = self

        class InferenceRequest:
            def __init__(
                self, model_name: str, requested_output_names: list[str], inputs: list[Tensor]
            ) -> None:
                self.model_name, self.outputs = model_name, requested_output_names
                self.inputs = inputs

            def exec(self) -> InferenceResponse:
                given = {tensor.name(): tensor.as_numpy() for tensor in self.inputs}
                found = server.infer(self.model_name, given)
                return InferenceResponse([Tensor(name, found[name]) for name in self.outputs])

        utils: Any = ModuleType("triton_python_backend_utils")
        utils.Tensor, utils.TritonError = Tensor, TritonError
        utils.TritonModelException = TritonModelException
        utils.InferenceRequest, utils.InferenceResponse = InferenceRequest, InferenceResponse
        utils.get_input_tensor_by_name = lambda request, name: _find(request.inputs, name)
        utils.get_output_tensor_by_name = lambda response, name: _find(
            response.output_tensors(), name
        )
        return utils


def _dtype(data_type: int) -> str:
    return model_config.DataType.Name(data_type).removeprefix("TYPE_")


def _check(entries: Any, tensors: dict[str, np.ndarray], what: str) -> None:
    expected, got = {entry.name for entry in entries}, set(tensors)
    if expected != got:
        raise TritonModelException(f"{what}: expected {sorted(expected)}, got {sorted(got)}")
    for entry in entries:
        array = tensors[entry.name]
        dtype = np_to_triton_dtype(array.dtype)
        if dtype != _dtype(entry.data_type):
            raise TritonModelException(
                f"{what} {entry.name}: expected {_dtype(entry.data_type)}, got {dtype}"
            )
        dims = list(entry.dims)
        fit = len(dims) == array.ndim and all(
            d in (-1, size) for d, size in zip(dims, array.shape, strict=True)
        )
        if not fit:
            raise TritonModelException(
                f"{what} {entry.name}: expected dims {dims}, got {array.shape}"
            )


def _check_specs(entries: Any, specs: dict[str, tf.TensorSpec]) -> None:
    assert {entry.name for entry in entries} == set(specs)
    for entry in entries:
        spec = specs[entry.name]
        assert _dtype(entry.data_type) == np_to_triton_dtype(spec.dtype.as_numpy_dtype)
        assert list(entry.dims) == [-1 if size is None else size for size in spec.shape], entry.name
