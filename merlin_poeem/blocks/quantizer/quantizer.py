"""IVFPQQuantizer: the last layer of an item tower, which trains the index with the towers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from merlin_poeem.blocks.quantizer import health, warm_start
from merlin_poeem.blocks.quantizer.cells import Cells
from merlin_poeem.blocks.quantizer.health import Health
from merlin_poeem.blocks.quantizer.joint import Joint
from merlin_poeem.blocks.quantizer.phases import Phases
from merlin_poeem.blocks.quantizer.stretch import Stretch
from merlin_poeem.blocks.quantizer.warmup import UNPLANNED, checked_warmup, planned_steps
from merlin_poeem.quantization.item_codes import Quantization
from merlin_poeem.quantization.params import TRAINABLE_PQ_BITS, IVFPQParams, Metric, positive_int
from merlin_poeem.quantization.stretch import check_stretch
from merlin_poeem.quantization.suggested_params import suggest_params


@tf.keras.utils.register_keras_serializable(package="merlin_poeem")
class IVFPQQuantizer(tf.keras.layers.Layer):
    """Replaces item vectors by their reconstruction from a list and codes, learned with the model.

    Input and output are (batch, dim) float32, raw space. Three phases, all kept in the layer's
    variables, so that a saved model goes on where it stopped:

    1. *warm-up*, ``warmup`` of the training: vectors pass unchanged; the latest are kept as a
       sample;
    2. *start*, once: k-means of the sample gives the coarse centroids, OPQ of the residuals the
       rotation and the codebook; with ``stretch``, in a space that is stretched along what the
       queries seen so far look along;
    3. *joint*: the output is the reconstruction x̂. Its gradient goes straight through to x (Poeem,
       SIGIR 2021, section 3.3), and the layer adds its own loss, a mean over the batch: the
       distortion ‖x − x̂‖² (in the space of the codes), which draws x to x̂, and the imbalance of
       the lists. Centroids and codebook follow the vectors as moving means, the rotation by
       Procrustes solutions: no optimizer has a part in them. Every ``rotation_interval`` steps
       lists and codewords that stand for nothing any more split cells with much distortion.

    Item vectors that are not finite stop the training, before any state is overwritten. Where
    lists, codewords, vectors or towers collapse or diverge, a line on stderr says so, at the start
    and every ``rotation_interval`` steps; :meth:`health` says it at any time.

    In training, a random half of the rows pass unchanged in the joint phase too
    (``float_share``; compare quantization noise, Fan et al., ICLR 2021): the float vectors then
    stay as good as those of a model without quantizer, and the codes gain from it.

    In inference the output is x̂ once the start has been made; inside :meth:`float_mode` it is x.
    """

    def __init__(
        self,
        n_lists: int,
        pq_dim: int,
        pq_bits: int = 8,
        *,
        metric: Metric = "inner_product",
        rotation: bool = True,
        stretch: float = 0.0,
        warmup: float = 0.75,
        sample_size: int | None = None,
        float_share: float = 0.5,
        commitment: float = 0.25,
        balance: float = 1.0,
        agreement: float = 0.0,
        list_sharpness: float = 10.0,
        rotation_interval: int = 500,
        seed: int = 0,
        name: str = "ivfpq_quantizer",
        **kwargs: Any,
    ) -> None:
        """
        Parameters
        ----------
        n_lists, pq_dim, pq_bits
            As in :class:`~merlin_poeem.IVFPQParams`; ``pq_bits`` 4 or 8.
        metric
            How the model scores: ``"inner_product"`` of the towers' outputs, or their ``"cosine"``:
            vectors are then normalised on their way in and out (and the query tower ends in
            ``L2Norm``).
        rotation
            Learn a rotation: OPQ at the start, then solved again every ``rotation_interval`` steps
            (Procrustes, on the sample), so that it follows the moving embeddings.
        stretch
            How far the space in which lists and codes are chosen is stretched along what the
            queries look along, when the index starts: 0 not at all, 1 so far that distances are
            expected differences of scores; see
            :func:`~merlin_poeem.quantization.stretch.stretch`, whose default, a quarter, is one to
            try first. Searches then agree better with the float vectors' and scan fewer items;
            whether they find more of what users want has to be tried. By cosine an index of a
            stretched space has item scales, and Faiss', cuVS' and Poeem's files can't hold one.
            Where no query was seen before the start nothing is stretched, and a line on stderr says
            so: in a tower that Merlin's own ``connect`` puts the layer into, and where the first
            batch starts the index (``warmup=0``).
        warmup
            Where in the training the start is, at the earliest: it waits for a full sample. A
            share of the training, below 1 (:class:`~merlin_poeem.blocks.IndexStart` says how
            long it is), or as an int a number of steps. Where a share above 0 is given and the
            training is too short to fill the sample, it does not wait, and a line on stderr says
            so. Towers that have settled lose less to the
            index; where ``agreement`` has to bring items into their lists, a third is better
            (docs/trials.md).
        sample_size
            Vectors that the start is made from, and that the moving means look back on; None is
            at least 32 per centroid and 64 per codeword.
        float_share
            Share of the training rows that pass unquantized in the joint phase, 0 to below 1.
        commitment, balance
            Weights of the distortion and of the imbalance in the loss.
        agreement
            Weight of the loss that brings items into the lists that their queries visit: see
            :mod:`~merlin_poeem.blocks.model.list_agreement`. Half is worth much at few
            probes where a query's items form clusters, and costs the float vectors where tastes are
            mixed (docs/quality.md), so that it has to be asked for. 0 leaves it out, and so does
            a tower that Merlin's own ``connect`` puts the layer into.
        list_sharpness
            Inverse temperature of the soft assignments that ``balance`` and ``agreement`` look at.
        rotation_interval
            Training steps from one look at the sample to the next, with ``rotation`` or without:
            what has died is revived, and problems are reported, then too.
        seed
            Of the start's clustering, of the choice of float rows and of revivals.
        """
        # Codes are chosen by tiny differences of distances: float32 under any mixed precision.
        kwargs["dtype"] = "float32"
        super().__init__(name=name, **kwargs)
        self.params = IVFPQParams(n_lists=n_lists, pq_dim=pq_dim, pq_bits=pq_bits, metric=metric)
        if metric == "l2":
            raise ValueError(
                "metric: expected inner_product or cosine, as two towers score; got 'l2'"
            )
        if self.params.pq_bits not in TRAINABLE_PQ_BITS:
            raise ValueError(f"pq_bits: expected one of {TRAINABLE_PQ_BITS}, got {pq_bits}")
        self.learns_rotation = bool(rotation)
        check_stretch(stretch)
        self.stretch = float(stretch)
        self.warmup = checked_warmup(warmup)
        if sample_size is None:
            sample_size = warm_start.sample_size(n_lists, self.params.pq_book_size)
        self.sample_size = positive_int("sample_size", sample_size)
        if self.sample_size < n_lists:
            raise ValueError(
                f"sample_size: expected at least n_lists = {n_lists}, got {sample_size}"
            )
        if not 0 <= float_share < 1:
            raise ValueError(f"float_share: expected 0 <= share < 1, got {float_share}")
        self.float_share = float(float_share)
        weights = {"commitment": commitment, "balance": balance, "agreement": agreement}
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"{name}: expected at least 0, got {weight}")
        self.commitment, self.balance, self.agreement = map(float, weights.values())
        self.list_sharpness = float(list_sharpness)
        self.rotation_interval = positive_int("rotation_interval", rotation_interval)
        self.seed = int(seed)
        self._is_frozen = False
        # Here and not in build: a training is planned before its first batch builds the model.
        first = self.warmup if isinstance(self.warmup, int) else UNPLANNED
        start = tf.keras.initializers.Constant(first)
        self.warmup_steps = self._variable("warmup_steps", (), tf.int64, start)

    @classmethod
    def for_catalog(
        cls,
        n_items: int,
        dim: int,
        bytes_per_item: int | None = None,
        *,
        metric: Metric = "inner_product",
        **options: Any,
    ) -> IVFPQQuantizer:
        """A quantizer of the sizes that are suggested for ``n_items`` vectors of width ``dim``.

        Parameters and errors as of :func:`~merlin_poeem.suggest_params`, and of the class:
        ``options`` are those that remain.
        """
        params = suggest_params(n_items, dim, bytes_per_item, metric=metric)
        return cls(params.n_lists, params.pq_dim, params.pq_bits, metric=metric, **options)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Create the variables; ``ValueError`` unless ``pq_dim`` divides the input's width."""
        dim = int(input_shape[-1])
        n_lists, pq_dim = self.params.n_lists, self.params.pq_dim
        books = (pq_dim, self.params.pq_book_size, self.params.pq_len(dim))
        self.coarse_centroids = self._variable("coarse_centroids", (n_lists, dim))
        self.list_counts = self._variable("list_counts", (n_lists,))
        self.list_lengths = self._variable("list_lengths", (n_lists,))
        self.codebook = self._variable("codebook", books)
        self.code_counts = self._variable("code_counts", books[:2])
        identity = tf.keras.initializers.Identity()
        self.rotation = self._variable("rotation", (dim, dim), initializer=identity)
        if self.stretch:
            self.query_rotation = self._variable("query_rotation", (dim, dim), initializer=identity)
            self.query_moments = self._variable("query_moments", (dim, dim))
            self.stretch_of_items, self.stretch_of_queries = (
                self._variable(name, (dim, dim), initializer=identity)
                for name in ("stretch_of_items", "stretch_of_queries")
            )
        self.sample = self._variable("sample", (self.sample_size, dim))
        self.n_sampled = self._variable("n_sampled", (), tf.int64)
        self.step = self._variable("step", (), tf.int64)
        self.length_at_start = self._variable("length_at_start", ())
        self.is_started = self._variable("is_started", (), tf.bool)
        self.passes_float = self._variable("passes_float", (), tf.bool)
        self._make_parts()
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False, testing: bool = False) -> tf.Tensor:
        """(batch, dim) item vectors to their reconstructions, see the class.

        In training, ``InvalidArgumentError`` for vectors that are not finite.
        """
        learns = training and not self._is_frozen
        if learns:
            inputs = health.require_finite(inputs, self.name, self.step)
        inputs = self._normalized(inputs)
        if learns:
            with tf.control_dependencies([inputs]):
                self._phases.advance(tf.stop_gradient(inputs))
            outputs, loss = tf.cond(
                self.is_started,
                lambda: self._joint_step(inputs),
                lambda: (inputs, tf.constant(0.0)),
            )
            self.add_loss(loss)
            return outputs
        quantizes = tf.logical_and(self.is_started, tf.logical_not(self.passes_float))
        outputs = tf.cond(quantizes, lambda: self._reconstruct(inputs), lambda: inputs)
        return tf.stop_gradient(outputs) if self._is_frozen else outputs

    def plan_start(self, training_steps: int | None) -> None:
        """Set the start, where ``warmup`` is a share: ``training_steps`` more are going to be done.

        Once the index has started this changes nothing. ``ValueError`` where the share is of a
        number that is not known, None.
        """
        if isinstance(self.warmup, int) or (self.built and bool(self.is_started.numpy())):
            return
        before = int(self.step.numpy()) if self.built else 0
        self.warmup_steps.assign(planned_steps(self.warmup, before, training_steps, self.name))

    def quantization(self) -> Quantization:
        """The trained quantization, for export; ``RuntimeError`` before the start has been made."""
        self._require_start()
        is_stretched = self._stretch is not None and not self._stretch.is_identity()
        has_rotation = self.learns_rotation or is_stretched
        return Quantization(
            self.coarse_centroids.numpy(),
            self.codebook.numpy(),
            self.rotation.numpy() if has_rotation else None,
            query_rotation=self.query_rotation.numpy() if is_stretched else None,
        )

    def take(self, quantization: Quantization) -> None:
        """Go on with centroids, codebook and rotations that were moved since :meth:`quantization`.

        ``ValueError`` where they are of other shapes; ``RuntimeError`` before the start.
        """
        self._require_start()
        self.coarse_centroids.assign(quantization.coarse_centroids)
        self.codebook.assign(quantization.codebook)
        if quantization.rotation is not None:
            self.rotation.assign(quantization.rotation)
        if quantization.query_rotation is not None:
            self.query_rotation.assign(quantization.query_rotation)

    def waits_for(self) -> str | None:
        """What the start of the index waits for and what helps; None once it has been made."""
        if self.built and bool(self.is_started.numpy()):
            return None
        planned = int(self.warmup_steps.numpy())
        if planned == UNPLANNED:
            return f"its start is not yet planned (warmup = {self.warmup}): fit does that"
        if not self.built or self.step.numpy() <= planned:
            return (
                f"it waits for step {planned + 1} (warmup = {self.warmup}): train longer, with "
                "more epochs, or give it a smaller warmup"
            )
        return (
            f"it waits for {self.sample_size} item vectors (sample_size), and "
            f"{int(self.n_sampled.numpy())} came: train longer, with more epochs, or give it a "
            "smaller sample_size"
        )

    def health(self) -> Health:
        """How the lists and codewords serve the latest item vectors; ``RuntimeError`` before the
        start has been made."""
        self._require_start()
        measures = self._phases.look().measures
        return Health(**{name: float(value) for name, value in measures.items()})

    @contextmanager
    def float_mode(self) -> Iterator[None]:
        """Inference inside this context passes float vectors: the tower as without quantizer."""
        before = self.passes_float.numpy()
        self.passes_float.assign(True)
        try:
            yield
        finally:
            self.passes_float.assign(before)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Training that is traced inside this context takes items as the index holds them.

        Their reconstructions pass without gradient, and nothing here learns. For
        :func:`~merlin_poeem.blocks.refresh_queries`, which has the model traced anew.
        """
        self._is_frozen = True
        try:
            yield
        finally:
            self._is_frozen = False

    def disagreement(self, queries: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """() float32: how seldom items are in the lists that their queries visit, 0 before lists.

        Both are (batch, dim), raw space, as the two towers return them.
        """
        return tf.cond(
            self.is_started,
            lambda: self._joint.disagreement(queries, items),
            lambda: tf.constant(0.0),
        )

    def see_queries(self, queries: tf.Tensor) -> None:
        """Take (batch, dim) queries of a training step into account, raw space; see ``stretch``."""
        if self._stretch is not None and not self._is_frozen:
            self._stretch.see(tf.stop_gradient(tf.cast(queries, tf.float32)))

    def compute_output_shape(self, input_shape: tf.TensorShape) -> tf.TensorShape:
        """The input's shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs to make the layer again."""
        config = {
            **super().get_config(),
            "n_lists": self.params.n_lists,
            "pq_dim": self.params.pq_dim,
            "pq_bits": self.params.pq_bits,
            "metric": self.params.metric,
            "rotation": self.learns_rotation,
            "stretch": self.stretch,
            "warmup": self.warmup,
            "sample_size": self.sample_size,
            "float_share": self.float_share,
            "commitment": self.commitment,
            "balance": self.balance,
            "agreement": self.agreement,
            "list_sharpness": self.list_sharpness,
            "rotation_interval": self.rotation_interval,
            "seed": self.seed,
        }
        del config["dtype"]
        return config

    def _make_parts(self) -> None:
        """Hand the variables, which stay the layer's for Keras, to what works on them."""
        self._cells = Cells(
            coarse_centroids=self.coarse_centroids,
            list_counts=self.list_counts,
            list_lengths=self.list_lengths,
            codebook=self.codebook,
            code_counts=self.code_counts,
            rotation=self.rotation,
            query_rotation=self.query_rotation if self.stretch else self.rotation,
        )
        self._stretch = (
            Stretch(
                self.stretch, self.query_moments, self.stretch_of_items, self.stretch_of_queries
            )
            if self.stretch
            else None
        )
        self._phases = Phases(
            name=self.name,
            warmup=self.warmup,
            learns_rotation=self.learns_rotation,
            rotation_interval=self.rotation_interval,
            seed=self.seed,
            cells=self._cells,
            stretch=self._stretch,
            warmup_steps=self.warmup_steps,
            sample=self.sample,
            n_sampled=self.n_sampled,
            step=self.step,
            length_at_start=self.length_at_start,
            is_started=self.is_started,
        )
        self._joint = Joint(
            cells=self._cells,
            metric=self.params.metric,
            is_stretched=self.stretch > 0,
            float_share=self.float_share,
            commitment=self.commitment,
            balance=self.balance,
            list_sharpness=self.list_sharpness,
        )

    def _require_start(self) -> None:
        waits_for = self.waits_for()
        if waits_for is not None:
            steps = int(self.step.numpy()) if self.built else 0
            raise RuntimeError(
                f"{self.name}: expected a started quantizer, got one after {steps} training steps; "
                f"{waits_for}"
            )

    def _joint_step(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        outputs, loss = self._joint.step(
            x, keep=self._phases.share_kept(x), seed=self._phases.seed_of_step()
        )
        return self._normalized(outputs), loss

    def _reconstruct(self, vectors: tf.Tensor) -> tf.Tensor:
        """x̂ of (n, dim) vectors, raw space both."""
        return self._normalized(self._cells.reconstruct(vectors))

    def _normalized(self, vectors: tf.Tensor) -> tf.Tensor:
        return tf.math.l2_normalize(vectors, 1) if self.params.metric == "cosine" else vectors

    def _variable(
        self, name: str, shape: tuple[int, ...], dtype: Any = tf.float32, initializer: Any = "zeros"
    ) -> tf.Variable:
        return self.add_weight(name, shape, dtype=dtype, initializer=initializer, trainable=False)
