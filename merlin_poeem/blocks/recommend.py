"""From users as the application has them to candidates with titles, in one call."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import tensorflow as tf
from merlin.schema import Tags

from merlin_poeem.arrays import Float32, type_name
from merlin_poeem.blocks.export.query_tower import QueryTower, load_query_tower
from merlin_poeem.blocks.export.tower_rows import tower_vectors
from merlin_poeem.blocks.export.workflow_part import AnyWorkflow, WorkflowPart
from merlin_poeem.blocks.model.freshness import check_fresh, tower_fingerprint
from merlin_poeem.blocks.model.towers import query_tower_of
from merlin_poeem.frames.items import with_items
from merlin_poeem.frames.queries import Queries, SearchOptions
from merlin_poeem.frames.results import Form
from merlin_poeem.frames.search_frame import check_searcher, found_frame
from merlin_poeem.search.searcher import Searcher

AnyTower: TypeAlias = tf.keras.Model | QueryTower | str | os.PathLike[str]


def recommend(
    tower: AnyTower,
    searcher: Searcher,
    users: pd.DataFrame,
    *,
    k: int = 10,
    workflow: AnyWorkflow | None = None,
    query_id: str | None = None,
    exclude: Any = None,
    allow: Any = None,
    n_probes: int | None = None,
    refine: int | None = None,
    form: Form = "long",
    batch_size: int = 8192,
) -> pd.DataFrame:
    """Candidates for each row of ``users``, with what the index knows about the items.

    In one call::

        found = recommend(model, searcher, users, workflow=workflow, k=10, exclude="seen")

    Parameters
    ----------
    tower
        A trained two-tower model; a query tower that was saved by ``save_query_tower``, opened, or
        its folder.
    searcher
        Of an index that was exported from the same model.
    users
        Rows of features, raw with a ``workflow``. A user whom the training did not know has the
        features alone: the column of ids may be missing, or null, and stands for an unknown user.
    workflow
        The fitted NVTabular workflow of the training, or the folder that it was saved in. None:
        ``users`` are as it makes them.
    query_id
        The column that names the users in the result, as of :func:`~merlin_poeem.search_frame`;
        None is the tower's user id where ``users`` have it, or else their index.
    k, exclude, allow, n_probes, refine, form
        As of :func:`~merlin_poeem.search_frame`: columns of ``users``, with ids as the index has
        them, or ids for all rows.
    batch_size
        Rows per call of the tower.

    Returns
    -------
    The frame of :func:`~merlin_poeem.search_frame`; in the long form with the columns of the
    index's item table beside it, where it has one.

    Raises
    ------
    StaleIndexError
        The model has been trained since the index was exported, or is another.
    TypeError, ValueError
        ``users`` that are no pandas frame; what :func:`~merlin_poeem.search_frame` and
        :func:`~merlin_poeem.blocks.query_vectors` refuse.
    """
    if not isinstance(users, pd.DataFrame):
        remedy = ": take its to_pandas()" if hasattr(users, "to_pandas") else ""
        raise TypeError(f"users: expected a pandas DataFrame, got {type_name(users)}{remedy}")
    check_searcher(searcher)
    index, opened = searcher.index, _Tower.of(tower)
    check_fresh(index, {"query_tower": opened.fingerprint})
    part = None if workflow is None else WorkflowPart(workflow, opened.columns)
    user_id = opened.user_id if part is None else part.user_id
    options = SearchOptions(
        k=k,
        query_id=query_id or (user_id if user_id in users else None),
        exclude=exclude,
        allow=allow,
        n_probes=n_probes,
        refine=refine,
        form=form,
    )
    vectors: Float32 = np.empty((0, index.dim), np.float32)
    if len(users):
        vectors = opened.vectors(users if part is None else part(users), batch_size)
    queries = Queries.read(users, options, index.dim, vectors=vectors, keys=index.item_keys)
    found = found_frame(searcher, pd, queries, options)
    has_items = form == "long" and index.item_table is not None
    return with_items(found, index) if has_items else found


class _Tower(NamedTuple):
    """A query tower, of whatever kind it was given as."""

    columns: list[str]
    """That it reads."""
    user_id: str | None
    """Of those the users' ids, where that is known."""
    fingerprint: str
    vectors: Callable[[pd.DataFrame, int], Float32]
    """Of the rows of a frame, (n, dim), so many at a time."""

    @classmethod
    def of(cls, tower: AnyTower) -> _Tower:
        if isinstance(tower, str | os.PathLike):
            tower = load_query_tower(tower)
        if isinstance(tower, QueryTower):
            return cls(tower.columns, None, tower.fingerprint, tower.vectors)
        layer = query_tower_of(tower)
        user_ids = layer.schema.select_by_tag(Tags.USER_ID).column_names
        return cls(
            list(layer.schema.column_names),
            next(iter(user_ids), None),
            tower_fingerprint(layer),
            partial(tower_vectors, layer),
        )
