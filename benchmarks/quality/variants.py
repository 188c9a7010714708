"""What is trained: the tasks, and the ways to train an index for them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from merlin_poeem.quantization.params import Metric

NEVER = 1 << 30


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    pq_dim: int | None = 8
    """None: the towers alone, without a quantizer."""
    pq_bits: int = 8
    options: dict[str, Any] = field(default_factory=dict)
    """What the quantizer is told beyond its defaults."""

    @property
    def bytes_per_item(self) -> float | None:
        """Of its codes."""
        return None if self.pq_dim is None else self.pq_dim * self.pq_bits / 8

    @property
    def training_options(self) -> dict[str, Any]:
        """All that the quantizer is told."""
        return {"pq_dim": self.pq_dim, "pq_bits": self.pq_bits, **self.options}


POEEM = {"rotation": False, "float_share": 0.0, "agreement": 0.0, "balance": 0.0}

VARIANTS = {
    "plain": Variant(None),
    "ours-8": Variant(),
    "ours-4": Variant(pq_bits=4),
    "ours-4x8": Variant(pq_dim=4),
    "ours-16": Variant(pq_dim=16),
    "ours-32": Variant(pq_dim=32),
    # Reconstruction and straight-through, every row quantized.
    "poeem-8": Variant(options=POEEM),
    "poeem-4": Variant(pq_bits=4, options=POEEM),
    # Two ways of one part: the tutorial's workflow has it, the others have not.
    "with-agreement": Variant(options={"agreement": 0.5}),
    "without-agreement": Variant(options={"agreement": 0.0}),
    "with-stretch": Variant(options={"stretch": 0.25}),
    "without-balance": Variant(options={"balance": 0.0}),
    "without-rotation": Variant(options={"rotation": False}),
    "without-rotation-updates": Variant(options={"rotation_interval": NEVER}),
    "without-float-share": Variant(options={"float_share": 0.0}),
    "without-commitment": Variant(options={"commitment": 0.0}),
}
QUICK_VARIANTS = ("plain", "ours-8", "poeem-8")


def variant_of(name: str) -> Variant:
    """The variant of a name, which may bring options of its own: ``ours-8:commitment=0.5,seed=1``.

    Values are JSON. ``ValueError`` for an unknown variant, options of the plain towers, or what is
    no option with a value.
    """
    base, colon, told = name.partition(":")
    if base not in VARIANTS:
        raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, got {base!r}")
    variant = VARIANTS[base]
    if not colon:
        return variant
    if variant.pq_dim is None:
        raise ValueError(f"variant: expected no options of {base}, which has no index, got {told}")
    options = dict(_option(text) for text in told.split(","))
    return replace(variant, options={**variant.options, **options})


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    try:
        if key and equals:
            return key, json.loads(value)
    except json.JSONDecodeError:
        pass
    raise ValueError(f"variant: expected options such as commitment=0.5, got {text!r}")


@dataclass(frozen=True)
class Task:
    """One data set and what is asked of it."""

    metrics: tuple[str, ...]
    """What its searches are judged by, the chief one first."""
    share: float
    """Of the items, may be scanned where settings are chosen."""
    metric: Metric
    """What its towers score by."""
    data: str | None = None
    """The folder of its files, within the one that the user names; None: it makes its own."""


RANKING = ("recall_at_20", "ndcg_at_20", "precision_at_100")
TASKS = {
    "tutorial": Task(("precision_at_100",), 0.2, "cosine"),  # one of its eight lists
    "movielens-1m": Task(RANKING, 0.1, "cosine", "ml-1m"),
    "gowalla": Task(RANKING, 0.05, "inner_product", "gowalla"),
    "aliccp": Task(("recall_at_100", "ndcg_at_20"), 0.1, "cosine"),
}
