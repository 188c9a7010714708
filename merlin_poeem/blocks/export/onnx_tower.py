"""A saved query tower as an ONNX model, by tf2onnx.

tf2onnx is told how to convert the operations that look up lists of any length. It has no way for
Merlin's layout of their values, and one for their sums that takes eight times as long. Embedding
tables it never sees, as it takes fifty times their size: they are written beside the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from merlin_poeem.blocks.export.query_tower import OUTPUT, QueryTower
from merlin_poeem.optional import needed_by

OPSET = 17
"""Of operations; ONNX Runtime knows it from 1.12 on."""
MOST_BYTES = 1 << 28
"""Of weights, a million rows of 64 floats: converting them takes some fifteen times as much memory,
4 GB of that table, and a process that has not got it ends."""
TABLE_BYTES = 1 << 20
"""Weights from that size on lie in files of their own."""


def save_onnx(tower: QueryTower, path: Path) -> None:
    """Write the ONNX model of ``tower`` to ``path``, and its large weights into the same folder.

    Its inputs and its output have the saved tower's names.

    Raises ``ModuleNotFoundError`` where tf2onnx is not installed, ``ValueError`` where the weights
    are too large, and what tf2onnx and the checker of ONNX raise where an operation of the tower
    has no conversion.
    """
    with needed_by("a tower for ONNX Runtime", "serving"):
        import onnx
        import tf2onnx
    size = sum(weight.dtype.size * weight.shape.num_elements() for weight in tower.weights)
    if size > MOST_BYTES:
        raise ValueError(
            f"tower: expected weights of at most {MOST_BYTES:,} bytes for ONNX, got {size:,}"
        )
    graph, inputs, output = _frozen(tower)
    tables = _take_tables(graph)
    names = {name: f"{path.stem}-table-{number}.bin" for number, name in enumerate(tables)}
    model, _ = tf2onnx.convert.from_graph_def(
        graph,
        input_names=[*inputs, *(f"{name}:0" for name in tables)],
        output_names=[output],
        tensors_to_rename={**inputs, output: OUTPUT, **{f"{k}:0": v for k, v in names.items()}},
        opset=OPSET,
        custom_op_handlers={
            "RaggedTensorToSparse": (_ragged_to_sparse, []),
            "SparseSegmentMean": (_segment_mean, []),
            "SparseSegmentSum": (_segment_sum, []),
        },
    )
    for name, table in tables.items():
        table.tofile(path.with_name(names[name]))
        _refer_to_file(model.graph, names[name], table)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)


def _frozen(tower: QueryTower) -> tuple[Any, dict[str, str], str]:
    """The graph of a tower with its weights in it; its inputs, with their names; its output."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    specs = {name: spec for feature in tower.features for name, spec in feature.specs().items()}
    function = tower.function.get_concrete_function(specs)
    frozen = convert_variables_to_constants_v2(
        function, lower_control_flow=False, aggressive_inlining=True
    )
    given = tf.nest.flatten(function.structured_input_signature)
    names = [spec.name for spec in given if isinstance(spec, tf.TensorSpec)]
    tensors = [tensor.name for tensor in frozen.inputs]
    graph = frozen.graph.as_graph_def(add_shapes=True)
    return graph, dict(zip(tensors, names, strict=True)), frozen.outputs[0].name


def _take_tables(graph: Any) -> dict[str, NDArray[Any]]:
    """The large constants of a graph, by name, which are inputs of it from now on."""
    tables = {}
    for node in graph.node:
        if node.op == "Const" and len(node.attr["value"].tensor.tensor_content) >= TABLE_BYTES:
            tables[node.name] = tf.make_ndarray(node.attr["value"].tensor)
            node.op = "Placeholder"
            node.attr["shape"].shape.CopyFrom(node.attr["value"].tensor.tensor_shape)
            del node.attr["value"]
    return tables


