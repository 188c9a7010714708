"""An index as a Triton model that is asked with query vectors, and what any export of it shares."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from merlin_poeem.index.copies import copy_index, fingerprint_of
from merlin_poeem.index.index import Index
from merlin_poeem.index.loading import load_index
from merlin_poeem.quantization.params import positive_int
from merlin_poeem.search.searcher import BACKENDS
from merlin_poeem.serving.config import Serving, check_inputs, config_text
from merlin_poeem.serving.input_spec import InputSpec
from merlin_poeem.serving.repository import ServedModel, new_version, write_install
from merlin_poeem.serving.requests import Limits
from merlin_poeem.serving.spec import INDEX, TOWER, ServingSpec
from merlin_poeem.serving.tower_facts import OUTPUT as QUERY_VECTOR

REQUIRES = ["merlin-poeem[cpu]"]


@dataclass(frozen=True)
class SearchExport:
    """What an export says of a search, checked: :meth:`of`."""

    index_path: str
    index: Index
    limits: Limits
    titles: str | None
    backend: str
    serving: Serving

    @classmethod
    def of(
        cls,
        index_path: str | os.PathLike[str],
        *,
        k: int,
        largest_k: int,
        titles: str | None,
        backend: str,
        serving: Serving | None,
    ) -> SearchExport:
        """Raises what :func:`export_search` promises, before anything is written."""
        k, largest_k = positive_int("k", k), positive_int("largest_k", largest_k)
        if k > largest_k:
            raise ValueError(f"k: expected at most largest_k, {largest_k}; got {k}")
        if backend not in (*BACKENDS, "auto"):
            raise ValueError(
                f"backend: expected one of {', '.join((*BACKENDS, 'auto'))}; got {backend!r}"
            )
        index = load_index(index_path)
        _check_titles(index, titles)
        limits = Limits(k, largest_k)
        return cls(os.fspath(index_path), index, limits, titles, backend, serving or Serving())

    def config(self, name: str, inputs: Sequence[InputSpec]) -> str:
        """The text of ``config.pbtxt`` of a model with these inputs."""
        return config_text(
            name,
            inputs,
            has_keys=self.index.has_item_keys,
            has_titles=self.titles is not None,
            serving=self.serving,
        )

    @property
    def inputs(self) -> list[InputSpec]:
        """Of a model that is asked with vectors."""
        return [InputSpec(QUERY_VECTOR, "float32", self.index.dim)]

    def write(
        self,
        repository: str | os.PathLike[str],
        name: str,
        inputs: Sequence[InputSpec],
        save_tower: Callable[[Path], Sequence[str]] | None = None,
    ) -> ServedModel:
        """The next version of the model ``name``, with a tower where ``save_tower`` saves one.

        That gets the folder to make, and returns what ``pip install`` takes for it.
        """
        check_inputs(inputs)
        config = self.config(name, inputs)
        with new_version(repository, name, config, module="model") as (version, folder):
            copy_index(self.index_path, fingerprint_of(self.index_path), folder / INDEX)
            requires = [*REQUIRES, *(save_tower(folder / TOWER) if save_tower else ())]
            spec = ServingSpec(
                inputs=list(inputs),
                limits=self.limits,
                has_keys=self.index.has_item_keys,
                titles=self.titles,
                has_tower=save_tower is not None,
                backend=self.backend,
                created=time.time(),
                requires=requires,
            )
            spec.save(folder)
        write_install(Path(repository) / name, requires)
        return ServedModel(Path(repository), name, version, requires)


def export_search(
    index_path: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    name: str = "search",
    k: int = 100,
    largest_k: int = 1000,
    titles: str | None = None,
    backend: str = "auto",
    serving: Serving | None = None,
) -> ServedModel:
    """Export a saved index as a Triton model that is asked with query vectors.

    Requests hold ``query_vector``, (n, dim) float32. For requests of features see
    :func:`merlin_poeem.blocks.export_retrieval`, which exports the query tower with it. Neither
    TensorFlow nor Merlin is needed, here or at the server.

    Parameters
    ----------
    index_path
        The directory of a saved index, which is copied.
    path
        The model repository. Where it holds the model already, the next version is made beside the
        others; its tensors have to be the same.
    name
        Of the model.
    k, largest_k
        Candidates a row where the request names none, and the most that it may ask for.
    titles
        A column of the index's item table that answers hold beside the ids.
    backend
        As of :func:`~merlin_poeem.open_searcher`, chosen at the server.
    serving
        How Triton runs it: :class:`Serving`.

    Raises
    ------
    FileNotFoundError
        There is nothing at ``index_path``.
    ValueError
        What is there is no index; ``titles`` are no column of its item table; the model is there
        with other tensors; an option is out of range.
    """
    export = SearchExport.of(
        index_path, k=k, largest_k=largest_k, titles=titles, backend=backend, serving=serving
    )
    return export.write(path, name, export.inputs)


def _check_titles(index: Index, titles: str | None) -> None:
    columns = [] if index.item_table is None else list(index.item_table.columns)
    if titles is not None and titles not in columns:
        raise ValueError(f"titles: expected a column of the item table, {columns}; got {titles!r}")
