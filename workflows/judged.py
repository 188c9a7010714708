"""The users that a table is about, what they should find, and what a search for them is worth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from merlin_poeem import IdLists
from merlin_poeem.evaluate import ndcg_at_k, recall_at_k


@dataclass(frozen=True)
class Judged:
    """Users with pairs in the test."""

    users: pd.DataFrame
    """(n, ...) rows with ``user_id`` and the query tower's columns."""
    relevant: IdLists
    """The items of their test pairs, a list a user."""
    seen: IdLists | None
    """Those of their training pairs, which are not recommended again; None where they may be."""
    k: int
    """How many results count."""

    @classmethod
    def of(cls, users: pd.DataFrame, train: pd.DataFrame, test: pd.DataFrame, k: int) -> Judged:
        """Those of ``users`` with test pairs, who want nothing that they know from training.

        A row of ``train`` and ``test`` is a pair: ``user_id, item_id``.
        """
        users = users[users["user_id"].isin(test["user_id"])].reset_index(drop=True)
        relevant, seen = (items_of(users["user_id"], pairs) for pairs in (test, train))
        return cls(users, relevant, seen, k)

    def quality(self, found: Any) -> dict[str, float]:
        """``recall_at_{k}`` and ``ndcg_at_{k}`` of what was found, as ``evaluate`` takes it."""
        return {
            f"recall_at_{self.k}": recall_at_k(found, self.relevant, self.k),
            f"ndcg_at_{self.k}": ndcg_at_k(found, self.relevant, self.k),
        }


def items_of(user_ids: Iterable[int], pairs: pd.DataFrame) -> IdLists:
    """The items of each user's ``pairs`` (``user_id, item_id``); empty for a user without any."""
    items = pairs.groupby("user_id")["item_id"].apply(np.array)
    return IdLists.from_rows([items.get(user_id) for user_id in user_ids])
