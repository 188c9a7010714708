"""Colours that the colour-blind can tell apart: one that stands out, and those beside it."""

from __future__ import annotations

OWN = "#D55E00"
OTHERS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#8C6D1F", "#4B4B8F")
MARKERS = ("s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.")
REFERENCE = "0.45"
FAINT = "0.82"
