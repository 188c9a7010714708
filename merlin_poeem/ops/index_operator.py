"""What the operators share: an index named by its path, which travels with the workflow.

An operator holds the path and the fingerprint of a saved index, and nothing that is open: that
pickles in a few bytes, to a Dask worker or into ``workflow.pkl``. See
:mod:`merlin_poeem.index.copies`; :mod:`merlin_poeem.ops.workflow_json` on ``graph.json``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dask
from merlin.dag.operator import DataFormats
from nvtabular.ops.stat_operator import StatOperator

from merlin_poeem.index.copies import copy_index, fingerprint_of, open_index
from merlin_poeem.index.index import Index
from merlin_poeem.index.loading import load_index


class IndexOperator(StatOperator):
    """Base of operators that use the index saved in the directory ``index_path``.

    It learns nothing from data. It is a ``StatOperator`` because to those NVTabular gives the
    folder that a workflow is saved in or loaded from: the index is copied into it, so that the
    folder can be moved, and the loaded workflow uses that copy.

    Partitions may be empty where the operator ends the workflow. Where its columns are put beside
    others, ``op + ["user_id"]``, the executor of merlin-core 23.8 drops what is empty, and then
    misses every column that the data did not have from the start: a ``KeyError`` that names them.
    No operator has a say in that; remove empty partitions first.

    Raises
    ------
    FileNotFoundError
        There is nothing at ``index_path``.
    IndexFormatError
        What is there is no index, or damaged.
    """

    fitted = True
    """There is nothing to fit: ``Workflow.fit_schema`` is enough before ``transform``."""

    def __init__(self, index_path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.index_path = str(Path(index_path).resolve())
        load_index(self.index_path)
        self.fingerprint = fingerprint_of(self.index_path)

    @property
    def index(self) -> Index:
        """The saved index, opened on first use in this process."""
        return open_index(self.index_path, self.fingerprint)

    def arguments(self) -> dict[str, Any]:
        """What the constructor takes beside :attr:`copies`, by name, as JSON holds it."""
        return {}

    @property
    def copies(self) -> dict[str, str]:
        """The constructor's arguments that are copied with a workflow, and their folders' names."""
        return {"index_path": f"index-{self.fingerprint}"}

    @property
    def supported_formats(self) -> DataFormats:
        return DataFormats.PANDAS_DATAFRAME | DataFormats.CUDF_DATAFRAME

    def fit(self, col_selector: Any, ddf: Any) -> Any:
        """Nothing to compute."""
        # Not None, which DaskExecutor drops and then hands the next operator's results to this one.
        return dask.delayed(0)

    def fit_finalize(self, dask_stats: Any) -> None:
        """Nothing was computed."""

    def clear(self) -> None:
        """There are no statistics."""

    def set_storage_path(self, new_path: str | os.PathLike[str], copy: bool = False) -> None:
        """Called by ``Workflow.save`` (``copy``) and ``Workflow.load`` with the workflow's folder.

        Raises ``ValueError`` where that is no local folder, or where the index at ``index_path``
        has been replaced since the operator was made.
        """
        if "://" in str(new_path):
            raise ValueError(f"path: expected a local folder for the workflow, got {new_path}")
        bundled = Path(new_path).resolve() / self.copies["index_path"]
        if copy:
            # The operator itself stays with the index it has: the folder may be a temporary one.
            copy_index(self.index_path, self.fingerprint, bundled)
        else:
            self.index_path = str(bundled)
