"""Write ``gpu_signatures.json``: ``python -m tests.golden.make_gpu_signatures FOLDER``.

What each release takes of what our code calls, read from text alone: nothing is installed or
imported. FOLDER holds a folder a release, named as in :data:`RELEASES`, with a wheel's content or a
checkout's::

    mkdir -p FOLDER/{cudf-26.10.2,cudf-23.12.01,...}
    pip download --no-deps cudf-cu13==26.10.2 pylibcudf-cu13==26.10.2 cuvs-cu13==26.10.0
    unzip -d FOLDER/cudf-26.10.2 cudf_cu13-*.whl            # and so on
    git -C cudf archive v23.12.01:python/cudf cudf | tar x -C FOLDER/cudf-23.12.01
    git -C cupy archive v14.2.0 cupy cupy_backends | tar x -C FOLDER/cupy-14.2.0   # and v12.3.0
"""

from __future__ import annotations

import ast
import json
import re
import sys
from itertools import product
from pathlib import Path
from typing import Any

from tests.gpu_calls import all_uses

TARGET = Path(__file__).with_name("gpu_signatures.json")
RELEASES = (
    "cudf-26.10.2",
    "cudf-23.12.01",
    "pylibcudf-26.10.2",
    "cupy-14.2.0",
    "cupy-12.3.0",
    "cuvs-26.10.0",
)
_CORE = "cudf/core"
_OF_ALL_FRAMES = (f"{_CORE}/indexed_frame.py:IndexedFrame", f"{_CORE}/frame.py:Frame")
_OF_COLUMNS = f"{_CORE}/single_column_frame.py:SingleColumnFrame"

# Where the names of a class or module are defined: files, and in them classes, in the order in
# which Python would look. Some are of one release alone.
PLACES: dict[str, tuple[str, ...]] = {
    "cudf.DataFrame": (f"{_CORE}/dataframe.py:DataFrame", *_OF_ALL_FRAMES),
    "cudf.Series": (f"{_CORE}/series.py:Series", _OF_COLUMNS, *_OF_ALL_FRAMES),
    "cudf.Index": (f"{_CORE}/_base_index.py:BaseIndex", f"{_CORE}/index.py:Index", _OF_COLUMNS),
    "cudf.ListMethods": (
        f"{_CORE}/accessors/lists.py:ListMethods",
        f"{_CORE}/column/lists.py:ListMethods",
    ),
    "cudf.core.column": (f"{_CORE}/column/column.py",),
    "pylibcudf.Column": ("pylibcudf/column.pyi:Column",),
    "pylibcudf.DataType": ("pylibcudf/types.pyi:DataType",),
    "pylibcudf.TypeId": ("pylibcudf/types.pyi:TypeId",),
    "cupy": (
        "cupy/__init__.py",
        "cupy/_creation/basic.py",
        "cupy/_creation/from_data.py",
        "cupy/_creation/ranges.py",
        "cupy/_manipulation/join.py",
        "cupy/_sorting/search.py",
        "cupy/_sorting/sort.py",
        "cupy/_core/dlpack.pyx",
        "cupy/_core/_routines_linalg.pyx",  # matmul is this in a wrapper that passes all on
    ),
    "cupy.ndarray": ("cupy/_core/core.pyx:_ndarray_base",),
    "cupy.RawModule": ("cupy/_core/raw.pyx:RawModule",),
    "cupy.RawKernel": ("cupy/_core/raw.pyx:RawKernel",),
    "cupy.cuda": ("cupy/cuda/stream.pyx",),
    "cupy.cuda.Device": ("cupy/cuda/device.pyx:Device", "cupy/cuda/device.pxd:Device"),
    "cupy.cuda.Graph": ("cupy/cuda/graph.pyx:Graph",),
    "cupy.cuda.MemoryPool": ("cupy/cuda/memory.pyx:MemoryPool",),
    "cupy.cuda.Stream": ("cupy/cuda/stream.pyx:Stream", "cupy/cuda/stream.pyx:_BaseStream"),
    "cupy.cuda.runtime": ("cupy_backends/cuda/api/runtime.pyx",),
    "cuvs.common.Resources": ("cuvs/common/resources.pyx:Resources",),
    "cuvs.neighbors.brute_force": ("cuvs/neighbors/brute_force/brute_force.pyx",),
    "cuvs.neighbors.ivf_pq": ("cuvs/neighbors/ivf_pq/ivf_pq.pyx",),
    "cuvs.neighbors.ivf_pq.IndexParams": ("cuvs/neighbors/ivf_pq/ivf_pq.pyx:IndexParams",),
    "cuvs.neighbors.ivf_pq.SearchParams": ("cuvs/neighbors/ivf_pq/ivf_pq.pyx:SearchParams",),
}

_MAKERS = ("__init__", "__cinit__")

Signature = list[list[Any]] | None
"""A name, its kind and whether it has a default, by parameter; None of what is not called."""


