"""What files of others have no place for: item scales, and the mean lengths of lists."""

from __future__ import annotations

from merlin_poeem.index.index import Index


def refuse_scales(index: Index, form: str, *, without_scales: bool) -> None:
    """``ValueError`` where ``form`` would lose the item scales of ``index`` unasked."""
    if index.quantization.has_scales and not without_scales:
        raise ValueError(
            f"index: expected one without item scales, which {form} can't hold; "
            "without_scales=True leaves them out, and items then score as x̂ in the place of s · x̂"
        )
