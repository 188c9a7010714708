"""The ``config.pbtxt`` of a served model: its tensors, batching and instances."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from merlin_poeem.quantization.params import count, positive_int
from merlin_poeem.serving.input_spec import TEXT, InputSpec
from merlin_poeem.serving.inputs import COUNT
from merlin_poeem.serving.own_options import OPTIONS
from merlin_poeem.serving.requests import FILTERS

Device = Literal["auto", "cpu", "gpu"]
TYPES = {
    "bool": "TYPE_BOOL",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    TEXT: "TYPE_STRING",
}


@dataclass(frozen=True)
class Serving:
    """How Triton runs a model."""

    most_rows: int = 1024
    """Of a request, and of requests that are answered together."""
    delay: int = 0
    """Microseconds that a request may wait for others; 0 takes those that are there."""
    instances: int = 1
    """Processes, each with an index of its own."""
    device: Device = "auto"
    """``"auto"`` is a GPU where Triton has one."""

    def __post_init__(self) -> None:
        positive_int("most_rows", self.most_rows)
        positive_int("instances", self.instances)
        count("delay", self.delay)
        if self.device not in get_args(Device):
            raise ValueError(
                f"device: expected one of {', '.join(get_args(Device))}; got {self.device!r}"
            )


def config_text(
    name: str, inputs: Sequence[InputSpec], *, has_keys: bool, has_titles: bool, serving: Serving
) -> str:
    """``config.pbtxt`` of a search, with or without its tower."""
    return _text([
        *_head(name, serving),
        *(line for spec in inputs for line in _inputs_of(spec)),
        *_option_inputs(has_keys),
        *_outputs(has_keys, has_titles),
        *_run(serving),
        # What is on a GPU stays there.
        'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }',
    ])  # fmt: skip


def tower_config_text(
    name: str, inputs: Sequence[InputSpec], output: InputSpec, serving: Serving
) -> str:
    """``config.pbtxt`` of a query tower alone."""
    return _text([
        *_head(name, serving),
        *(line for spec in inputs for line in _inputs_of(spec)),
        _tensor("output", output.name, TYPES[output.dtype], output.length or 1),
        *_run(serving),
    ])  # fmt: skip


def ensemble_config_text(
    name: str,
    tower: str,
    search: str,
    inputs: Sequence[InputSpec],
    between: InputSpec,
    *,
    has_keys: bool,
    has_titles: bool,
    serving: Serving,
) -> str:
    """``config.pbtxt`` of the model ``tower``, and then ``search`` with the vectors ``between``."""
    features = [line for spec in inputs for line in _inputs_of(spec)]
    options, outputs = _option_inputs(has_keys), _outputs(has_keys, has_titles)
    of_tower = _step(tower, _names(features), [between.name])
    of_search = _step(search, [between.name, *_names(options)], _names(outputs))
    return _text([
        f"name: {json.dumps(name)}",
        'platform: "ensemble"',
        f"max_batch_size: {serving.most_rows}",
        *features,
        *options,
        *outputs,
        f"ensemble_scheduling {{ {of_tower} {of_search} }}",
    ])  # fmt: skip


def check_inputs(inputs: Sequence[InputSpec]) -> None:
    """``ValueError`` naming a column that bears the name of another tensor of requests."""
    features = [line for spec in inputs for line in _inputs_of(spec)]
    seen = set(_names(_option_inputs(has_keys=False)))
    for name in _names(features):
        if name in seen:
            raise ValueError(
                f"column {name!r}: expected a name that no other tensor of a request has; rename "
                "it in the workflow, and train with that"
            )
        seen.add(name)


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _head(name: str, serving: Serving) -> list[str]:
    return [
        f"name: {json.dumps(name)}",
        'backend: "python"',
        f"max_batch_size: {serving.most_rows}",
    ]


def _run(serving: Serving) -> list[str]:
    kind = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}[serving.device]
    return [
        f"dynamic_batching {{ max_queue_delay_microseconds: {serving.delay} }}",
        f"instance_group [ {{ kind: {kind} count: {serving.instances} }} ]",
        # A new version is loaded beside the old one, which serves until then.
        "version_policy { latest { num_versions: 1 } }",
    ]


def _option_inputs(has_keys: bool) -> list[str]:
    id_type = _id_type(has_keys)
    return [
        *(line for filter in FILTERS for line in _list_input(filter, id_type, optional=True)),
        *(_tensor("input", option, "TYPE_INT32", 1, "optional: true") for option in OPTIONS),
    ]


def _outputs(has_keys: bool, has_titles: bool) -> list[str]:
    tensors = [
        ("item_ids", _id_type(has_keys), -1),
        ("scores", TYPES["float32"], -1),
        ("counts", TYPES["int32"], 1),
        *([("titles", TYPES[TEXT], -1)] if has_titles else []),
    ]
    return [_tensor("output", *tensor) for tensor in tensors]


def _id_type(has_keys: bool) -> str:
    return TYPES[TEXT if has_keys else "int64"]


def _names(tensors: list[str]) -> list[str]:
    """Those of lines that :func:`_tensor` made."""
    return [line.split('"')[1] for line in tensors]


def _step(model: str, inputs: list[str], outputs: list[str]) -> str:
    maps = [
        f"{side}_map {{ key: {json.dumps(tensor)} value: {json.dumps(tensor)} }}"
        for side, tensors in (("input", inputs), ("output", outputs))
        for tensor in tensors
    ]
    return f"step [ {{ model_name: {json.dumps(model)} model_version: -1 {' '.join(maps)} }} ]"


def _inputs_of(spec: InputSpec) -> Iterator[str]:
    if spec.length is None:
        yield from _list_input(spec.name, TYPES[spec.dtype], optional=spec.optional)
    else:
        options = ["optional: true"] if spec.optional else []
        yield _tensor("input", spec.name, TYPES[spec.dtype], spec.length or 1, *options)


def _list_input(name: str, data_type: str, *, optional: bool) -> Iterator[str]:
    """Lists, which requests of other widths may be batched with, and their counts."""
    options = ["allow_ragged_batch: true", *(["optional: true"] if optional else [])]
    yield _tensor("input", name, data_type, -1, *options)
    yield _tensor("input", name + COUNT, "TYPE_INT32", 1, "optional: true")


def _tensor(side: str, name: str, data_type: str, dim: int, *options: str) -> str:
    told = " ".join([f"name: {json.dumps(name)} data_type: {data_type} dims: [ {dim} ]", *options])
    return f"{side} [ {{ {told} }} ]"
