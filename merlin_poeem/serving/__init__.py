"""Serving on Triton's Python backend: what exports a model, and what the server runs of it.

Imports neither TensorFlow nor Merlin.
"""

from merlin_poeem.serving.config import Serving
from merlin_poeem.serving.export import export_search
from merlin_poeem.serving.repository import ServedModel

__all__ = ["ServedModel", "Serving", "export_search"]
