"""Whether a quantizer is sound: its dead cells, and what goes wrong in training, by name.

Pure functions of tensors, so that the layer asks in its training graph what
:meth:`~merlin_poeem.blocks.quantizer.quantizer.IVFPQQuantizer.health` asks of it afterwards.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from merlin_poeem.blocks.quantizer import product, warm_start
from merlin_poeem.blocks.quantizer.cells import CellValues

# A cell that stands for less than one of the latest ``sample_size`` vectors has nothing to follow:
# an even share of them is 32 for a list and 64 for a codeword or more.
LEAST_COUNT = 1.0
# Where the vectors lie on their centroids up to this share of their variance, a cell without
# vectors is spare, not dead: there are fewer different vectors than cells.
EXACT = 1e-3

NOT_FINITE = (
    ": item vectors are not finite; the index still is as it was before this step. Look for NaN "
    "and infinity in the training data, in the first steps above all. Else lower the "
    "learning rate, clip gradients (clipnorm=), and with mixed_float16 keep the optimizer inside a "
    "LossScaleOptimizer and the towers' outputs below 65504. Training step:"
)


@dataclass(frozen=True)
class Check:
    """A limit on one of :class:`Health`'s measures, and the sentence that says it is passed."""

    measure: str
    is_beyond: Callable[[Any, Any], Any]
    limit: float
    sentence: str
    """With one ``{}``, for the measure times ``unit``, rounded to ``digits``."""
    unit: float = 1.0
    digits: int = 1

    def text(self, value: float) -> str:
        """The sentence, in Python."""
        return self.sentence.replace("{}", f"{value * self.unit:.{self.digits}f}")

    def text_in_graph(self, value: tf.Tensor) -> tf.Tensor:
        """The same sentence, in a graph."""
        before, after = self.sentence.split("{}")
        number = tf.strings.as_string(value * self.unit, precision=self.digits)
        return tf.strings.join([before, number, after])


CHECKS = (
    Check(
        "dead_lists",
        operator.gt,
        0.01,
        "{} % of the lists are dead: raise balance=, take fewer n_lists=, or lower the learning "
        "rate, from which their items run away",
        unit=100,
    ),
    Check(
        "dead_codewords",
        operator.gt,
        0.01,
        "{} % of the codewords are dead: lower the learning rate, or take pq_bits=4",
        unit=100,
    ),
    # Entropy, and not the largest list alone: that may be one item which everybody wants.
    Check(
        "list_evenness",
        operator.lt,
        0.1,
        "lists collapse, their use is {} % even: raise balance=, or take fewer n_lists=",
        unit=100,
    ),
    Check(
        "spread",
        operator.lt,
        0.01,
        "item vectors collapse, their variance is {} % of their mean square: lower the learning "
        "rate and commitment=, and look at the towers' loss and negatives",
        unit=100,
        digits=2,
    ),
    Check(
        "growth",
        operator.gt,
        100.0,
        "towers diverge, item vectors are {} times as long as at the quantizer's start: lower the "
        "learning rate, regularise the towers, or take metric='cosine'",
    ),
    Check(
        "distortion",
        operator.gt,
        1.0,
        "the distortion is {} times the item vectors' variance, so that the mean would do better "
        "than the codes: lower the learning rate or rotation_interval=, raise commitment=",
        digits=2,
    ),
)


@dataclass(frozen=True)
class Health:
    """A quantizer's state in numbers, over its latest ``sample_size`` training rows: popular items
    count more often."""

    dead_lists: float
    """Share of the lists that stand for no vector any more, though vectors lie far from theirs."""
    dead_codewords: float
    """The same share of the codewords."""
    max_over_mean_list: float
    """Rows in the largest list over the mean."""
    list_evenness: float
    """(exp(entropy of the lists' use) − 1) / (n_lists − 1): 1 if even, 0 if one has all."""
    spread: float
    """Variance of the item vectors over their mean square: 0 if all are the same vector."""
    growth: float
    """Mean length of the item vectors over that at the quantizer's start."""
    distortion: float
    """Distortion over the variance of the item vectors: 1 is no better than their mean."""

    def problems(self) -> list[str]:
        """A sentence for each measure beyond its limit: what is wrong and what to change."""
        values = vars(self)
        return [
            check.text(values[check.measure])
            for check in CHECKS
            if check.is_beyond(values[check.measure], check.limit)
        ]


