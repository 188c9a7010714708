"""Every public name is on a page of the API reference."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.pages import DOCS

pytestmark = pytest.mark.once

PACKAGE = DOCS.parent / "merlin_poeem"


def public_names() -> set[str]:
    """What each ``__all__`` of the package names; read, as half of it needs TensorFlow."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                listed = ast.literal_eval(node.value)
                names |= {f"{module.removesuffix('.__init__')}.{name}" for name in listed}
    return names


def documented_names() -> list[str]:
    pages = "\n".join(path.read_text() for path in sorted((DOCS / "api").glob("*.rst")))
    return re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", pages, re.MULTILINE)


def test_every_public_name_is_documented_once() -> None:
    documented, public = documented_names(), public_names()
    assert {"merlin_poeem.tune", "merlin_poeem.convert.cuvs.save_cuvs"} <= public
    assert public - set(documented) == set()
    assert len(documented) == len(set(documented))


def test_every_converter_says_what_is_public() -> None:
    modules = {name.rpartition(".")[0] for name in public_names()}
    expected = {f"merlin_poeem.convert.{name}" for name in ("cuvs", "faiss", "poeem")}
    assert expected | {"merlin_poeem.evaluate"} <= modules
