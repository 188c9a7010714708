"""The phases of a quantizer in training: it samples vectors, starts from them, and is renewed.

All of it happens in the training graph, by the layer's own variables.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.autograph.experimental import do_not_convert

from merlin_poeem.blocks.quantizer import health, warm_start
from merlin_poeem.blocks.quantizer.cells import Cells, lengths_along
from merlin_poeem.blocks.quantizer.health import Look
from merlin_poeem.blocks.quantizer.rotation import procrustes
from merlin_poeem.blocks.quantizer.stretch import Stretch
from merlin_poeem.blocks.quantizer.warmup import require_planned


@dataclass(frozen=True, eq=False)
class Phases:
    """Where a quantizer is in its training, and what happens to its cells from phase to phase."""

    name: str
    """Of the layer, for what is reported."""

    warmup: float
    learns_rotation: bool
    rotation_interval: int
    seed: int
    """These four as of the layer."""

    cells: Cells

    stretch: Stretch | None
    """None: the space of the cells is not stretched."""

    warmup_steps: tf.Variable
    """() int64, steps before the start, or ``UNPLANNED``."""

    sample: tf.Variable
    """(sample_size, dim) float32, the latest vectors, raw space."""

    n_sampled: tf.Variable
    """() int64, vectors that came to the sample, those that have left it included."""

    step: tf.Variable
    """() int64, training steps done."""

    length_at_start: tf.Variable
    """() float32, mean length of the sample that the start was made from."""

    is_started: tf.Variable
    """() bool."""

    @do_not_convert
    def advance(self, vectors: tf.Tensor) -> None:
        """A training step of (batch, dim) vectors, raw space: count it and sample them.

        When it is time, start, or renew what has been started.
        """
        step = self.step.assign_add(1)
        require_planned(self.warmup_steps, self.warmup, self.name)
        n_sampled = self._keep(vectors)
        has_sample = tf.logical_or(
            n_sampled >= self._sample_size, self._falls_short(step, n_sampled)
        )
        is_due = tf.logical_and(step > self.warmup_steps, has_sample)
        starts = tf.logical_and(is_due, tf.logical_not(self.is_started))
        tf.cond(starts, lambda: _without_output(self._start), _nothing)
        looks = tf.logical_and(self.is_started, step % self.rotation_interval == 0)
        tf.cond(looks, lambda: _without_output(self._renew), _nothing)

    def share_kept(self, vectors: tf.Tensor) -> tf.Tensor:
        """() float32: how much of what came before a batch counts after it."""
        share = 1 - tf.cast(tf.shape(vectors)[0], vectors.dtype) / self._sample_size
        return tf.maximum(share, 0.0)

    def seed_of_step(self) -> tf.Tensor:
        """(2,) int64, another one in each step."""
        return tf.stack([tf.cast(self.seed, tf.int64), self.step.read_value()])

    # A function of its own, as those below are, so that it is traced once and not in each of the
    # many traces that Keras makes of a layer when it trains and saves.
    @tf.function(autograph=False)
    def look(self) -> Look:
        """At the sample, and where its vectors lie in the cells."""
        x_rot = self.cells.rotate(self.sample)
        return health.look(x_rot, self.cells.values(), self.length_at_start.read_value())

    @property
    def _sample_size(self) -> int:
        return int(self.sample.shape[0])

    def _keep(self, vectors: tf.Tensor) -> tf.Tensor:
        """Put vectors into the sample, in the places of its oldest; () how many came so far."""
        kept = vectors[: self._sample_size]
        n_kept = tf.cast(tf.shape(kept)[0], tf.int64)
        slots = (self.n_sampled + tf.range(n_kept)) % self._sample_size
        self.sample.scatter_update(tf.IndexedSlices(kept, slots))
        return self.n_sampled.assign_add(n_kept)

    def _falls_short(self, step: tf.Tensor, n_sampled: tf.Tensor) -> tf.Tensor:
        """() bool: whether a training of known length ends before it has filled the sample."""
        if not self.warmup or isinstance(self.warmup, int):
            return tf.constant(False)
        # Rounded down, as the warm-up is: it starts in the last step at the latest.
        n_steps = tf.cast(self.warmup_steps, tf.float64) / self.warmup
        expected = tf.cast(n_sampled, tf.float64) / tf.cast(step, tf.float64) * n_steps
        return expected < self._sample_size

    def _fill_sample(self) -> None:
        """Put repeats of what came to the sample into its empty places, and say so.

        Means over the sample, which all is made of, are then those over what came.
        """
        tf.print(
            f"{self.name}: the index starts from the",
            self.n_sampled,
            f"item vectors that came, as this training brings fewer than sample_size = "
            f"{self._sample_size}: with more epochs it starts from more",
            output_stream=sys.stderr,
        )
        rows = tf.range(self._sample_size, dtype=tf.int64) % self.n_sampled
        self.sample.assign(tf.gather(self.sample, rows))

    def _settle(self, stretch: Stretch) -> None:
        tf.cond(
            stretch.saw_queries(),
            lambda: _without_output(stretch.settle),
            lambda: _without_output(self._tell_of_no_queries),
        )

    def _tell_of_no_queries(self) -> None:
        tf.print(
            f"{self.name}: the space of the index is not stretched, as no query was seen before "
            "the start: QuantizedTwoTowerModel and its V2 show them, at the end of each step; a "
            "start in the first step is too early (warmup=1 puts it off); stretch=0 leaves out "
            "this line",
            output_stream=sys.stderr,
        )

    @tf.function(autograph=False)
    def _start(self) -> None:
        """Make the first cells from the sample."""
        is_short = self.n_sampled < self._sample_size
        tf.cond(is_short, lambda: _without_output(self._fill_sample), _nothing)
        if self.stretch is not None:
            self._settle(self.stretch)
        sample, cells = self._stretched_sample(), self.cells
        pq_dim, book_size, _ = cells.codebook.shape
        centroids = warm_start.initial_centroids(sample, cells.coarse_centroids.shape[0], self.seed)
        codebook, rotation = warm_start.initial_codebook(
            warm_start.residuals_of(sample, centroids),
            pq_dim,
            book_size,
            rotate=self.learns_rotation,
            seed=self.seed,
        )
        self._turn(rotation)
        cells.coarse_centroids.assign(tf.matmul(centroids, rotation))
        cells.list_lengths.assign(tf.norm(centroids, axis=1))  # of a list that gets no vector
        cells.codebook.assign(codebook)
        self.length_at_start.assign(health.mean_length(sample))
        look = self.look()
        x_rot = tf.matmul(sample, rotation)
        decoded = cells.decode(look.list_ids, look.codes)
        cells.follow(x_rot, look.list_ids, look.codes, decoded, keep=tf.constant(0.0))
        self.is_started.assign(True)
        health.report(look.measures, self.name, self.step.read_value())

    @tf.function(autograph=False)
    def _renew(self) -> None:
        """Report what the sample shows, revive what has died, and solve for the rotation anew."""
        look = self.look()
        health.report(look.measures, self.name, self.step.read_value())
        tf.cond(health.has_dead(look), lambda: self._revive(look), _nothing)
        if self.learns_rotation:
            # Nothing of the sample was with the dead: its codes stand for what they stood for.
            decoded = self.cells.decode(look.list_ids, look.codes)
            self._turn(procrustes(self._stretched_sample(), decoded))

    def _stretched_sample(self) -> tf.Tensor:
        sample = self.sample.read_value()
        return sample if self.stretch is None else tf.matmul(sample, self.stretch.of_items)

    def _turn(self, rotation: tf.Tensor) -> None:
        """Turn the cells' space, stretched or not, by an orthogonal (dim, dim) ``rotation``."""
        if self.stretch is None:
            self.cells.rotation.assign(rotation)
            return
        self.cells.rotation.assign(tf.matmul(self.stretch.of_items, rotation))
        self.cells.query_rotation.assign(tf.matmul(self.stretch.of_queries, rotation))

    def _revive(self, look: Look) -> None:
        x_rot = self.cells.rotate(self.sample)
        lengths = lengths_along(x_rot, self.cells.decode(look.list_ids, look.codes))
        values = self.cells.values()
        self.cells.assign(health.revived(look, x_rot, lengths, values, self.seed_of_step()))


def _without_output(function: Callable[[], Any]) -> None:
    function()


def _nothing() -> None:
    return None
