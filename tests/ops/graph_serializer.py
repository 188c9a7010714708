"""A stand-in for ``nvtabular.workflow.graph_serializer``, which NVTabular has after its 23.8.

It keeps to what that module does since pull request 1896 (March 2026): the names and signatures of
its registry, that the registry fills itself only where it is empty, that a class which is not in
there goes as the registered class that it inherits from, what an operator's two functions are
given, where their files go, and what ``graph.json`` holds. Of NVTabular's own operators it knows
those that select and join columns.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import fsspec
import nvtabular as nvt
import pytest
from merlin.dag import Graph, Node
from merlin.dag.executors import DaskExecutor
from merlin.dag.node import postorder_iter_nodes
from merlin.dag.ops.concat_columns import ConcatColumns
from merlin.dag.ops.selection import SelectionOp
from merlin.dag.selector import ColumnSelector
from merlin.dtypes import DType
from merlin.dtypes.base import ElementType, ElementUnit
from merlin.schema import ColumnSchema, Schema

NAME = "nvtabular.workflow.graph_serializer"

_REGISTRY: dict[str, tuple[type, Callable[..., Any], Callable[..., Any]]] = {}


class WorkflowSerializationError(Exception):
    """What can't be written to, or read from, ``graph.json``."""


def install(patch: pytest.MonkeyPatch) -> ModuleType:
    """The module with an empty registry: NVTabular's where it has one, or else the stand-in."""
    if find_spec(NAME) is None:
        patch.setitem(sys.modules, NAME, sys.modules[__name__])
        patch.setattr(nvt.Workflow, "save", _save)
        patch.setattr(nvt.Workflow, "load", classmethod(_load))
    patch.setattr(sys.modules[NAME], "_REGISTRY", {})
    return sys.modules[NAME]


def _register(class_path: str, cls: type, to_dict_fn: Any, from_dict_fn: Any) -> None:
    _REGISTRY[class_path] = (cls, to_dict_fn, from_dict_fn)


def _build_registry() -> None:
    _register(
        "merlin.dag.ops.selection.SelectionOp",
        SelectionOp,
        lambda op, artifact_dir, fs: ({"names": op.selector.names}, {}),
        lambda params, state, artifact_dir: SelectionOp(ColumnSelector(params["names"])),
    )
    _register(
        "merlin.dag.ops.concat_columns.ConcatColumns",
        ConcatColumns,
        lambda op, artifact_dir, fs: ({}, {}),
        lambda params, state, artifact_dir: ConcatColumns(),
    )


def serialize_graph(workflow: nvt.Workflow, path: str, fs: Any) -> None:
    if not _REGISTRY:
        _build_registry()
    nodes = list(postorder_iter_nodes(workflow.output_node))
    numbers = {id(node): i for i, node in enumerate(nodes)}
    records = []
    for i, node in enumerate(nodes):
        class_path, to_dict = _entry_of(node.op)
        op_params, op_state = to_dict(node.op, fs.sep.join([path, "artifacts", f"node_{i}"]), fs)
        records.append(
            {
                "id": i,
                "op_class": class_path,
                "op_params": op_params,
                "op_state": op_state,
                "parent_ids": [numbers[id(parent)] for parent in node.parents],
                "dependency_ids": [numbers[id(each)] for each in node.dependencies],
                "selector": {"names": node.selector.names},
                "input_schema": _columns_of(node.input_schema),
                "output_schema": _columns_of(node.output_schema),
            }
        )
    graph = {"format_version": 1, "output_node_id": len(nodes) - 1, "nodes": records}
    with fs.open(fs.sep.join([path, "graph.json"]), "w") as file:
        json.dump(graph, file, indent=2)


def deserialize_graph(path: str, fs: Any) -> nvt.Workflow:
    if not _REGISTRY:
        _build_registry()
    with fs.open(fs.sep.join([path, "graph.json"])) as file:
        graph = json.load(file)
    nodes: list[Node] = []
    for record in graph["nodes"]:
        if record["op_class"] not in _REGISTRY:
            raise WorkflowSerializationError(f"Unknown operator class '{record['op_class']}'")
        from_dict = _REGISTRY[record["op_class"]][2]
        artifact_dir = os.path.join(path, "artifacts", f"node_{record['id']}")
        node = Node()
        node.op = from_dict(record["op_params"], record["op_state"], artifact_dir)
        node.selector = ColumnSelector(record["selector"]["names"])
        node.input_schema = _schema_of(record["input_schema"])
        node.output_schema = _schema_of(record["output_schema"])
        for parent in record["parent_ids"]:
            node.add_parent(nodes[parent])
        for dependency in record["dependency_ids"]:
            node.add_dependency(nodes[dependency])
        nodes.append(node)
    workflow = object.__new__(nvt.Workflow)
    workflow.graph = Graph(nodes[graph["output_node_id"]])
    workflow.executor = DaskExecutor(None)
    return workflow


def _entry_of(op: Any) -> tuple[str, Callable[..., Any]]:
    class_path = f"{type(op).__module__}.{type(op).__qualname__}"
    if class_path in _REGISTRY:
        return class_path, _REGISTRY[class_path][1]
    for base_path, (base, to_dict, _) in _REGISTRY.items():
        if isinstance(op, base):
            return base_path, to_dict
    raise WorkflowSerializationError(f"No serializer registered for operator '{class_path}'")


def _columns_of(schema: Schema) -> list[dict[str, Any]]:
    return [
        {
            "name": column.name,
            "tags": [tag.value for tag in column.tags],
            "properties": column.properties,
            "dtype": _fields_of(column.dtype),
            "dims": [(dim.min, dim.max) for dim in column.shape.dims or ()],
        }
        for column in schema
    ]


def _schema_of(columns: list[dict[str, Any]]) -> Schema:
    return Schema(
        [
            ColumnSchema(
                **{
                    **column,
                    "dtype": _dtype_of(column["dtype"]),
                    "dims": tuple(map(tuple, column["dims"])) or None,
                }
            )
            for column in columns
        ]
    )


def _fields_of(dtype: DType) -> dict[str, Any]:
    return {
        "name": dtype.name,
        "element_type": dtype.element_type.value,
        "element_size": dtype.element_size,
        "element_unit": dtype.element_unit and dtype.element_unit.value,
        "signed": dtype.signed,
    }


def _dtype_of(fields: dict[str, Any]) -> DType:
    unit = fields["element_unit"] and ElementUnit(fields["element_unit"])
    element_type = ElementType(fields["element_type"])
    return DType(**{**fields, "element_type": element_type, "element_unit": unit})


def _save(workflow: nvt.Workflow, path: str | os.PathLike[str]) -> None:
    path = str(path)
    fs = fsspec.get_fs_token_paths(path)[0]
    fs.makedirs(path, exist_ok=True)
    serialize_graph(workflow, path, fs)


def _load(cls: type, path: str | os.PathLike[str], client: Any = None) -> nvt.Workflow:
    path = str(path)
    return deserialize_graph(path, fsspec.get_fs_token_paths(path)[0])
