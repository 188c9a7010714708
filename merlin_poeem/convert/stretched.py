"""What files of others have no place for: a matrix for queries that is not that of items."""

from __future__ import annotations

from merlin_poeem.index.index import Index


def refuse_stretched(index: Index, form: str) -> None:
    """``ValueError`` where ``form`` would put queries, or items added there, elsewhere."""
    if index.quantization.query_rotation is not None:
        raise ValueError(
            f"index: expected one without a query_rotation, as {form} has one matrix for items and "
            "queries; fit without queries makes one, or a training with stretch=0"
        )
