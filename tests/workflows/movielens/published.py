"""Small files in the formats of MovieLens: every user rates films of one half of the catalog."""

from __future__ import annotations

from pathlib import Path

import numpy as np

N_USERS, N_FILMS, RATINGS_EACH = 40, 300, 50
LATIN = "Misérables, Les (1995)"


def pairs() -> list[tuple[int, int]]:
    """Every user rates films of the own half of the catalog."""
    rng = np.random.default_rng(0)
    half = N_FILMS // 2
    return [
        (user, 1 + int(film) + half * (user % 2))
        for user in range(1, N_USERS + 1)
        for film in rng.choice(half, RATINGS_EACH, replace=False)
    ]


def write(path: Path, lines: list[str]) -> None:
    path.write_bytes(("\n".join(lines) + "\n").encode("latin-1"))


def title(film: int) -> str:
    return LATIN if film == 1 else "Untitled" if film == 2 else f"Film {film} ({1990 + film % 10})"
