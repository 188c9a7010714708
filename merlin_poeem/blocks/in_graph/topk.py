"""IVFPQTopK: search of an index inside the TensorFlow graph, a layer for Merlin's TopKEncoder."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import tensorflow as tf
from merlin.models.tf.core.prediction import Prediction
from merlin.models.tf.outputs.topk import TopKLayer

from merlin_poeem.blocks.in_graph.given_ids import GivenIds, values_and_offsets
from merlin_poeem.blocks.in_graph.relevance import relevance
from merlin_poeem.blocks.in_graph.search import NO_VECTORS, search_function
from merlin_poeem.blocks.in_graph.signature import CountedTopK, request_specs
from merlin_poeem.blocks.in_graph.state import GraphState, Kind, arrays_of, state_specs
from merlin_poeem.blocks.model.freshness import DIGITS, INFO_KEY, TOWERS, index_fingerprints
from merlin_poeem.index.index import Index
from merlin_poeem.quantization.params import (
    IVFPQParams,
    Metric,
    check_n_probes,
    count,
    positive_int,
)
from merlin_poeem.quantization.stored_vectors import VectorDtype, check_vector_dtype

MAX_ITEMS = 2**31 - 2


@tf.keras.utils.register_keras_serializable(package="merlin_poeem")
class IVFPQTopK(TopKLayer):
    """The ``k`` best items of the ``n_probes`` best lists of each query, searched in the graph.

    Made with :meth:`from_index`; goes where Merlin's ``BruteForce`` does::

        topk = IVFPQTopK.from_index(index, k=20, n_probes=4)
        encoder = mm.TopKEncoder(query_encoder, topk_layer=topk, k=20)
        encoder(features)  # k and n_probes of the layer
        encoder(features, k=50, n_probes=8, refine=4, exclude=seen_items)  # chosen at call time

    The answer is that of :mod:`~merlin_poeem.search.reference`: int64 ids, equal scores in order of
    item id. A row with fewer than ``k`` results is filled up with the score −inf and ``FILL_ID``,
    and ``counts`` says how many are results.

    The state is the index: its codes and scales as stored, 16 bytes an item for ids and their
    order, 4 more under l2 and, without scales, cosine, and 4 more where items share list and codes;
    its vectors as stored, where it has some, and 4 bytes more an item; and the fingerprints of the
    towers that it was exported from. It is all in variables, saved and restored with the model's.
    Memory in a search is bounded for any number of queries, see
    :mod:`~merlin_poeem.blocks.in_graph.search`.
    """

    def __init__(
        self,
        n_items: int,
        dim: int,
        n_lists: int,
        pq_dim: int,
        pq_bits: int = 8,
        *,
        metric: Metric = "inner_product",
        n_probes: int = 1,
        rotation: bool = False,
        encodes_residual: bool = True,
        twins: bool = False,
        scales: bool = False,
        list_factors: bool = False,
        vectors: VectorDtype | None = None,
        refine: int = 0,
        k: int = 10,
        name: str = "ivfpq_top_k",
        **kwargs: Any,
    ) -> None:
        """A layer of zeros, to be restored from a checkpoint; see :meth:`from_index`.

        Parameters
        ----------
        n_items, dim
            Items in the index, and the width of queries.
        n_lists, pq_dim, pq_bits, metric
            As in :class:`~merlin_poeem.IVFPQParams`.
        n_probes, refine, k
            What a call takes that names none.
        rotation, encodes_residual
            Whether the quantization has a rotation, and whether its codes are of residuals.
        twins
            Whether items share list and codes with others.
        scales, list_factors
            Whether items have scales, and lists factors: see :class:`~merlin_poeem.Index`.
        vectors
            What the items' vectors are stored in, ``"float16"`` or ``"int8"``; None: there are
            none.
        """
        # Keras casts a layer's inputs under mixed precision: scores and codes stay in float32.
        kwargs["dtype"] = "float32"
        super().__init__(k=positive_int("k", k), name=name, trainable=False, **kwargs)
        self.params = IVFPQParams(
            n_lists=n_lists, pq_dim=pq_dim, pq_bits=pq_bits, metric=metric, n_probes=n_probes
        )
        if not 0 <= n_items <= MAX_ITEMS:
            raise ValueError(f"n_items: expected 0 to {MAX_ITEMS}, got {n_items}")
        self.n_items, self.dim, self.n_probes = int(n_items), int(dim), self.params.n_probes
        self.kind = Kind(
            bool(rotation),
            bool(twins),
            bool(scales),
            bool(list_factors),
            None if vectors is None else check_vector_dtype(vectors),
        )
        self.refine = self._checked_refine(refine)
        specs = state_specs(self.params, self.dim, self.kind, n_items=self.n_items)
        variables = {
            name: self._variable(name, spec.shape, spec.dtype) for name, spec in specs.items()
        }
        self.state = GraphState(self.params, bool(encodes_residual), **variables)
        """The index, as the graph has it."""
        # Not in the config: a checkpoint of another index is then restored with its own.
        self.exported_from = self._variable("exported_from", (len(TOWERS), DIGITS // 2), tf.uint8)
        self.search = self._search_of(variables)
        """The state's search in one trace: what a ``tf.saved_model`` of the layer offers."""

    @classmethod
    def from_index(
        cls,
        index: Index,
        *,
        k: int = 10,
        n_probes: int | None = None,
        refine: int | None = None,
        **kwargs: Any,
    ) -> IVFPQTopK:
        """A layer that holds ``index``, with ``k``, ``n_probes`` and ``refine`` as defaults.

        None is the index's own, of ``refine`` for as many results as ``k``. Raises ``TypeError`` or
        ``ValueError`` on one out of range, and on a ``refine`` above 0 where the index holds no
        vectors.
        """
        params, arrays = index.params, arrays_of(index)
        layer = cls(
            index.n_items,
            index.dim,
            params.n_lists,
            params.pq_dim,
            params.pq_bits,
            metric=params.metric,
            n_probes=params.n_probes if n_probes is None else n_probes,
            rotation="rotation" in arrays,
            encodes_residual=index.quantization.encodes_residual,
            twins="twin_of_row" in arrays,
            scales="scales" in arrays,
            list_factors="list_factors" in arrays,
            vectors=None if index.vectors is None else index.vectors.dtype,
            refine=index.refine_of(positive_int("k", k)) if refine is None else refine,
            k=k,
            **kwargs,
        )
        for name, array in arrays.items():
            getattr(layer.state, name).assign(array)
        if INFO_KEY in index.info:
            fingerprints = index_fingerprints(index)
            digits = [list(bytes.fromhex(fingerprints[name])) for name in TOWERS]
            layer.exported_from.assign(np.array(digits, np.uint8))
        return layer

    @property
    def fingerprints(self) -> dict[str, str] | None:
        """Of the towers that the index was exported from, None where it did not say."""
        rows = self.exported_from.numpy()
        if not rows.any():
            return None
        return {name: row.tobytes().hex() for name, row in zip(TOWERS, rows, strict=True)}

    def index(self, candidates: tf.Tensor, identifiers: tf.Tensor | None = None) -> TopKLayer:
        """Not here: vectors become an index outside the graph, see :meth:`from_index`."""
        raise NotImplementedError(
            "IVFPQTopK: expected an Index, got candidate vectors; make one with export_index or "
            "Index.from_vectors and the layer with IVFPQTopK.from_index(index)"
        )

    def call(
        self,
        inputs: tf.Tensor,
        targets: tf.Tensor | None = None,
        testing: bool = False,
        k: Any = None,
        n_probes: Any = None,
        refine: Any = None,
        exclude: GivenIds = None,
        allow: GivenIds = None,
    ) -> CountedTopK | Prediction:
        """Search for (n_queries, dim) float32 query vectors, raw space.

        Parameters
        ----------
        inputs
            The queries; a ragged (n_queries, 1, dim) is taken as Merlin's ``BruteForce`` takes it.
        targets, testing
            In evaluation the one right item id of each query; a ``Prediction`` of the scores and
            of the (n_queries, k) 0/1 relevance then comes back.
        k, n_probes, refine
            Integers or () tensors; None takes the layer's own. With ``refine`` above 0 the best
            ``refine * k`` items by their codes are scored again by the index's vectors.
        exclude, allow
            Item ids never returned, or the only ones that may be: a ragged (n_queries, None), one
            list a query; or a (n_ids,) tensor for all queries; or a pair of values and offsets, as
            ``search`` takes them. An empty ``allow`` allows nothing.

        Raises
        ------
        TypeError, ValueError, tf.errors.InvalidArgumentError
            ``k``, ``n_probes`` or ``refine`` out of range, ``refine`` above 0 without vectors,
            another width than ``dim``, NaN or infinite queries, another number of id lists than
            queries, ids that are not integers. What is known only when the graph runs is the last
            of these.
        """
        if isinstance(inputs, tf.RaggedTensor):
            inputs = tf.squeeze(inputs.to_tensor(), axis=1)
        if inputs.shape.rank != 2 or inputs.shape[1] not in (None, self.dim):
            raise ValueError(f"queries: expected shape (n, {self.dim}), got {inputs.shape}")
        n_queries = tf.shape(inputs, tf.int64)[0]
        k = self._k if k is None else k
        n_probes = self.n_probes if n_probes is None else n_probes
        refine = self.refine if refine is None else refine
        scores, item_ids, counts = self.search(
            inputs,
            k if tf.is_tensor(k) else positive_int("k", k),
            n_probes if tf.is_tensor(n_probes) else check_n_probes(n_probes, self.params.n_lists),
            refine if tf.is_tensor(refine) else self._checked_refine(refine),
            *values_and_offsets("exclude", exclude, n_queries),
            *values_and_offsets("allow", allow, n_queries),
        )
        shape = (inputs.shape[0], None if tf.is_tensor(k) else k)
        found = CountedTopK(
            tf.ensure_shape(scores, shape), tf.ensure_shape(item_ids, shape), counts
        )
        return relevance(found, targets) if testing else found

    def compute_output_shape(self, input_shape: tf.TensorShape) -> CountedTopK:
        """(n_queries, k) twice, and (n_queries,)."""
        shape = tf.TensorShape((input_shape[0], self._k))
        return CountedTopK(shape, shape, shape[:1])

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs to make the layer again, its state apart."""
        config = {
            **super().get_config(),
            **self.params.to_dict(),
            "n_items": self.n_items,
            "dim": self.dim,
            "n_probes": self.n_probes,
            "refine": self.refine,
            "encodes_residual": self.state.encodes_residual,
            **asdict(self.kind),
        }
        for name in ("dtype", "trainable"):
            del config[name]
        return config

    def _checked_refine(self, refine: Any) -> int:
        checked = count("refine", refine)
        if checked and self.kind.vectors is None:
            raise ValueError(f"{NO_VECTORS}; got {checked}")
        return checked

    def _search_of(self, variables: dict[str, tf.Variable]) -> Any:
        of_kind = search_function(
            # One default of n_probes for all, which the graph has no need of.
            replace(self.params, n_probes=1),
            self.dim,
            self.kind,
            encodes_residual=self.state.encodes_residual,
        )

        def search(*request: tf.Tensor) -> CountedTopK:
            state = {name: tf.convert_to_tensor(variable) for name, variable in variables.items()}
            found: CountedTopK = of_kind(state, *request)
            return found

        return tf.function(search, autograph=False, input_signature=request_specs(self.dim))

    def _variable(self, name: str, shape: Any, dtype: Any) -> tf.Variable:
        return self.add_weight(name, shape, dtype=dtype, initializer="zeros", trainable=False)
