"""The shape of an IVF-PQ index: the one configuration object of the library."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from numbers import Integral
from typing import Any, Literal, get_args

from merlin_poeem.arrays import type_name

Metric = Literal["inner_product", "cosine", "l2"]

METRICS: tuple[str, ...] = get_args(Metric)
TRAINABLE_PQ_BITS = (4, 8)
MAX_PQ_BITS = 16


@dataclass(frozen=True, kw_only=True)
class IVFPQParams:
    """Parameters of an IVF-PQ index; saved with it.

    Raises ``TypeError`` or ``ValueError`` on construction, naming the field, what was expected
    and what came.
    """

    n_lists: int
    """Coarse cells (lists) that the items are divided into."""

    pq_dim: int
    """Subspaces, and so codes, per item; must divide the embedding's ``dim``."""

    pq_bits: int = 8
    """Bits per code: a subspace has ``2 ** pq_bits`` codewords. 4 and 8 can be trained; up to 16
    occurs in indexes read from foreign files."""

    metric: Metric = "inner_product"
    """How a query q scores an item's reconstruction x̂, higher is better: ``inner_product`` ⟨q, x̂⟩;
    ``cosine`` ⟨q, x̂⟩ / (‖q‖ ‖x̂‖), items being normalised before they are encoded; ``l2`` −‖q − x̂‖²
    (the squared distance, negated)."""

    n_probes: int = 1
    """Lists visited by a search that names no ``n_probes`` of its own."""

    refine: int | None = None
    """Of a search that names no ``refine`` of its own: the best ``refine * k`` candidates are
    scored again by the vectors that the index holds; 0: none are. None: 4 in an index with vectors
    (fewer for a k above 512), 0 in others."""

    def __post_init__(self) -> None:
        for name in ("n_lists", "pq_dim", "pq_bits", "n_probes"):
            object.__setattr__(self, name, positive_int(name, getattr(self, name)))
        if self.pq_bits > MAX_PQ_BITS:
            raise ValueError(f"pq_bits: expected 1 to {MAX_PQ_BITS}, got {self.pq_bits}")
        if self.metric not in METRICS:
            raise ValueError(f"metric: expected one of {', '.join(METRICS)}; got {self.metric!r}")
        check_n_probes(self.n_probes, self.n_lists)
        if self.refine is not None:
            object.__setattr__(self, "refine", count("refine", self.refine))

    @property
    def pq_book_size(self) -> int:
        """Codewords per subspace, ``2 ** pq_bits``."""
        return 1 << self.pq_bits

    def pq_len(self, dim: int) -> int:
        """Width of one subspace of vectors of width ``dim``; ``ValueError`` unless it divides."""
        dim = positive_int("dim", dim)
        if dim % self.pq_dim:
            raise ValueError(f"pq_dim: expected a divisor of dim = {dim}, got {self.pq_dim}")
        return dim // self.pq_dim

    def to_dict(self) -> dict[str, Any]:
        """The parameters as plain JSON values; without ``refine`` where that is None."""
        values = asdict(self)
        if self.refine is None:
            del values["refine"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> IVFPQParams:
        """The inverse of :meth:`to_dict`; ``ValueError`` on missing or unknown names.

        ``refine`` may be missing.
        """
        expected = {field.name for field in fields(cls)}
        if {*values, "refine"} != expected:
            raise ValueError(f"params: expected the names {sorted(expected)}, got {sorted(values)}")
        return cls(**values)


def positive_int(name: str, value: Any) -> int:
    """``value`` as an int; ``TypeError`` unless it is an integer, ``ValueError`` unless ≥ 1."""
    return _int_from(1, name, value)


def count(name: str, value: Any) -> int:
    """``value`` as an int; ``TypeError`` unless it is an integer, ``ValueError`` below 0."""
    return _int_from(0, name, value)


def _int_from(least: int, name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an integer, got {value!r} ({type_name(value)})")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
    return int(value)


def check_n_probes(n_probes: Any, n_lists: int) -> int:
    """``n_probes`` as an int in 1..n_lists; ``TypeError`` or ``ValueError`` otherwise."""
    checked = positive_int("n_probes", n_probes)
    if checked > n_lists:
        raise ValueError(f"n_probes: expected at most n_lists = {n_lists}, got {checked}")
    return checked
