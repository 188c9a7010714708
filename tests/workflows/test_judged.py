"""The users of a table: those with test pairs, and what a search for them is worth."""

from __future__ import annotations

import numpy as np
import pandas as pd

from workflows.judged import Judged, items_of

TRAIN = pd.DataFrame({"user_id": [7, 7, 9], "item_id": [1, 2, 3]})
TEST = pd.DataFrame({"user_id": [9, 5, 9], "item_id": [4, 6, 2]})


def test_items_come_in_the_order_of_the_users() -> None:
    lists = items_of([9, 8, 7], TRAIN)
    assert [lists.row(i).tolist() for i in range(3)] == [[3], [], [1, 2]]


def test_users_without_test_pairs_are_left_out() -> None:
    users = pd.DataFrame({"user_id": [7, 9, 5], "age": [70, 90, 50]})
    judged = Judged.of(users, TRAIN, TEST, k=2)
    expected = pd.DataFrame({"user_id": [9, 5], "age": [90, 50]})
    pd.testing.assert_frame_equal(judged.users, expected)
    assert [judged.relevant.row(i).tolist() for i in range(2)] == [[4, 2], [6]]
    assert [judged.seen.row(i).tolist() for i in range(2)] == [[3], []]
    # Of user 9's two items one, of user 5's only item none.
    assert judged.quality(np.array([[4, 1], [1, 2]]))["recall_at_2"] == 0.25
    assert list(judged.quality(np.array([[4, 2], [6, 1]])).values()) == [1, 1]
