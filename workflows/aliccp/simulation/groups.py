"""Made-up items in groups, drawn by popularity: the most popular first, by a power law."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEAD_SIZE = 5.0

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Groups:
    """Items by category, shop or brand; inside a group the most popular come first."""

    of_item: Ints
    """(n_items,) int32: the group of each item."""
    order: Ints
    """(n_items,) int32: items, group after group."""
    starts: Ints
    """(n_groups + 1,) int64: where each group begins in ``order``."""

    @classmethod
    def of(cls, of_item: Ints, n_groups: int) -> Groups:
        """Groups 0 to ``n_groups`` - 1 of items that are numbered by popularity."""
        order = np.argsort(of_item, kind="stable").astype(np.int32)
        counts = np.bincount(of_item, minlength=n_groups)
        return cls(of_item.astype(np.int32), order, np.concatenate([[0], np.cumsum(counts)]))

    @property
    def n_groups(self) -> int:
        """Groups, the empty ones among them."""
        return len(self.starts) - 1

    def size(self, groups: Ints) -> Ints:
        """Items in each of ``groups``."""
        return self.starts[groups + 1] - self.starts[groups]

    def draw(self, groups: Ints, rng: np.random.Generator) -> Ints:
        """An item of each of ``groups``, none of them empty, by popularity."""
        return self.order[self.starts[groups] + draw_ranks(self.size(groups), rng)]

    def members(self, group: int) -> Ints:
        """The items of one group, the most popular first."""
        return self.order[self.starts[group] : self.starts[group + 1]]


def draw_ranks(sizes: Ints, rng: np.random.Generator) -> Ints:
    """A rank from 0 to ``size`` - 1 each, by a power law: about ∝ 1 / (rank + HEAD_SIZE)."""
    drawn = HEAD_SIZE * ((sizes + HEAD_SIZE) / HEAD_SIZE) ** rng.random(len(sizes)) - HEAD_SIZE
    return np.minimum(drawn.astype(np.int64), sizes - 1)


def rank_share(ranks: Ints, size: int) -> Floats:
    """The probability with which :func:`draw_ranks` draws each of ``ranks``."""
    return np.log1p(1 / (ranks + HEAD_SIZE)) / np.log1p(size / HEAD_SIZE)