def require_finite(vectors: tf.Tensor, name: str, step: tf.Variable) -> tf.Tensor:
    """``vectors``; ``InvalidArgumentError`` where one is not finite, before anything uses them.

    Nor may their squares overflow, as all distances would.
    """
    is_finite = tf.math.is_finite(tf.reduce_sum(vectors**2))
    with tf.control_dependencies([tf.debugging.Assert(is_finite, [name + NOT_FINITE, step + 1])]):
        return tf.identity(vectors)


class Look(NamedTuple):
    """Where the vectors of a sample lie in a quantizer, and what that says about it."""

    list_ids: tf.Tensor
    """(n,) int64, nearest lists."""
    list_distances: tf.Tensor
    """(1, n), squared."""
    codes: tf.Tensor
    """(n, pq_dim) int64, nearest codewords."""
    code_distances: tf.Tensor
    """(pq_dim, n), squared."""
    subvectors: tf.Tensor
    """(pq_dim, n, pq_len) of the residuals."""
    dead_lists: tf.Tensor
    """(n_lists,) bool."""
    dead_codewords: tf.Tensor
    """(pq_dim, pq_book_size) bool."""
    measures: dict[str, tf.Tensor]
    """The fields of :class:`Health`, scalars."""


def look(x_rot: tf.Tensor, values: CellValues, length_at_start: tf.Tensor) -> Look:
    """Encode a sample of rotated (n, dim) vectors, in bounded memory, and take the measures."""
    centroids, list_counts, _, codebook, code_counts = values
    nearest, list_distances = warm_start.assign(x_rot[None], centroids[None])
    subvectors = product.split(x_rot - tf.gather(centroids, nearest[0]), codebook)
    codes, code_distances = warm_start.assign(subvectors, codebook)
    distortion = tf.reduce_sum(tf.reduce_mean(code_distances, axis=1))
    variance = tf.reduce_sum(tf.math.reduce_variance(x_rot, axis=0))
    mean_square = tf.reduce_mean(tf.reduce_sum(x_rot**2, axis=1))
    in_lists, in_codewords = arrivals(nearest, list_counts[None]), arrivals(codes, code_counts)
    share = variance / codebook.shape[0]
    dead_lists = dead_cells(list_counts[None], in_lists, list_distances, variance)[0]
    dead_codewords = dead_cells(code_counts, in_codewords, code_distances, share)
    measures = {
        "dead_lists": tf.reduce_mean(tf.cast(dead_lists, tf.float32)),
        "dead_codewords": tf.reduce_mean(tf.cast(dead_codewords, tf.float32)),
        "max_over_mean_list": tf.reduce_max(in_lists) / tf.reduce_mean(in_lists),
        "list_evenness": evenness(in_lists[0]),
        "spread": tf.math.divide_no_nan(variance, mean_square),
        "growth": tf.math.divide_no_nan(mean_length(x_rot), length_at_start),
        "distortion": tf.math.divide_no_nan(distortion, variance),
    }
    return Look(
        nearest[0],
        list_distances,
        tf.transpose(codes),
        code_distances,
        subvectors,
        dead_lists,
        dead_codewords,
        measures,
    )


def has_dead(look: Look) -> tf.Tensor:
    """() bool: whether a list or a codeword is dead."""
    return tf.logical_or(tf.reduce_any(look.dead_lists), tf.reduce_any(look.dead_codewords))


