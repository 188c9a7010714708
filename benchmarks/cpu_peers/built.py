"""An index that one method has built, and the settings that it can be searched with."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cpu_peers.material import Batch
from merlin_poeem.arrays import Int64

Setting = dict[str, int]


@dataclass(frozen=True, eq=False)
class Built:
    """An index of one method; a method may have several, of which the best settings are taken."""

    family: str
    """The method, without what it stores."""
    stored: str
    """The kind of vectors that it holds beside codes, or instead of them; empty without any."""
    form: str
    """How it was built, where there is a choice."""
    code_bytes: float
    """Bytes an item: of codes, and of scales where there are some. Ids are counted nowhere."""
    vector_bytes: float
    """Of vectors stored for the last look, or that a graph compares."""
    link_bytes: float
    """Of a graph's links."""
    build_seconds: float
    settings: tuple[Setting, ...]
    search: Callable[[Batch, Setting], Int64]
    """(n_queries, k) rows, best first; ``NO_ROW`` where there are fewer."""

    @property
    def method(self) -> str:
        """The name of what is compared."""
        return f"{self.family}, {self.stored} vectors" if self.stored else self.family

    @property
    def bytes_per_item(self) -> float:
        """All of them."""
        return self.code_bytes + self.vector_bytes + self.link_bytes


def product(**axes: Sequence[int]) -> tuple[Setting, ...]:
    """Every setting with a value of each axis."""
    return tuple(
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    )


def timed(make: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, float]:
    """What ``make`` returns, and its seconds."""
    started = time.perf_counter()
    made = make(*arguments, **options)
    return made, time.perf_counter() - started
