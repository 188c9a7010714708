"""IndexStart: tells a quantizer how long the training is, so that its index starts late in it."""

from __future__ import annotations

import logging

import tensorflow as tf
from merlin.schema import Tags

from merlin_poeem.blocks.model.towers import Towers, find_quantizer

logger = logging.getLogger(__name__)


class IndexStart(tf.keras.callbacks.Callback):
    """Plans the start of the index at the quantizer's share of the training, ``warmup``.

    The training is what the quantizer has seen before and what ``fit`` is going to do: where it is
    cut off and goes on with ``initial_epoch``, the start is where it would have been. Where it may
    stop early (``EarlyStopping``), it may stop before the start: give the quantizer a number of
    steps as ``warmup`` then.

    Two things are logged at level WARNING, so that they are seen: at the begin, more lists than
    there are items; at the end, an index that has not started, and what helps.

    The models of ``QuantizedTwoTowerModel`` and its V2 bring it along. A model whose item tower got
    its quantizer by Merlin's own ``connect`` has it among the ``callbacks`` of ``fit``.
    """

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """A training begins."""
        self._is_planned = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Before the first epoch, which need not be number 0, plan the start.

        ``ValueError`` where Keras does not know how many steps an epoch has.
        """
        if self._is_planned:
            return
        self._is_planned = True
        steps, towers = self.params.get("steps"), Towers.of(self.model)
        towers.quantizer.plan_start(
            None if steps is None else steps * (self.params["epochs"] - epoch)
        )
        _tell_of_lists(towers)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """The training is over: say so if there is no index to export."""
        quantizer = find_quantizer(self.model)
        waits_for = quantizer.waits_for()
        if waits_for is not None:
            logger.warning("%s: the index has not started; %s", quantizer.name, waits_for)


def _tell_of_lists(towers: Towers) -> None:
    """Log where the quantizer has more lists than the schema has items, if the tower has one."""
    if not getattr(towers.item, "has_schema", False):
        return
    domains = [column.int_domain for column in towers.item.schema.select_by_tag(Tags.ITEM_ID)]
    # Merlin takes a domain that ends at 0 for one that is not known.
    n_items = max((domain.max + 1 for domain in domains if domain and domain.max), default=None)
    quantizer = towers.quantizer
    if n_items is not None and quantizer.params.n_lists > n_items:
        logger.warning(
            "%s: n_lists = %d, and there are %d items by the schema's domain of their ids: lists "
            "will be empty; IVFPQQuantizer.for_catalog(%d, dim) takes as many as suit",
            *(quantizer.name, quantizer.params.n_lists, n_items, n_items),
        )
