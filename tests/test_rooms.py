"""The house stays as drawn: a room imports only the rooms below it, and no module imports itself.

The rooms and what lives in each: CONTRIBUTING.md, "Where things go". Imports inside functions and
under ``TYPE_CHECKING`` count too.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "merlin_poeem"

GROUND = {"arrays", "atomic_files", "optional", "progress", "version"}
CODES = GROUND | {"quantization", "index"}
SEARCH = CODES | {"search"}
FRAMES = SEARCH | {"search.searcher", "frames"}

# What each room may import beside itself, from the ground up. The longest name that fits a module
# is its room: of ``search``, the searcher alone knows its backends.
ARROWS: dict[str, set[str]] = {
    "arrays": set(),
    "atomic_files": set(),
    "optional": set(),
    "progress": set(),
    "version": set(),
    "quantization": GROUND,
    "datasets": GROUND | {"quantization"},
    "index": CODES,
    "convert": CODES,
    "search": CODES,
    "search.faiss": SEARCH | {"convert"},
    "search.gpu": SEARCH,
    "search.searcher": SEARCH | {"search.faiss", "search.gpu"},
    "evaluate": SEARCH,
    "plots": CODES,
    "tuning": FRAMES | {"evaluate", "plots"},
    "frames": FRAMES,
    "encoders": FRAMES,
    "distributed": FRAMES,
    "blocks.quantizer": GROUND | {"quantization"},
    "blocks.model": CODES | {"blocks.quantizer"},
    "blocks.export": FRAMES | {"blocks.quantizer", "blocks.model", "distributed", "serving"},
    "blocks.in_graph": FRAMES | {"blocks.model", "blocks.export"},
    "blocks.recall_callback": FRAMES | {"blocks.model", "blocks.export", "evaluate"},
    "blocks.recommend": FRAMES | {"blocks.model", "blocks.export"},
    "blocks": {
        "optional",
        "blocks.recall_callback",
        "blocks.recommend",
        "blocks.quantizer",
        "blocks.model",
        "blocks.export",
        "blocks.in_graph",
    },
    "serving": FRAMES | {"evaluate"},
    "ops": FRAMES | {"blocks.model", "blocks.export"},
    "systems": FRAMES | {"blocks.model", "blocks.export", "blocks.in_graph", "serving"},
    "": FRAMES | {"tuning"},
}


def modules() -> dict[str, Path]:
    """Every module's name below the package, "" the package itself, and its file."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(path: Path, known: set[str]) -> set[str]:
    """The modules of the package that the one in ``path`` imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: expected absolute imports"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.partition(".")[0] == "merlin_poeem":
                inside = name.partition(".")[2]
                found.add(inside if inside in known else inside.rpartition(".")[0])
    return found


def room_of(module: str) -> str:
    rooms = [room for room in ARROWS if f"{module}.".startswith(f"{room}.")]
    assert rooms, f"{module}: expected a room of its own, or a place in one of {sorted(ARROWS)}"
    return max(rooms, key=len)


MODULES = modules()
IMPORTS = {name: imported(path, set(MODULES)) for name, path in MODULES.items()}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_room_imports_what_lies_below_it(module: str) -> None:
    room = room_of(module)
    wrong = {name for name in IMPORTS[module] if room_of(name) not in ARROWS[room] | {room}}
    assert not wrong, (
        f"{room} may not import {sorted(wrong)}; its arrows are {sorted(ARROWS[room])}"
    )


def test_no_circle() -> None:
    # Importing a module runs the files of the packages that it lies in, which is no arrow.
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_every_room_is_there() -> None:
    assert {room_of(name) for name in MODULES} == ARROWS.keys()
    assert set().union(*ARROWS.values()) <= ARROWS.keys()


def test_no_junk_room() -> None:
    for name in MODULES:
        assert not {"utils", "helpers", "common", "misc"} & set(name.split(".")), name
