"""Texts → vectors → index: the texts nearest in meaning to a query, by a sentence encoder.

The encoder is the caller's, any ``list[str] -> (n, width) float32``. All else that a query needs
is kept in the index and saved with it: the texts as its item table, the random projection and a
probe of the encoder in its ``info``, under the index's own checksums.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from merlin_poeem.arrays import Float32, as_vectors, owned, read_only
from merlin_poeem.frames.columns import column_of, read_texts
from merlin_poeem.frames.items import with_items
from merlin_poeem.frames.list_writer import matrix_column
from merlin_poeem.frames.ready_made import index_frame
from merlin_poeem.frames.search_frame import search_frame
from merlin_poeem.index.index import Index
from merlin_poeem.index.item_table import check_column_names
from merlin_poeem.index.loading import load_index
from merlin_poeem.index.saving import save_index
from merlin_poeem.index.stored_files import IndexFormatError
from merlin_poeem.optional import needed_by
from merlin_poeem.progress import Progress
from merlin_poeem.quantization.params import IVFPQParams, positive_int
from merlin_poeem.quantization.stored_vectors import VectorDtype
from merlin_poeem.search.searcher import open_searcher

if TYPE_CHECKING:
    import pandas as pd

Encoder = Callable[[list[str]], Any]

BATCH_SIZE = 1024
VECTORS = "vector"
RESERVED_COLUMNS = ("query", "rank", "item_id", "score", VECTORS)
INFO = "text_index"
# What the encoder makes of it is stored, so that another encoder is noticed.
PROBE = "the quick brown fox jumps over the lazy dog"
PROBE_TOLERANCE = 0.01


class TextIndex:
    """An index of texts and the encoder of its queries.

    Raises ``ValueError`` where ``index`` was not made by :meth:`build`, or ``encoder`` is another
    than its texts were encoded with; ``IndexFormatError`` where what it holds can't be read.
    """

    def __init__(self, index: Index, encoder: Encoder, *, backend: str = "auto") -> None:
        self.index = index
        self.encoder = encoder
        probe, self.projection = _read_info(index)
        _check_probe(encode([PROBE], encoder)[0], probe)
        self.searcher = open_searcher(index, backend)

    @classmethod
    def build(
        cls,
        frame: pd.DataFrame,
        encoder: Encoder,
        *,
        text: str = "text",
        item_id: str = "item_id",
        item_table: Sequence[str] = (),
        params: IVFPQParams | None = None,
        project_to: int | None = None,
        store_vectors: VectorDtype | None = None,
        n_partitions: int | None = None,
        seed: int = 0,
        backend: str = "auto",
        progress: bool = True,
    ) -> TextIndex:
        """Encode the ``text`` column and index it.

        Parameters
        ----------
        frame
            pandas, or ``dask.dataframe``, encoded by partition on whichever scheduler Dask has.
        encoder
            ``list[str] -> (n, width) float32``, the same for a text whatever comes beside it. Its
            vectors are copied: it may fill the same memory again.
        item_id, item_table
            The column of integer ids, and columns that are stored beside the text.
        params
            None takes :func:`~merlin_poeem.suggest_params`, metric cosine.
        project_to
            Width of a Gaussian random projection of the vectors, drawn with ``seed`` and stored;
            None projects nothing.
        store_vectors
            As of :func:`~merlin_poeem.index_frame`, of the vectors after the projection.
        n_partitions
            Of a pandas frame: encode it in that many Dask partitions.
        progress
            Whether work of more than two seconds shows a bar on stderr. What Dask runs in other
            processes is not counted.

        Raises
        ------
        TypeError, ValueError
            Vectors that are not (n, width) float32 and finite, null texts, columns that are missing
            or bear the name of a result column, one named twice, or what
            :func:`~merlin_poeem.index_frame` refuses. Columns are looked at before texts are
            encoded.
        ImportError
            Dask, scikit-learn (for ``project_to``) or faiss-cpu is needed and not installed.
        """
        if isinstance(item_table, str):
            raise TypeError(f"item_table: expected a sequence of column names, got {item_table!r}")
        columns = [text, *item_table]
        check_column_names(columns)
        taken = [name for name in columns if name in RESERVED_COLUMNS]
        if taken:
            raise ValueError(
                f"columns: expected other names than {', '.join(RESERVED_COLUMNS)}; got {taken}"
            )
        for name in (item_id, *columns):
            column_of(frame._meta if _is_dask(frame) else frame, name)
        probe = encode([PROBE], encoder)[0]
        projection = None
        if project_to is not None:
            projection = gaussian_projection(len(probe), project_to, seed)
        n_texts = None if _is_dask(frame) else len(frame)
        if n_partitions is not None:
            frame = _partitioned(frame, n_partitions)
        if _is_dask(frame):
            with Progress("encode", n_texts, "texts", shown=progress) as bar:
                embed_partition = _EmbedPartition(encoder, text, VECTORS, projection, bar)
                embedded = _mapped(frame, embed_partition).compute()
        else:
            embedded = embed(
                frame, encoder, text=text, into=VECTORS, projection=projection, progress=progress
            )
        index = index_frame(
            embedded,
            params,
            item_id=item_id,
            vectors=VECTORS,
            item_table=columns,
            metric="cosine" if params is None else None,
            seed=seed,
            store_vectors=store_vectors,
            info={INFO: {"probe": _to_json(probe), "projection": _to_json(projection)}},
            progress=progress,
        )
        return cls(index, encoder, backend=backend)

    def search(
        self,
        texts: str | Sequence[str],
        *,
        k: int,
        n_probes: int | None = None,
        refine: int | None = None,
        progress: bool = True,
    ) -> pd.DataFrame:
        """The ``k`` nearest texts of each: ``query, rank, item_id, score`` and the item table.

        With ``progress``, work of more than two seconds shows a bar on stderr.

        Raises ``TypeError`` or ``ValueError`` as :meth:`build` does of vectors, where the encoder
        gives another width than it did, and as
        :func:`~merlin_poeem.search_frame`.
        """
        import pandas as pd  # here, because importing it takes longer than all else together

        queries = pd.DataFrame({"query": [texts] if isinstance(texts, str) else list(texts)})
        embedded = embed(
            queries,
            self.encoder,
            text="query",
            into=VECTORS,
            projection=self.projection,
            progress=progress,
        )
        found = search_frame(
            self.searcher,
            embedded,
            k=k,
            vectors=VECTORS,
            query_id="query",
            n_probes=n_probes,
            refine=refine,
            progress=progress,
        )
        return with_items(found, self.index)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save all but the encoder: :func:`~merlin_poeem.save_index`."""
        save_index(self.index, path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], encoder: Encoder, *, backend: str = "auto"
    ) -> TextIndex:
        """Open what :meth:`save` wrote.

        Raises as the class does, and as :func:`~merlin_poeem.load_index`.
        """
        return cls(load_index(path), encoder, backend=backend)