def _refer_to_file(graph: Any, name: str, table: NDArray[Any]) -> None:
    """Make a weight, in the file of its name, of the input ``name`` of an ONNX graph."""
    from onnx import TensorProto, helper

    graph.input.remove(next(given for given in graph.input if given.name == name))
    kind = helper.np_dtype_to_tensor_dtype(table.dtype)
    weight = TensorProto(name=name, data_type=kind, dims=table.shape)
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=name)
    graph.initializer.append(weight)


class _Nodes:
    """Makes nodes of a tf2onnx graph."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The name of the output of a new node."""
        name: str = self._graph.make_node(kind, list(inputs), attr=attributes).output[0]
        return name

    def const(self, values: Any, dtype: Any = np.int64) -> str:
        from tf2onnx import utils

        array = np.array(values, dtype)
        name: str = self._graph.make_const(utils.make_name("given"), array).output[0]
        return name


def _replace(graph: Any, node: Any, made: tuple[str, ...]) -> None:
    for output, name in zip(node.output, made, strict=True):
        graph.replace_all_inputs(output, name)
    graph.remove_node(node.name)


def _ragged_to_sparse(graph: Any, node: Any, *_: Any) -> None:
    """Of splits (n + 1,) and values (total,), or (total, 1) as Merlin has them.

    Gives indices (total, 2 or 3), values (total,) and the dense shape. The width of the latter is
    at least 1, so that nothing after it divides by the width of lists that are all empty.
    """
    splits, values = node.input
    make = _Nodes(graph)
    starts = make("Slice", splits, make.const([0]), make.const([-1]), make.const([0]))
    ends = make("Slice", splits, make.const([1]), make.const([2**62]), make.const([0]))
    lengths = make("Unsqueeze", make("Sub", ends, starts), make.const([1]))
    width = make("Max", make("ReduceMax", lengths, keepdims=0), make.const(1))
    places = make("Range", make.const(0), width, make.const(1))
    # Row by row, as the values are.
    indices = make("Transpose", make("NonZero", make("Less", places, lengths)), perm=[1, 0])
    shape = make("Concat", make("Shape", starts), make("Unsqueeze", width, make.const([0])), axis=0)
    if graph.get_rank(values) == 2:
        values = make("Reshape", values, make.const([-1]))
        indices = make("Pad", indices, make.const([0, 0, 0, 1]))
        shape = make("Concat", shape, make.const([1]), axis=0)
    _replace(graph, node, (indices, values, shape))


def _segment_mean(graph: Any, node: Any, *_: Any) -> None:
    """Of data (m, dim), indices (total,) of its rows and rising segments (total,): (n, dim).

    The mean of the rows of each segment, zeros where it has none; n is the last segment plus 1.
    """
    make = _Nodes(graph)
    sums, n, into = _sums(make, *node.input)
    ones = make("Expand", make.const([1.0], np.float32), make("Shape", node.input[2]))
    counts = make("Expand", make.const([0.0], np.float32), n)
    counts = make("ScatterND", counts, into, ones, reduction="add")
    counts = make("Max", counts, make.const([1.0], np.float32))
    _replace(graph, node, (make("Div", sums, make("Unsqueeze", counts, make.const([1]))),))


def _segment_sum(graph: Any, node: Any, *_: Any) -> None:
    """As :func:`_segment_mean`, the sum."""
    _replace(graph, node, _sums(_Nodes(graph), *node.input)[:1])


def _sums(make: _Nodes, data: str, indices: str, segments: str) -> tuple[str, str, str]:
    """The sums (n, dim) of segments, n itself (1,), and which sum each value is in (total, 1)."""
    into = make("Unsqueeze", make("Cast", segments, to=_INT64), make.const([1]))
    last = make("ReduceMax", into, keepdims=0)
    n = make("Reshape", make("Add", last, make.const(1)), make.const([1]))
    width = make("Slice", make("Shape", data), make.const([1]), make.const([2]))
    zeros = make("Expand", make.const([0.0], np.float32), make("Concat", n, width, axis=0))
    rows = make("Gather", data, indices)
    return make("ScatterND", zeros, into, rows, reduction="add"), n, into


_INT64 = 7
"""``onnx.TensorProto.INT64``."""
