"""What our modules ask of cuDF, pylibcudf, CuPy and cuVS, as read from their text."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("cudf", "pylibcudf", "cupy", "cuvs")

_COLUMN, _FRAME, _LISTS = "cudf.Series", "cudf.DataFrame", "cudf.ListMethods"

# By module: what a text stands for, an instance of a class or, of xp and the like, the library.
# Nothing ("") is a thing of no interest here. Imports are found by themselves.
MODULES: dict[str, dict[str, str]] = {
    "merlin_poeem/frames/cudf_calls.py": {
        "column": _COLUMN,
        "frame": _FRAME,
        "numbers": _FRAME,
        "filled": _FRAME,
        "is_null": _COLUMN,
        "lists": _LISTS,
        "counts": _COLUMN,
        "counts.values": "",
    },
    # What pandas and cuDF share.
    "merlin_poeem/frames/results.py": {
        "module": "cudf",
        "query_ids": "cudf.Series|cudf.Index",
        "values": _COLUMN,
    },
    "merlin_poeem/frames/list_writer.py": {"column": _COLUMN, "frame": _FRAME},
    "merlin_poeem/frames/items.py": {"frame": _FRAME},
    "merlin_poeem/frames/ready_made.py": {"frame": _FRAME},
    "merlin_poeem/distributed/encode.py": {"frame": _FRAME, "frame.iloc[:, 2:]": ""},
    "merlin_poeem/ops/assign_codes.py": {"df": _FRAME, "type(df)": _FRAME},
    "merlin_poeem/ops/retrieve_candidates.py": {
        "df": _FRAME,
        "self._search(names, queries)[list(_RESULTS)]": _FRAME,
        "found": _FRAME,
    },
    "merlin_poeem/search/gpu/device.py": {
        "self.xp": "cupy",
        "self.xp.cuda.Device()": "cupy.cuda.Device",
        "self.xp.cuda.get_current_stream()": "cupy.cuda.Stream",
        "self.xp.get_default_memory_pool()": "cupy.cuda.MemoryPool",
        "module": "cupy.RawModule",
        "stream": "cupy.cuda.Stream",
        "graph": "cupy.cuda.Graph",
        "function": "cupy.RawKernel",
        "self._function": "cupy.RawKernel",
    },
    "merlin_poeem/search/gpu/device_index.py": {"xp": "cupy"},
    "merlin_poeem/search/gpu/device_vectors.py": {"xp": "cupy"},
    "merlin_poeem/search/gpu/device_flat.py": {"xp": "cupy"},
    "merlin_poeem/search/gpu/device_queries.py": {},
    "merlin_poeem/search/gpu/filters.py": {"xp": "cupy", "device.xp": "cupy"},
    "merlin_poeem/search/gpu/flat.py": {"device.xp": "cupy"},
    "merlin_poeem/search/gpu/results.py": {"device.xp": "cupy"},
    "merlin_poeem/search/gpu/searcher.py": {"xp": "cupy"},
    "merlin_poeem/search/gpu/workspace.py": {"xp": "cupy"},
    "benchmarks/search_gpu/cuvs_peers.py": {
        "xp": "cupy",
        "resources": "cuvs.common.Resources",
    },
}
_LIBRARIES_MEANT = ("cudf", "cupy")  # all else are instances
_CLASSES_MEANT = ("type(df)",)
# Where it matters that a name is there which is not called.
_LOOKED_INTO = {"pylibcudf.TypeId", "cupy.cuda.runtime"} | {
    name for table in MODULES.values() for meant in table.values() for name in meant.split("|")
}.difference({"", *_LIBRARIES_MEANT})


@dataclass(frozen=True)
class Use:
    """One name that is called, or only looked at where ``n_positional`` is None."""

    name: str
    place: str
    n_positional: int | None = None
    keywords: tuple[str, ...] = ()
    is_whole: bool = True
    """False where a starred argument stands for others."""


def uses_in(place: str, source: str, stands_for: dict[str, str]) -> list[Use]:
    """The uses of the libraries in ``source``; ``place`` is what they say of where they are."""
    tree = ast.parse(source)
    known = {**_imported(tree), **stands_for}
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    uses = []
    for node in ast.walk(tree):
        where = f"{place}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            text = ast.unparse(node.func)
            # Of an instance that is itself called.
            call = ".__call__" if text in stands_for and _is_instance(text, stands_for) else ""
            names = [name + call for name in meanings(text, known)]
            keywords = tuple(each.arg for each in node.keywords if each.arg)
            starred = any(isinstance(each, ast.Starred) for each in node.args)
            is_whole = not starred and len(keywords) == len(node.keywords)
            uses += [Use(name, where, len(node.args), keywords, is_whole) for name in names]
        elif isinstance(node, ast.Attribute) and id(node) not in called:
            names = meanings(ast.unparse(node), known)
            uses += [Use(name, where) for name in names if name.rpartition(".")[0] in _LOOKED_INTO]
    return uses


def meanings(text: str, known: dict[str, str]) -> list[str]:
    """The names of the libraries that ``text`` may be, by the longest beginning that is known."""
    beginnings = [each for each in known if text == each or text.startswith(f"{each}.")]
    if not beginnings:
        return []
    beginning = max(beginnings, key=len)
    return [name + text[len(beginning) :] for name in known[beginning].split("|") if name]


def methods_called(source: str, stands_for: dict[str, str]) -> set[str]:
    """The texts of the methods called in ``source`` that are none of the libraries'."""
    tree = ast.parse(source)
    known = {**_imported(tree), **stands_for}
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    texts = {ast.unparse(each) for each in functions if isinstance(each, ast.Attribute)}
    return {text for text in texts if not meanings(text, known)}


def all_uses() -> list[Use]:
    """The uses in all :data:`MODULES`."""
    return [
        use
        for place, stands_for in MODULES.items()
        for use in uses_in(place, (ROOT / place).read_text(), stands_for)
    ]


def _is_instance(text: str, stands_for: dict[str, str]) -> bool:
    return stands_for[text] not in _LIBRARIES_MEANT and text not in _CLASSES_MEANT


def _imported(tree: ast.Module) -> dict[str, str]:
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
        else:
            continue
        found |= {text: name for text, name in names.items() if name.partition(".")[0] in LIBRARIES}
    return found
