"""A trained model as a Triton model: from a user's features to candidates."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import tensorflow as tf

from merlin_poeem.blocks.export.query_tower import load_query_tower, save_query_tower
from merlin_poeem.blocks.export.served_columns import save_served_columns
from merlin_poeem.blocks.export.served_tower import save_served_tower
from merlin_poeem.blocks.export.workflow_part import AnyWorkflow
from merlin_poeem.blocks.model.freshness import check_fresh
from merlin_poeem.serving.config import (
    Serving,
    check_inputs,
    ensemble_config_text,
    tower_config_text,
)
from merlin_poeem.serving.export import REQUIRES, SearchExport
from merlin_poeem.serving.input_spec import InputSpec
from merlin_poeem.serving.raw_columns import RawColumns, files_of
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
    workflow: AnyWorkflow | None = None,
    as_made: Sequence[str] = (),
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
    workflow
        The fitted NVTabular workflow of the training, or the folder that it was saved in: requests
        hold raw columns, ids included. None: they hold the tower's columns.
    as_made
        Columns of the tower that requests hold as the workflow makes them, for those that it makes
        in a way that a server does not know.
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
        Instances are the tower's, so that a host has the index in memory once.

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
    TypeError, ValueError
        The workflow does to a column what a server does not know (both are named), or makes of a
        row what the server would not; ``titles`` are no column of the index's item table; the model
        is there with other tensors, or, ``apart``, with another tower or workflow; an option is out
        of range.
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
        if workflow is None and as_made:
            raise ValueError(f"as_made: expected a workflow beside it, got none and {as_made}")
        if workflow is not None:
            save_served_columns(workflow, served, as_made=as_made)
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

    return export.write(path, name, RawColumns.load(served).inputs, save_tower)


def _write_apart(
    export: SearchExport,
    path: str | os.PathLike[str],
    name: str,
    served: Path,
    facts: TowerFacts,
) -> ServedModel:
    """The search, then the tower where it is not there yet, and at last what joins them."""
    # Or else Triton answers "unexpected deadlock" where one is missing; the tower names it.
    inputs = [replace(spec, optional=True) for spec in RawColumns.load(served).inputs]
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
    check_inputs(inputs)
    _check_tower(Path(path) / tower_name, served)
    # The index is in memory once, and searched by all cores, however many towers there are.
    once = replace(export, serving=replace(export.serving, instances=1))
    search = once.write(path, search_name, export.inputs)
    if not versions_of(Path(path) / tower_name):
        with new_version(path, tower_name, of_tower, module="tower_model") as (_, folder):
            shutil.copytree(served, folder / TOWER)
        write_install(Path(path) / tower_name, [*REQUIRES, *facts.requires])
    if not versions_of(Path(path) / name):
        with new_version(path, name, of_both):
            pass
    requires = [*search.requires, *facts.requires]
    return replace(search, name=name, version=1, requires=requires)


def _check_tower(model: Path, served: Path) -> None:
    """``ValueError`` where another tower is served: two models are not swapped in one step."""
    for version in versions_of(model):
        known, new = model / str(version) / TOWER, served
        if _what_counts(known) != _what_counts(new):
            raise ValueError(
                f"{model}: expected the query tower and the workflow that are served, got others: "
                "export them under another name, or without apart=True"
            )


def _what_counts(tower: Path) -> dict[str, str | bytes]:
    """Of a served tower: the fingerprint of its weights, and the files of its raw columns."""
    columns = {path.name: path.read_bytes() for path in files_of(tower)}
    return {"fingerprint": TowerFacts.load(tower).fingerprint, **columns}
