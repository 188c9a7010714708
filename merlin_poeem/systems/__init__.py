"""Serving on Triton through Merlin Systems 23.8: the search as a step, and what exports it."""

from merlin_poeem.systems.export import Repository, export_ensemble, export_saved_model
from merlin_poeem.systems.query_poeem import QueryPoeem

__all__ = ["QueryPoeem", "Repository", "export_ensemble", "export_saved_model"]
