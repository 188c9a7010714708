"""What a user and a place are seen with: other places that the user visited, places like it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from merlin_poeem.arrays import Int64

# Rows of similarities that are held at a time.
BLOCK = 4096


def similar_places(pairs: pd.DataFrame, n_items: int, n: int) -> Int64:
    """(n_items, n) int64, the ``n`` places that most share their visitors with each place.

    The similarity is the cosine of two places' visitors, where users of many visits count less.
    One visit is added to each place's, so that places with few are not each other's nearest by
    chance. A place stands in for neighbours that it does not have.

    ``pairs`` are the training visits, ``user_id, item_id``, ids below ``n_items``.
    """
    users, items = pairs["user_id"].to_numpy(), pairs["item_id"].to_numpy()
    weights = np.bincount(users)[users] ** -0.5
    visits = csr_matrix((weights.astype(np.float32), (items, users)))
    visits.resize(n_items, visits.shape[1])
    sizes = np.asarray(visits.multiply(visits).sum(axis=1)).ravel()
    visits = visits.multiply(((sizes + 1) ** -0.5)[:, None]).tocsr().astype(np.float32)
    neighbours = np.repeat(np.arange(n_items)[:, None], n, axis=1)
    for start in range(0, n_items, BLOCK):
        similar = (visits[start : start + BLOCK] @ visits.T).tocsr()
        for row, place in enumerate(range(start, start + similar.shape[0])):
            entries = slice(similar.indptr[row], similar.indptr[row + 1])
            others, values = similar.indices[entries], similar.data[entries]
            is_other = others != place
            others, values = others[is_other], values[is_other]
            # Equal ones by number.
            nearest = others[np.lexsort((others, -values))[:n]]
            neighbours[place, : len(nearest)] = nearest
    return neighbours


def other_visits(pairs: pd.DataFrame, n: int, seed: int) -> Int64:
    """(len(pairs), n) int64, for each visit ``n`` others of its user, drawn with replacement.

    A user is to be recommended places that are not among the visits that are known: in training,
    the place to be found is left out. The one visit of a user who has no other is drawn itself.
    """
    users, items = pairs["user_id"].to_numpy(), pairs["item_id"].to_numpy()
    by_user = np.argsort(users, kind="stable")
    counts = np.bincount(users)
    firsts = np.cumsum(counts) - counts
    ranks = np.empty(len(pairs), np.int64)
    ranks[by_user] = np.arange(len(pairs)) - firsts[users[by_user]]
    own = counts[users][:, None]
    steps = np.random.default_rng(seed).integers(1, np.maximum(own, 2), (len(pairs), n))
    drawn = firsts[users][:, None] + (ranks[:, None] + steps) % own
    return items[by_user[drawn]].astype(np.int64)