def signatures_of(folder: Path, names: set[str]) -> dict[str, Signature]:
    """Those of ``names`` that the release in ``folder`` has, with what they take.

    ``FileNotFoundError`` where there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a release's files, as the docstring says")
    library = folder.name.partition("-")[0]
    found = {}
    for name in sorted(names):
        if name.partition(".")[0] == library:
            owner, *members = [name, *_MAKERS] if name in PLACES else name.rsplit(".", 1)
            for place, member in product(PLACES[owner], members):
                is_there, signature = read(folder, place, member)
                if is_there:
                    found[name] = signature
                    break
    return found


def read(folder: Path, place: str, member: str) -> tuple[bool, Signature]:
    """Whether ``member`` is in ``place``, a file and perhaps a class in it, and what it takes."""
    file, _, class_name = place.partition(":")
    path = folder / file
    if not path.is_file():
        return False, None
    text = path.read_text()
    of_python = path.suffix in (".py", ".pyi")
    return (read_python if of_python else read_cython)(text, class_name, member)


def read_python(text: str, class_name: str, member: str) -> tuple[bool, Signature]:
    """:func:`read` of Python and of its stubs; the last of several definitions counts."""
    body = ast.parse(text).body
    if class_name:
        classes = [node for node in body if isinstance(node, ast.ClassDef)]
        body = [each for node in classes if node.name == class_name for each in node.body]
    for node in reversed(body):
        if isinstance(node, ast.FunctionDef) and node.name == member:
            decorators = {ast.unparse(each) for each in node.decorator_list}
            is_property = any("property" in each or ".setter" in each for each in decorators)
            is_bound = bool(class_name) and "staticmethod" not in decorators
            return True, None if is_property else parameters(node.args, is_bound)
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == member for target in targets):
            value = getattr(node, "value", None)
            if isinstance(value, ast.Name):  # isnull = isna
                return read_python(text, class_name, value.id)
            return True, None
    return False, None


def read_cython(text: str, class_name: str, member: str) -> tuple[bool, Signature]:
    """:func:`read` of Cython, whose ``def`` and ``cpdef`` lines are Python but for C's types."""
    if class_name:
        start = re.search(rf"^(?:cdef )?class {class_name}\b.*\n(?:[ \t].*\n|\n)*", text, re.M)
        text = start.group() if start else ""
    indent = "    " if class_name else ""
    head = rf"^{indent}(?:def|cpdef(?: [\w.]+)?) {member}\((?P<of>[^()]*(?:\([^()]*\)[^()]*)*)\)"
    function = re.search(head, text, re.M)
    if function:
        before = text[: function.start()].rstrip().rsplit("\n", 1)[-1]
        if before.strip() == "@property":
            return True, None
        stripped = [_without_type(each) for each in re.split(r",\s*(?![^()]*\))", function["of"])]
        parsed = ast.parse(f"def f({', '.join(filter(None, stripped))}): pass").body[0]
        assert isinstance(parsed, ast.FunctionDef)
        return True, parameters(parsed.args, bool(class_name))
    is_there = re.search(
        rf"^\s*(?:self\.{member} =|(?:public|readonly) \w+ {member}$|class {member}\b)", text, re.M
    )
    return bool(is_there), None


def parameters(of: ast.arguments, is_bound: bool) -> list[list[Any]]:
    """The name, kind and whether there is a default of each, without ``self``."""
    placed = [*of.posonlyargs, *of.args]
    first_default = len(placed) - len(of.defaults)
    listed = [
        [arg.arg, _kind(number, of), number >= first_default] for number, arg in enumerate(placed)
    ]
    listed = listed[is_bound:]
    if of.vararg:
        listed.append([of.vararg.arg, "VAR_POSITIONAL", False])
    for arg, default in zip(of.kwonlyargs, of.kw_defaults, strict=True):
        listed.append([arg.arg, "KEYWORD_ONLY", default is not None])
    if of.kwarg:
        listed.append([of.kwarg.arg, "VAR_KEYWORD", False])
    return listed


def _kind(number: int, of: ast.arguments) -> str:
    return "POSITIONAL_ONLY" if number < len(of.posonlyargs) else "POSITIONAL_OR_KEYWORD"


def _without_type(parameter: str) -> str:
    """``IndexParams params`` is ``params``, ``bint x=False`` is ``x=False``."""
    parameter = parameter.strip().replace(" not None", "")
    return re.sub(r"^[\w.]+ (\w+\s*(=|$))", r"\1", parameter)


def main(folder: Path) -> None:
    names = {use.name for use in all_uses()}
    found = {release: signatures_of(folder / release, names) for release in RELEASES}
    lines = []
    for release, signatures in found.items():
        listed = [f"  {json.dumps(n)}: {json.dumps(s)}" for n, s in signatures.items()]
        lines.append(f" {json.dumps(release)}: {{\n" + ",\n".join(listed) + "\n }")
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
