"""AssignCodes: item ids become the list id and codes that training gave them."""

from __future__ import annotations

from typing import Any

import numpy as np
from merlin.core.dispatch import DataFrameType, annotate
from merlin.schema import Tags
from numpy.typing import NDArray
from nvtabular.ops.categorify import _emb_sz_rule
from nvtabular.ops.operator import ColumnSelector, Operator

from merlin_poeem.arrays import Int32, Int64
from merlin_poeem.frames.columns import library_of, read_known_ids, read_known_texts
from merlin_poeem.frames.list_writer import list_column
from merlin_poeem.index.index import Index
from merlin_poeem.index.item_keys import ItemKeys
from merlin_poeem.ops.index_operator import IndexOperator
from merlin_poeem.quantization.item_codes import unpack_codes
from merlin_poeem.search.ragged import offsets_of

OOV = 0
"""The code of items that the index does not hold, and of nulls."""

_ID_TAGS = (Tags.ID, Tags.ITEM_ID, Tags.USER_ID, Tags.SESSION_ID)


class AssignCodes(IndexOperator):
    """
    This operation gives each item id the learned list id and codes of its item, as categorical
    features, such as semantic ids for a ranker::

        codes = ["item_id"] >> AssignCodes("items.index")
        workflow = nvtabular.Workflow(codes + ["user_id", "click"])

    A column ``item_id`` gives the int32 columns ``item_id_list_id``, ``item_id_code_0`` …
    ``item_id_code_{pq_dim - 1}``. In each of them 0 stands for an unknown item: an id that the
    index does not hold, or a null. What the index calls list or code ``c`` is ``c + 1`` here, so
    the domains in the schema run from 0 to ``n_lists`` and from 0 to ``2 ** pq_bits``.

    A list column, such as the ``candidate_ids`` of
    :class:`~merlin_poeem.ops.RetrieveCandidates`, gives list columns of the same lengths, where 0
    stands also for a null inside a list; a null list becomes an empty one. A partition of pandas
    whose lists are all null does not tell that they are lists, and gives a 0 a row.

    The ids are those that the index holds, integers or its keys: apply it to the raw ids, not to
    what Categorify made of them. They are looked up on the host, also for cuDF.

    Parameters
    ----------
    index_path : str or os.PathLike
        The directory of a saved index. ``Workflow.save`` copies it into the workflow's folder.
    """

    @annotate("AssignCodes_op", color="darkgreen", domain="merlin_poeem")
    def transform(self, col_selector: ColumnSelector, df: DataFrameType) -> DataFrameType:
        features: dict[str, Any] = {}
        for name in col_selector.names:
            lengths, known, item_ids = _read_known(df, name, self.index.item_keys)
            columns: Any = codes_of(self.index, known, item_ids)
            if lengths is not None:
                module, offsets = library_of(df), offsets_of(lengths)
                columns = [list_column(module, offsets, codes) for codes in columns]
            features.update(zip(self._output_names(name), columns, strict=True))
        coded = type(df)(features)
        coded.index = df.index
        return coded

    transform.__doc__ = Operator.transform.__doc__

    def column_mapping(self, col_selector: ColumnSelector) -> dict[str, list[str]]:
        return {
            output: [name] for name in col_selector.names for output in self._output_names(name)
        }

    @property
    def output_dtype(self) -> type[np.int32]:
        return np.int32

    def _output_names(self, name: str) -> list[str]:
        return [f"{name}_list_id", *(f"{name}_code_{j}" for j in range(self.index.params.pq_dim))]

    def _compute_tags(self, col_schema: Any, input_schema: Any) -> Any:
        # Of the input's, all but those that name the one id column of a schema.
        tags = [tag for tag in input_schema.first.tags if tag not in _ID_TAGS]
        return col_schema.with_tags([*tags, Tags.CATEGORICAL])

    def _compute_properties(self, col_schema: Any, input_schema: Any) -> Any:
        is_list_id = col_schema.name == f"{input_schema.first.name}_list_id"
        largest = self.index.n_lists if is_list_id else 1 << self.index.params.pq_bits
        cardinality, dimension = _emb_sz_rule(largest + 1)
        return col_schema.with_properties(
            {
                "domain": {"min": OOV, "max": largest, "name": col_schema.name},
                "embedding_sizes": {"cardinality": cardinality, "dimension": dimension},
            }
        )


def _read_known(
    df: DataFrameType, name: str, keys: ItemKeys | None
) -> tuple[Int64 | None, NDArray[np.bool_], Int64]:
    """:func:`~merlin_poeem.frames.columns.read_known_ids`, by the ``keys`` of an index."""
    if keys is None:
        return read_known_ids(df, name)
    lengths, known, texts = read_known_texts(df, name)
    return lengths, known, keys.ids_of(texts)


def codes_of(index: Index, known: NDArray[np.bool_], item_ids: Int64) -> Int32:
    """(1 + pq_dim, n) int32: list ids and codes, each plus one; ``OOV`` where there are none.

    ``known`` is (n,) bool, False for a null; ``item_ids`` (n_known,) int64 are the others.
    """
    params = index.params
    columns = np.full((1 + params.pq_dim, len(known)), OOV, np.int32)
    found = index.rows_of(item_ids)
    held = np.flatnonzero(known)[found >= 0]
    rows = found[found >= 0]
    columns[0, held] = index.list_ids[rows] + 1
    codes = unpack_codes(index.packed_codes[rows], params.pq_dim, params.pq_bits)
    columns[1:, held] = codes.T.astype(np.int32) + 1
    return columns
