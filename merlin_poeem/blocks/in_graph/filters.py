"""Excluded and allowed items in a search of the graph: which candidates of a query are eligible."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from merlin_poeem.blocks.in_graph.state import GraphState
from merlin_poeem.blocks.in_graph.visits import Visits


class GraphIdLists(NamedTuple):
    """Rows of the items in an exclude or allow: of one list a query, of one for all, or none."""

    rows: tf.Tensor
    """(n_ids,) int32, −1 where the index does not hold the id."""

    offsets: tf.Tensor
    """(1,) there is no filter; (2,) one list, for all queries; (n_queries + 1,) one a query."""

    holds: tf.Tensor
    """(n_items + 1,) bool, whether the list for all queries holds the row; else (0,)."""

    kind: tf.Tensor
    """() int32: 0 no filter, 1 one list for all queries, 2 one list a query."""


def id_lists(
    state: GraphState, name: str, values: tf.Tensor, offsets: tf.Tensor, n_queries: tf.Tensor
) -> GraphIdLists:
    n_lists = tf.size(offsets) - 1
    fits = (n_lists == n_queries) | (n_lists == 1) | (n_lists == 0)
    message = f"{name}: expected one list a query, one for all, or none"
    tf.debugging.Assert(fits, [message, "queries:", n_queries, "got:", n_lists])
    # Else an id beyond the last offset would be no one's, and so not excluded.
    bounds = tf.concat([[0], offsets, [tf.size(values, tf.int64)]], 0)
    rises = (
        tf.reduce_all(offsets[:1] == 0)
        & tf.reduce_all(bounds[1:] >= bounds[:-1])
        & tf.reduce_all(offsets[-1:] == bounds[-1])
    )
    message = f"{name} offsets: expected to rise from 0 to the number of ids"
    tf.debugging.Assert(rises, [message, "ids:", tf.size(values), "got:", offsets])
    ranks = tf.searchsorted(state.sorted_ids, values)
    is_held = tf.equal(tf.gather(state.sorted_ids, ranks), values)
    rows = tf.where(is_held, tf.gather(state.row_of_rank, ranks), -1)
    kind = tf.where(n_lists == 0, 0, tf.where((n_lists == 1) & (n_queries != 1), 1, 2))

    def held_rows() -> tf.Tensor:
        places = tf.where(rows >= 0, rows, state.n_items)[:, None]
        nothing = tf.zeros((state.n_items + 1,), tf.bool)
        return tf.tensor_scatter_nd_update(nothing, places, tf.ones_like(is_held))

    holds = tf.cond(tf.equal(kind, 1), held_rows, lambda: tf.zeros((0,), tf.bool))
    return GraphIdLists(rows, tf.cast(offsets, tf.int32), holds, kind)


def eligible(
    state: GraphState,
    visits: Visits,
    first_query: tf.Tensor,
    exclude: GraphIdLists,
    allow: GraphIdLists,
) -> tf.Tensor:
    """(n_candidates,) bool, list by list; (0,) where all are."""

    def filtered() -> tf.Tensor:
        is_allowed = tf.equal(allow.kind, 0) | _listed(state, visits, allow, first_query)
        return is_allowed & ~_listed(state, visits, exclude, first_query)

    nothing = tf.equal(exclude.kind, 0) & tf.equal(allow.kind, 0)
    return tf.cond(nothing, lambda: tf.zeros((0,), tf.bool), filtered)


def _listed(
    state: GraphState, visits: Visits, id_lists: GraphIdLists, first_query: tf.Tensor
) -> tf.Tensor:
    """(n_candidates,) bool, list by list: whether the list of the query holds the item."""
    return tf.switch_case(
        id_lists.kind,
        [
            lambda: tf.zeros((visits.n_candidates,), tf.bool),
            lambda: tf.gather(id_lists.holds, _rows(state, visits)),
            lambda: _listed_by_query(state, visits, id_lists, first_query),
        ],
    )


def _rows(state: GraphState, visits: Visits) -> tf.Tensor:
    """(n_candidates,) int32 rows, list by list."""
    lists = tf.gather(tf.reshape(visits.lists, (-1,)), visits.order)
    starts, stops = (tf.gather(state.list_offsets, lists + i) for i in (0, 1))
    return tf.ragged.range(starts, stops).flat_values


def _listed_by_query(
    state: GraphState, visits: Visits, id_lists: GraphIdLists, first_query: tf.Tensor
) -> tf.Tensor:
    """:func:`_listed` by way of the few ids in the lists, not of the many candidates."""
    n_queries, n_probes = tf.unstack(tf.shape(visits.lists))
    offsets = id_lists.offsets[first_query : first_query + n_queries + 1]
    rows = id_lists.rows[offsets[0] : offsets[-1]]
    queries = tf.searchsorted(offsets - offsets[0], tf.range(tf.size(rows)), "right") - 1
    lists = tf.searchsorted(state.list_offsets[1:-1], rows, "right")
    # Where a query's visit to each list starts among the candidates, −1 without a visit.
    visitors = tf.broadcast_to(tf.range(n_queries)[:, None], (n_queries, n_probes))
    starts = tf.tensor_scatter_nd_update(
        tf.fill((n_queries, state.n_lists), -1),
        tf.stack([visitors, visits.lists], 2),
        visits.starts,
    )
    starts = tf.gather_nd(starts, tf.stack([queries, lists], 1))
    places = starts + rows - tf.gather(state.list_offsets, lists)
    # One place more, for ids that are not among the candidates.
    n_candidates = visits.n_candidates
    places = tf.where((rows >= 0) & (starts >= 0), places, n_candidates)[:, None]
    listed = tf.zeros((n_candidates + 1,), tf.bool)
    return tf.tensor_scatter_nd_update(listed, places, tf.ones_like(rows, tf.bool))[:-1]
