"""What a frame is asked: the options of a search over frames, and its queries, read once."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AnySet
from dataclasses import dataclass
from typing import Any

from merlin_poeem.arrays import Float32, type_name
from merlin_poeem.frames.columns import read_vectors
from merlin_poeem.frames.cudf_calls import is_cudf, to_arrow
from merlin_poeem.frames.item_ids import KeySet, as_item_set, read_item_lists
from merlin_poeem.frames.results import Form, check_form, query_ids_of
from merlin_poeem.index.item_keys import UNKNOWN, ItemKeys, are_texts, as_keys
from merlin_poeem.quantization.params import count, positive_int
from merlin_poeem.search.item_set import ItemFilter, ItemSet, is_flat
from merlin_poeem.search.ragged import Candidates, IdLists
from merlin_poeem.search.searcher import AnySearcher


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The arguments of :func:`~merlin_poeem.search_frame`, which says what each means.

    Raises ``TypeError`` or ``ValueError`` on a ``k`` below 1, a ``refine`` below 0, an unknown
    ``form``, or ``exclude`` and ``allow`` that are neither columns nor item ids; what only an index
    or a frame can tell is checked with it.
    """

    k: int
    vectors: str | Sequence[str] = "embedding"
    query_id: str | None = None
    exclude: Any = None
    """A column's name, an ItemSet, a KeySet or None, once it is checked."""
    allow: Any = None
    """As ``exclude``."""
    n_probes: int | None = None
    refine: int | None = None
    form: Form = "long"

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", positive_int("k", self.k))
        if self.refine is not None:
            object.__setattr__(self, "refine", count("refine", self.refine))
        check_form(self.form)
        for name in ("exclude", "allow"):
            object.__setattr__(self, name, column_or_set(name, getattr(self, name)))


def column_or_set(name: str, given: Any) -> str | ItemSet | KeySet | None:
    """``given`` where it is a column's name or None, a set where it is item ids for all rows.

    Of integers an ItemSet, of texts a KeySet. ``TypeError`` on anything else.
    """
    if given is None or isinstance(given, str | ItemSet | KeySet):
        return given
    if isinstance(given, AnySet):
        given = list(given)
    elif is_cudf(given) and not hasattr(given, "columns") and given.dtype.kind == "O":
        given = to_arrow(given).to_pylist()
    if are_texts(given):
        return KeySet(tuple(as_keys(name, given)))
    if is_flat(given, if_empty=True):
        return ItemSet.of(name, given)
    raise TypeError(
        f"{name}: expected a column's name, an ItemSet, or item ids for all rows; got "
        f"{type_name(given)}: lists that differ by row go into a column of the frame"
    )


def _filter_of(
    frame: Any,
    name: str,
    given: str | ItemSet | KeySet | None,
    keys: ItemKeys | None,
    on_device: bool,
) -> ItemFilter | None:
    if isinstance(given, str):
        return read_item_lists(frame, given, keys, on_device=on_device)
    if given is None:
        return None
    items = as_item_set(name, given, keys)
    if isinstance(given, KeySet) and (items.item_ids == UNKNOWN).all():
        _refuse_columns(frame, name, given)
    return items


def _refuse_columns(frame: Any, name: str, given: KeySet) -> None:
    """``ValueError`` where texts that are no keys all name columns of ``frame``."""
    if all(text in frame.columns for text in given.texts):
        raise ValueError(
            f"{name}: expected the name of one column, or item keys for all rows; got the names of "
            f"columns, {list(given.texts)}: join their lists in one column"
        )


@dataclass(frozen=True, eq=False)
class Queries:
    """The queries of a frame, in NumPy or, of a cuDF frame for a device, in CuPy."""

    vectors: Float32
    """(n, dim) float32, raw."""
    exclude: ItemFilter | None
    allow: ItemFilter | None
    name: str
    """Of the column that identifies the queries in the results."""
    ids: Any
    """(n,), an index or a column of the frame."""

    @classmethod
    def read(
        cls,
        frame: Any,
        options: SearchOptions,
        dim: int,
        *,
        on_device: bool = False,
        vectors: Float32 | None = None,
        keys: ItemKeys | None = None,
    ) -> Queries:
        """What ``options`` name in ``frame``; ``vectors`` stand in for its column of them.

        ``keys`` are those of the index, where it has some.

        Raises ``TypeError`` or ``ValueError`` as :func:`~merlin_poeem.search_frame` does of
        columns.
        """
        name, ids = query_ids_of(frame, options.query_id, options.form)
        if vectors is None:
            vectors = read_vectors(frame, options.vectors, dim=dim, on_device=on_device)
        exclude, allow = (
            _filter_of(frame, name, given, keys, on_device)
            for name, given in (("exclude", options.exclude), ("allow", options.allow))
        )
        return cls(vectors, exclude, allow, name, ids)

    def search(
        self, searcher: AnySearcher, options: SearchOptions, rows: slice | None = None
    ) -> Candidates:
        """Their candidates, or those of some ``rows`` alone: :meth:`Searcher.search`."""
        exclude, allow = self.exclude, self.allow
        if rows is not None:
            exclude, allow = (
                each.rows(rows) if isinstance(each, IdLists) else each for each in (exclude, allow)
            )
        return searcher.search(
            self.vectors if rows is None else self.vectors[rows],
            k=options.k,
            n_probes=options.n_probes,
            refine=options.refine,
            exclude=exclude,
            allow=allow,
        )
