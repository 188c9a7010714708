"""Candidates as a frame, a row a candidate or a row a query."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Literal

from merlin_poeem.arrays import array_module
from merlin_poeem.frames.columns import column_of
from merlin_poeem.frames.item_ids import item_column, item_lists
from merlin_poeem.frames.list_writer import list_column
from merlin_poeem.index.item_keys import ItemKeys
from merlin_poeem.search.ragged import Candidates

Form = Literal["long", "list"]

RESULT_COLUMNS = {"long": ("rank", "item_id", "score"), "list": ("item_id", "score", "count")}


def check_form(form: Any) -> None:
    """``ValueError`` unless ``form`` is one of :data:`Form`."""
    if form not in RESULT_COLUMNS:
        raise ValueError(f"form: expected long or list, got {form!r}")


def results_frame(
    module: ModuleType,
    form: Form,
    name: str,
    query_ids: Any,
    candidates: Candidates,
    keys: ItemKeys | None = None,
) -> Any:
    """A frame of ``module``, pandas or cudf: ``name`` beside the ``RESULT_COLUMNS`` of ``form``.

    ``keys`` are those of the index, where it has some.
    """
    columns = _long_columns if form == "long" else _list_columns
    return module.DataFrame(columns(module, name, query_ids, candidates, keys))


def query_ids_of(frame: Any, query_id: str | None, form: Form) -> tuple[str, Any]:
    """The name and values (an index or a column) of what identifies the queries.

    ``ValueError`` where that is a missing column, an index with levels, or bears the name of a
    result column.
    """
    if query_id is not None:
        name, values = query_id, column_of(frame, query_id)
    else:
        label, values = frame.index.name, frame.index
        name = "query_id" if label is None else label
        if getattr(values, "nlevels", 1) > 1:
            raise ValueError(
                "query_id: expected a column, as the frame's index has levels; got None: "
                "frame.reset_index() makes columns of them"
            )
    if name in RESULT_COLUMNS[form]:
        raise ValueError(
            f"query_id: expected another name than the result's columns "
            f"{', '.join(RESULT_COLUMNS[form])}; got {name!r}: rename it, "
            f"such as to {f'query_{name}'!r}"
        )
    return name, values


def _long_columns(
    module: ModuleType, name: str, query_ids: Any, candidates: Candidates, keys: ItemKeys | None
) -> dict[str, Any]:
    xp, queries = array_module(candidates.counts), candidates.query_numbers
    return {
        name: _plain(query_ids.take(queries)),
        "rank": xp.arange(1, len(queries) + 1) - candidates.offsets[queries],
        "item_id": item_column(module, keys, candidates.item_ids),
        "score": candidates.scores,
    }


def _list_columns(
    module: ModuleType, name: str, query_ids: Any, candidates: Candidates, keys: ItemKeys | None
) -> dict[str, Any]:
    return {
        name: _plain(query_ids),
        "item_id": item_lists(module, keys, candidates.offsets, candidates.item_ids),
        "score": list_column(module, candidates.offsets, candidates.scores),
        "count": candidates.counts,
    }


def _plain(values: Any) -> Any:
    """An index or column without labels of its own, so that a new frame does not align by them."""
    return values.reset_index(drop=True) if hasattr(values, "reset_index") else values