def revived(
    look: Look,
    x_rot: tf.Tensor,
    lengths: tf.Tensor,
    values: CellValues,
    seed: tf.Tensor,
) -> CellValues:
    """``values``, where the dead have new places.

    Each begins with a count of one vector, so that those which come next have the greatest say; a
    list also with the length of that which it splits, moved to the drawn vector's as its centroid
    is. ``lengths`` (n,) are those of the sample, see :func:`.cells.lengths_along`.
    """
    dead, nearest = look.dead_lists[None], look.list_ids[None]

    def revived_lists(means: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
        # Seed and distances are the same, and so is the draw.
        return warm_start.revive(
            means[None], dead, points[None], nearest, look.list_distances, seed
        )[0]

    codebook = warm_start.revive(
        values.codebook,
        look.dead_codewords,
        look.subvectors,
        tf.transpose(look.codes),
        look.code_distances,
        seed,
    )
    return CellValues(
        coarse_centroids=revived_lists(values.coarse_centroids, x_rot),
        list_counts=tf.where(look.dead_lists, 1.0, values.list_counts),
        list_lengths=revived_lists(values.list_lengths[:, None], lengths[:, None])[:, 0],
        codebook=codebook,
        code_counts=tf.where(look.dead_codewords, 1.0, values.code_counts),
    )


def arrivals(nearest: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """As ``counts`` (m, k): how many of a sample, ``nearest`` (m, n), are in each cell of a set."""
    n_sets, n_cells = counts.shape
    cells = tf.reshape(nearest + n_cells * tf.range(n_sets, dtype=nearest.dtype)[:, None], [-1])
    ones = tf.ones_like(cells, dtype=counts.dtype)
    found = tf.math.unsorted_segment_sum(ones, cells, n_sets * n_cells)
    return tf.reshape(found, counts.shape)


def dead_cells(
    counts: tf.Tensor, arrived: tf.Tensor, distances: tf.Tensor, variance: tf.Tensor
) -> tf.Tensor:
    """(m, k) bool: cells that stand for nothing any more, of m sets of k.

    ``counts`` and ``arrived`` (m, k) are the moving counts and those of a sample, ``distances``
    (m, n) the sample's to its cells; ``variance`` () is a set's share of the vectors' variance.
    """
    is_unused = tf.logical_and(counts < LEAST_COUNT, arrived == 0)
    is_needed = tf.reduce_mean(distances, axis=1) > EXACT * variance
    return tf.logical_and(is_unused, is_needed[:, None])


def evenness(counts: tf.Tensor) -> tf.Tensor:
    """(): (exp(entropy) − 1) / (k − 1) of the use of k cells; 1 for a single one."""
    n_cells = counts.shape[0]
    if n_cells == 1:
        return tf.constant(1.0)
    shares = counts / tf.reduce_sum(counts)
    n_even = tf.exp(-tf.reduce_sum(tf.math.xlogy(shares, shares)))
    return (n_even - 1) / (n_cells - 1)


def mean_length(vectors: tf.Tensor) -> tf.Tensor:
    """(): of (n, dim) vectors."""
    return tf.reduce_mean(tf.norm(vectors, axis=1))


def report(measures: Mapping[str, tf.Tensor], name: str, step: tf.Tensor) -> None:
    """Print to stderr, from within a graph, a line for each measure that is beyond its limit."""
    is_beyond = tf.stack(
        [check.is_beyond(measures[check.measure], check.limit) for check in CHECKS]
    )
    sentences = tf.stack([check.text_in_graph(measures[check.measure]) for check in CHECKS])
    found = tf.boolean_mask(sentences, is_beyond)
    lines = tf.strings.join([name, ", step ", tf.strings.as_string(step), ": ", found])
    text = tf.strings.reduce_join(lines, separator="\n")
    tf.cond(tf.reduce_any(is_beyond), lambda: _print(text), lambda: None)


def _print(text: tf.Tensor) -> None:
    tf.print(text, output_stream=sys.stderr)
