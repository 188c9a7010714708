"""Vectors for users and places without training: a singular value decomposition of the visits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.utils.extmath import randomized_svd

from merlin_poeem.arrays import Float32, Int64


@dataclass(frozen=True)
class Vectors:
    """Users and places in one space: their inner product says how likely the visit is."""

    user_ids: Int64
    users: Float32
    """(n_users, dim) float32."""
    item_ids: Int64
    items: Float32
    """(n_items, dim) float32."""


def factorize(pairs: pd.DataFrame, dim: int, seed: int = 0) -> Vectors:
    """The first ``dim`` singular vectors of the visits, each user and place scaled by its degree.

    This is the low-pass filter of GF-CF (Shen et al., CIKM 2021): a user's vector is the mean of
    the places visited, the popular ones counting less.
    """
    user_ids, rows = np.unique(pairs["user_id"], return_inverse=True)
    item_ids, columns = np.unique(pairs["item_id"], return_inverse=True)
    by_user, by_item = np.bincount(rows) ** -0.5, np.bincount(columns) ** -0.5
    weights = (by_user[rows] * by_item[columns]).astype(np.float32)
    visits = csr_matrix((weights, (rows, columns)), (len(user_ids), len(item_ids)))
    _, _, places = randomized_svd(visits, dim, n_iter=3, random_state=seed)
    places = np.ascontiguousarray(places.T, np.float32)
    return Vectors(
        user_ids,
        np.asarray(visits @ places, np.float32),
        item_ids,
        (places / by_item[:, None]).astype(np.float32),
    )