def embed(
    frame: Any,
    encoder: Encoder,
    *,
    text: str = "text",
    into: str = "embedding",
    projection: Float32 | None = None,
    progress: bool = True,
) -> Any:
    """``frame`` with the vectors of its texts as a float32 list column ``into``.

    pandas at once; a ``dask.dataframe`` lazily, each partition where Dask runs it. ``projection``
    is (width, dim) float32 and multiplies the encoder's vectors. With ``progress``, work of more
    than two seconds shows a bar on stderr; what Dask runs never does.

    Raises ``TypeError`` or ``ValueError`` on a column that is missing or no text, null texts, and
    vectors that are not (n, width) float32 and finite.
    """
    if _is_dask(frame):
        return _mapped(frame, _EmbedPartition(encoder, text, into, projection))
    # One batch has no progress; and most searches are of a text or two.
    is_shown = progress and len(frame) > BATCH_SIZE
    with Progress("encode", len(frame), "texts", shown=is_shown) as bar:
        return _EmbedPartition(encoder, text, into, projection, bar)(frame)


def encode(
    texts: list[str], encoder: Encoder, width: int | None = None, bar: Progress | None = None
) -> Float32:
    """(n, width) float32 vectors of ``texts``, encoded in batches of 1024 and checked.

    Raises ``TypeError`` or ``ValueError`` where the encoder gives anything else, or another width
    than ``width`` or from one batch to the next.
    """
    encoded = np.empty((0, width or 1), np.float32)
    for start in range(0, len(texts), BATCH_SIZE):
        batch = texts[start : start + BATCH_SIZE]
        vectors = as_vectors("encoder's vectors", np.asarray(encoder(batch)), width)
        if len(vectors) != len(batch):
            raise ValueError(
                f"encoder's vectors: expected {len(batch)}, one a text; got {len(vectors)}"
            )
        if start == 0:
            width = vectors.shape[1]
            encoded = np.empty((len(texts), width), np.float32)
        # Copied, as the next batch may come in the same memory.
        encoded[start : start + len(batch)] = vectors
        if bar is not None:
            bar.update(len(batch))
    return encoded


