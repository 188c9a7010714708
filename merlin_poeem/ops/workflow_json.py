"""The operators in workflows that are saved as JSON, as NVTabular does after its release 23.8.

``Workflow.save`` there writes ``graph.json``, and takes the operators that are registered with
``nvtabular.workflow.graph_serializer``. NVTabular 23.8 has no such module and pickles workflows.

In ``graph.json`` an operator's ``op_params`` are the arguments of its constructor, and its
``op_state`` names the folders in its node's artifacts that hold the copies of its index and query
tower. These names hold the fingerprints. A load calls the constructor, which checks them all.
"""

from __future__ import annotations

import warnings
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from merlin_poeem.arrays import type_name
from merlin_poeem.ops.index_operator import IndexOperator

_SERIALIZER = "nvtabular.workflow.graph_serializer"


def register(operator: type[IndexOperator]) -> None:
    """Have NVTabular save and load ``operator`` in JSON; nothing is done where it pickles.

    A process that loads such a workflow registers its operators before: importing
    ``merlin_poeem.ops`` does it for those in there. A subclass is registered on its own. It extends
    :meth:`~merlin_poeem.ops.index_operator.IndexOperator.arguments` where its constructor takes
    more.

    Warns where NVTabular's registry is another than is known here. The operator works, and
    ``Workflow.save`` then refuses it.
    """
    if find_spec(_SERIALIZER) is None:
        return
    entry = {
        "class_path": f"{operator.__module__}.{operator.__qualname__}",
        "cls": operator,
        "to_dict_fn": partial(_to_dict, operator),
        "from_dict_fn": partial(_from_dict, operator),
    }
    serializer = import_module(_SERIALIZER)
    try:
        own_operators, add_own = serializer._REGISTRY, serializer._build_registry
        signature(serializer._register).bind(**entry)
    except (AttributeError, TypeError) as error:
        warnings.warn(
            f"{_SERIALIZER}: expected _REGISTRY, _build_registry() and "
            f"_register({', '.join(entry)}), got another interface ({error}): a workflow with "
            f"{operator.__name__} can't be saved; take a newer merlin_poeem, or nvtabular 23.8",
            stacklevel=2,
        )
        return
    # NVTabular adds its own operators on first use, and only to an empty registry.
    if not own_operators:
        add_own()
    serializer._register(**entry)


def _to_dict(
    operator: type[IndexOperator], op: IndexOperator, artifact_dir: str, fs: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """``op_params`` and ``op_state``; copies index and query tower into ``artifact_dir``."""
    # NVTabular takes an operator that it does not know for the class that it inherits from.
    if type(op) is not operator:
        raise TypeError(
            f"workflow: expected registered operators, got {type(op).__name__}, of which only the "
            f"base {operator.__name__} is: merlin_poeem.ops.workflow_json.register"
            f"({type(op).__name__}) registers it"
        )
    op.set_storage_path(artifact_dir, copy=True)
    return op.arguments(), op.copies


def _from_dict(operator: type[IndexOperator], params: Any, state: Any, artifact_dir: str) -> Any:
    """The operator that :func:`_to_dict` wrote, which now uses the copies in ``artifact_dir``."""
    for name, given in (("op_params", params), ("op_state", state)):
        if not isinstance(given, dict):
            raise TypeError(
                f"{artifact_dir}: {name}: expected an object in graph.json, got {type_name(given)}"
            )
    folders = {name: _folder(artifact_dir, name, folder) for name, folder in state.items()}
    arguments = {**params, **folders}
    try:
        signature(operator).bind(**arguments)
    except TypeError as error:
        raise TypeError(
            f"{artifact_dir}: expected the arguments of {operator.__name__} in graph.json, got "
            f"{sorted(arguments)} ({error}): it was edited, or saved with another merlin_poeem"
        ) from error
    op = operator(**arguments)
    if op.copies != state:
        raise ValueError(
            f"{artifact_dir}: expected {state} as saved, got {op.copies}: "
            "it was replaced since; save the workflow anew"
        )
    return op


def _folder(artifact_dir: str, name: str, folder: Any) -> Path:
    if not isinstance(folder, str) or Path(folder).parts != (folder,):
        raise ValueError(
            f"{artifact_dir}: {name}: expected the name of a folder in there in graph.json, got "
            f"{folder!r}: it was edited; save the workflow anew"
        )
    return Path(artifact_dir, folder)
