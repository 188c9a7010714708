"""What a served version is: ``serving.json`` beside its index and its tower."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from merlin_poeem.atomic_files import new_file
from merlin_poeem.serving.input_spec import InputSpec
from merlin_poeem.serving.requests import Limits

SPEC_FILE = "serving.json"
MAGIC = "merlin_poeem served index"
FORMAT_VERSION = 1

INDEX, TOWER = "index", "tower"
"""Folders of a version."""


@dataclass(frozen=True)
class ServingSpec:
    """All that a server has to know of a version beside the index and the tower."""

    inputs: list[InputSpec]
    """The columns that requests hold; of an index alone ``query_vector``."""
    limits: Limits
    has_keys: bool
    """Whether item ids are texts."""
    titles: str | None
    """The column of the item table that answers hold."""
    has_tower: bool
    """Whether queries are made of features; else they come as vectors."""
    backend: str
    """As of :func:`~merlin_poeem.open_searcher`."""
    created: float
    """When it was exported, in seconds since 1970."""
    requires: list[str] = field(default_factory=list)
    """What ``pip install`` takes at the server."""

    def save(self, folder: Path) -> None:
        """Write ``serving.json`` into ``folder``."""
        header = {"magic": MAGIC, "format_version": FORMAT_VERSION}
        with new_file(folder / SPEC_FILE) as file:
            file.write(json.dumps({**header, **asdict(self)}, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> ServingSpec:
        """Of a version's folder; ``ValueError`` where there is none, or a newer one."""
        path = folder / SPEC_FILE
        try:
            told = json.loads(path.read_text())
            magic, version = told.pop("magic"), told.pop("format_version")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{folder}: expected a served version, got something else") from error
        if magic != MAGIC or version != FORMAT_VERSION:
            raise ValueError(
                f"{path}: expected {MAGIC!r}, version {FORMAT_VERSION}; got {magic!r}, {version}"
            )
        inputs = [InputSpec(**one) for one in told.pop("inputs")]
        return cls(inputs=inputs, limits=Limits(**told.pop("limits")), **told)