def gaussian_projection(width: int, dim: int, seed: int = 0) -> Float32:
    """(width, dim) float32, scikit-learn's ``GaussianRandomProjection`` drawn with ``seed``.

    Inner products and distances keep their expectation. ``ValueError`` where ``dim`` is above
    ``width``; ``ImportError`` where scikit-learn is not installed.
    """
    dim = positive_int("project_to", dim)
    if dim > width:
        raise ValueError(f"project_to: expected at most the encoder's width = {width}, got {dim}")
    with needed_by("project_to", "text"):
        random_projection = import_module("sklearn.random_projection")
    model = random_projection.GaussianRandomProjection(dim, random_state=seed)
    model.fit(np.zeros((1, width), np.float32))
    return np.ascontiguousarray(model.components_.T, np.float32)


@dataclass(frozen=True, eq=False)
class _EmbedPartition:
    """:func:`embed` of a pandas or cuDF frame, such as one partition."""

    encoder: Encoder
    text: str
    into: str
    projection: Float32 | None
    bar: Progress | None = None

    def __post_init__(self) -> None:
        if self.projection is not None:
            object.__setattr__(self, "projection", owned(self.projection))

    def __call__(self, partition: Any) -> Any:
        width = None if self.projection is None else len(self.projection)
        vectors = encode(read_texts(partition, self.text), self.encoder, width, self.bar)
        if self.projection is not None:
            vectors = vectors @ self.projection
        return partition.assign(**{self.into: matrix_column(partition, vectors)})

    def __dask_tokenize__(self) -> str:
        # Dask names a task by a hash of what it runs, which encoders, being models, have none of.
        return os.urandom(16).hex()


def _partitioned(frame: Any, n_partitions: int) -> Any:
    with needed_by("n_partitions", "dask"):
        dask, dask_dataframe = import_module("dask"), import_module("dask.dataframe")
    n_partitions = positive_int("n_partitions", n_partitions)
    # Or else Dask turns lists into text, and sorts rows by their labels.
    with dask.config.set({"dataframe.convert-string": False}):
        return dask_dataframe.from_pandas(frame, npartitions=n_partitions, sort=False)


def _mapped(frame: Any, embed_partition: _EmbedPartition) -> Any:
    """Each partition of a ``dask.dataframe`` embedded, lazily."""
    meta = frame._meta.assign(**{embed_partition.into: np.empty(0, object)})
    return frame.map_partitions(embed_partition, meta=meta)


def _is_dask(frame: Any) -> bool:
    return type(frame).__module__.partition(".")[0] in ("dask", "dask_expr")


def _to_json(array: Float32 | None) -> dict[str, Any] | None:
    if array is None:
        return None
    data = base64.b64encode(array.astype("<f4").tobytes()).decode()
    return {"shape": list(array.shape), "float32": data}


def _from_json(name: str, value: Any, n_dimensions: int) -> Float32:
    try:
        data = base64.b64decode(value["float32"], validate=True)
        array = np.frombuffer(data, "<f4").reshape(value["shape"]).astype(np.float32)
        if array.ndim != n_dimensions:
            raise ValueError(f"expected {n_dimensions} dimensions, got {array.ndim}")
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise IndexFormatError(f"malformed info: {INFO}.{name}: {error}") from error
    return read_only(array)


def _read_info(index: Index) -> tuple[Float32, Float32 | None]:
    """The stored probe (width,) and projection (width, dim)."""
    stored = index.info.get(INFO)
    if not isinstance(stored, dict) or "projection" not in stored or index.item_table is None:
        raise ValueError(
            f"index: expected one that TextIndex.build made, got info of {sorted(index.info)}"
        )
    probe = _from_json("probe", stored.get("probe"), 1)
    if stored["projection"] is None:
        shape, projection = (index.dim,), None
    else:
        projection = _from_json("projection", stored["projection"], 2)
        shape = (len(projection),)
    dim = index.dim if projection is None else projection.shape[1]
    if probe.shape != shape or dim != index.dim:
        raise IndexFormatError(f"malformed info: {INFO}: expected width {shape[0]} and {index.dim}")
    return probe, projection


def _check_probe(got: Float32, expected: Float32) -> None:
    if len(got) != len(expected):
        raise ValueError(
            f"encoder: expected vectors of width {len(expected)}, as the index's, got {len(got)}"
        )
    error = float(np.linalg.norm(got - expected)) / max(float(np.linalg.norm(expected)), 1e-30)
    if error > PROBE_TOLERANCE:
        raise ValueError(
            "encoder: expected the one that the index was built with, got another: the vector of "
            f"{PROBE!r} differs by {error:.0%}"
        )
