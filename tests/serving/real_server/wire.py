"""Requests to a Triton server as a client sends them: JSON by HTTP, as ``curl`` does, and gRPC."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from merlin_poeem import Candidates
from workflows.serving.triton_server import TritonServer

Tensors = dict[str, np.ndarray]

SECONDS = 60
DTYPES = {"INT64": np.int64, "INT32": np.int32, "FP32": np.float32, "BYTES": object}
LOWEST = float(np.finfo(np.float32).min)


class Refused(Exception):
    """The server's answer is an error: its text, and the status as HTTP or gRPC has it."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


@dataclass(frozen=True, eq=False)
class Answer:
    """The tensors of a response, and the version that it is of."""

    tensors: Tensors
    version: str

    def candidates(self) -> Candidates:
        """What counts of ids and scores; ``AssertionError`` unless all else is filled up."""
        item_ids, scores = self.tensors["item_ids"], self.tensors["scores"]
        counts = self.tensors["counts"][:, 0]
        counted = np.arange(item_ids.shape[1]) < counts[:, None]
        assert item_ids.dtype == np.int64
        assert scores.dtype == np.float32
        assert (item_ids[~counted] == -1).all()
        assert (scores[~counted] == np.float32(LOWEST)).all()
        return Candidates(counts.astype(np.int64), scores[counted], item_ids[counted])

    def texts(self, name: str) -> list[list[str]]:
        """What counts of an output of texts, row by row; the rest is filled up with nothing."""
        counts = self.tensors["counts"][:, 0].tolist()
        rows = [[text.decode() for text in row] for row in self.tensors[name].tolist()]
        assert not any("".join(row[n:]) for row, n in zip(rows, counts, strict=True))
        return [row[:n] for row, n in zip(rows, counts, strict=True)]


Ask = Callable[..., Answer]


def ask_http(
    server: TritonServer, model: str, tensors: Tensors, outputs: tuple[str, ...] = ()
) -> Answer:
    """By ``POST /v2/models/…/infer`` with JSON; ``Refused`` where the status is not 200."""
    inputs = [
        {
            "name": name,
            "datatype": np_to_triton_dtype(array.dtype),
            "shape": array.shape,
            "data": [x.decode() if isinstance(x, bytes) else x for x in array.ravel().tolist()],
        }
        for name, array in tensors.items()
    ]
    body: dict[str, Any] = {"inputs": inputs}
    if outputs:
        body["outputs"] = [{"name": name} for name in outputs]
    return post(server, model, json.dumps(body).encode())


def post(server: TritonServer, model: str, body: bytes) -> Answer:
    """Any body; ``Refused`` where the status is not 200."""
    request = Request(f"http://{server.http}/v2/models/{model}/infer", body)
    try:
        with urlopen(request, timeout=SECONDS) as response:
            answer = json.loads(response.read(), parse_constant=_no_json)
    except HTTPError as error:
        raise Refused(str(error.code), error.read().decode()) from error
    tensors = {}
    for output in answer["outputs"]:
        values = output["data"]
        if output["datatype"] == "BYTES":
            values = [text.encode() for text in values]
        array = np.array(values, DTYPES[output["datatype"]])
        tensors[output["name"]] = array.reshape(output["shape"])
    return Answer(tensors, answer["model_version"])


def ask_grpc(
    server: TritonServer, model: str, tensors: Tensors, outputs: tuple[str, ...] = ()
) -> Answer:
    """By gRPC; ``Refused`` where the status is not OK."""
    inputs = []
    for name, array in tensors.items():
        inputs.append(grpc.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    wanted = [grpc.InferRequestedOutput(name) for name in outputs] or None
    with grpc.InferenceServerClient(server.grpc) as client:
        try:
            result = client.infer(model, inputs, outputs=wanted, client_timeout=SECONDS)
        except InferenceServerException as error:
            raise Refused(error.status(), error.message()) from error
    response = result.get_response()
    names = [output.name for output in response.outputs]
    return Answer({name: result.as_numpy(name) for name in names}, response.model_version)


ASKS: dict[str, Ask] = {"http": ask_http, "grpc": ask_grpc}


def id_lists(name: str, rows: list[Any]) -> Tensors:
    """``name`` (n, m) and ``name_count`` of one list of ids, or of keys, for each row."""
    lists = [np.asarray([] if row is None else row) for row in rows]
    texts = any(row.dtype.kind in "OU" for row in lists if len(row))
    matrix = np.full((len(lists), max(map(len, lists), default=0)), b"" if texts else 0,
                     object if texts else np.int64)  # fmt: skip
    for values, row in zip(matrix, lists, strict=True):
        values[: len(row)] = [text.encode() for text in row.tolist()] if texts else row
    counts = np.array([len(row) for row in lists], np.int32).reshape(-1, 1)
    return {name: matrix, f"{name}_count": counts}


def options(n_rows: int, **values: Any) -> Tensors:
    """``k``, ``n_probes`` and ``refine``, (n, 1) int32: a number for all rows, or one for each.

    What is None is left out.
    """
    return {
        name: np.broadcast_to(np.asarray(value, np.int32), n_rows).reshape(-1, 1).copy()
        for name, value in values.items()
        if value is not None
    }


def _no_json(text: str) -> float:
    raise AssertionError(f"expected JSON, got {text}, which it has no number for")
