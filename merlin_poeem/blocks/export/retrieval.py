"""A trained model as a Triton model: from a user's features to candidates."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import tensorflow as tf

from merlin_poeem.blocks.export.query_tower import load_query_tower, save_query_tower
from merlin_poeem.blocks.export.served_tower import save_served_tower
from merlin_poeem.blocks.model.freshness import check_fresh
from merlin_poeem.serving.config import Serving, ensemble_config_text, tower_config_text
from merlin_poeem.serving.export import REQUIRES, SearchExport
from merlin_poeem.serving.inputs import InputSpec
from merlin_poeem.serving.queries import inputs_of
from merlin_poeem.serving.repository import ServedModel, new_version, versions_of, write_install
from merlin_poeem.serving.spec import TOWER
from merlin_poeem.serving.tower_facts import OUTPUT, TowerFacts


def export_retrieval(
    tower: tf.keras.Model | str | os.PathLike[str],
    index_path: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    name: str = "retrieval",
    k: int = 100,
    largest_k: int = 1000,
    titles: str | None = None,
    runtime: str = "auto",
    backend: str = "auto",
    serving: Serving | None = None,
    apart: bool = False,
) -> ServedModel:
    """Export query tower and search as one Triton model, for Triton's Python backend alone.

    Parameters
    ----------
    tower
        A trained two-tower model, or the folder of a saved query tower.
    index_path
        The directory of an index saved from the same model, which is copied.
    path
        The model repository. Where it holds the model already, the next version is made beside the
        others; its tensors have to be the same.
    name
        Of the model that requests are sent to.
    k, largest_k
        Candidates a row where the request names none, and the most that it may ask for.
    titles
        A column of the index's item table that answers hold beside the ids.
    runtime
        What runs the tower at the server: ``"onnx"``, ONNX Runtime; ``"tensorflow"``, any from 2.12
        on; ``"auto"``, ONNX Runtime where the tower can be converted. It is logged, and in
        ``requires``.
    backend
        What searches, as of :func:`~merlin_poeem.open_searcher`, chosen at the server.
    serving
        How Triton runs it: :class:`~merlin_poeem.serving.Serving`.
    apart
        Write the tower and the search as models of their own, ``<name>_tower`` and
        ``<name>_search``, and ``name`` as the ensemble of both. Versions of it share the tower.

    Returns
    -------
    ServedModel
        Its ``requires`` names what the server has to install, as ``INSTALL.txt`` beside the model.

    Raises
    ------
    StaleIndexError
        The index was exported from a model with other weights.
    FileNotFoundError
        There is nothing at ``index_path``, or where the tower is said to be.
    ModuleNotFoundError
        ``runtime="onnx"``, and what converts is not installed.
    ValueError
        ``titles`` are no column of the index's item table; the model is there with other tensors,
        or, ``apart``, with another tower; an option is out of range.
    """
    export = SearchExport.of(
        index_path, k=k, largest_k=largest_k, titles=titles, backend=backend, serving=serving
    )
    with TemporaryDirectory() as folder:
        if isinstance(tower, tf.keras.Model):
            check_fresh(export.index, tower)
            tower, model = Path(folder) / "query_tower", tower
            save_query_tower(model, tower)
        check_fresh(export.index, {"query_tower": load_query_tower(tower).fingerprint})
        served = Path(folder) / TOWER
        facts = save_served_tower(tower, served, runtime=runtime)
        write = _write_apart if apart else _write_whole
        return write(export, path, name, served, facts)


def _write_whole(
    export: SearchExport,
    path: str | os.PathLike[str],
    name: str,
    served: Path,
    facts: TowerFacts,
) -> ServedModel:
    def save_tower(target: Path) -> list[str]:
        shutil.copytree(served, target)
        return list(facts.requires)

    return export.write(path, name, inputs_of(facts.features), save_tower)


def _write_apart(
    export: SearchExport,
    path: str | os.PathLike[str],
    name: str,
    served: Path,
    facts: TowerFacts,
) -> ServedModel:
    """The search, then the tower where it is not there yet, and at last what joins them."""
    # Or else Triton answers "unexpected deadlock" where one is missing; the tower names it.
    inputs = [replace(spec, optional=True) for spec in inputs_of(facts.features)]
    between = InputSpec(OUTPUT, "float32", facts.dim)
    tower_name, search_name = f"{name}_tower", f"{name}_search"
    of_tower = tower_config_text(tower_name, inputs, between, export.serving)
    of_both = ensemble_config_text(
        name,
        tower_name,
        search_name,
        inputs,
        between,
        has_keys=export.index.has_item_keys,
        has_titles=export.titles is not None,
        serving=export.serving,
    )
    _check_tower(Path(path) / tower_name, facts)
    search = export.write(path, search_name, export.inputs)
    if not versions_of(Path(path) / tower_name):
        with new_version(path, tower_name, of_tower, module="tower_model") as (_, folder):
            shutil.copytree(served, folder / TOWER)
        write_install(Path(path) / tower_name, [*REQUIRES, *facts.requires])
    if not versions_of(Path(path) / name):
        with new_version(path, name, of_both):
            pass
    requires = [*search.requires, *facts.requires]
    return replace(search, name=name, version=1, requires=requires)


def _check_tower(model: Path, facts: TowerFacts) -> None:
    """``ValueError`` where another tower is served: two models are not swapped in one step."""
    for version in versions_of(model):
        known = TowerFacts.load(model / str(version) / TOWER)
        if known.fingerprint != facts.fingerprint:
            raise ValueError(
                f"{model}: expected the query tower {known.fingerprint}, which is served, got "
                f"{facts.fingerprint}: export a model that was trained on under another name, or "
                "without apart=True"
            )
