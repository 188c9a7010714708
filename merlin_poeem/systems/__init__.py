"""Serving on Triton through Merlin Systems 23.8: the search as a step, and what exports it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from merlin_poeem.optional import needed_by

with needed_by("merlin_poeem.systems", "systems"):
    from merlin_poeem.systems.query_poeem import QueryPoeem

if TYPE_CHECKING:
    from merlin_poeem.systems.export import Repository, export_ensemble, export_saved_model

__all__ = ["QueryPoeem", "Repository", "export_ensemble", "export_saved_model"]


def __getattr__(name: str) -> Any:
    # Exporting needs TensorFlow and Merlin Models; the server, which unpickles a QueryPoeem from
    # here, has neither in its Python backend.
    if name in __all__:
        with needed_by(f"merlin_poeem.systems.{name}", "systems"):
            export = import_module("merlin_poeem.systems.export")
        return getattr(export, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
