"""The shop's two towers, trained jointly with their index, and what is exported of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import merlin.models.tf as mm
import nvtabular as nvt
import tensorflow as tf
from merlin.dag.ops.subgraph import Subgraph
from merlin.io import Dataset
from nvtabular import ops

from merlin_poeem import Index, save_index
from merlin_poeem.blocks import (
    IVFPQQuantizer,
    QuantizedTwoTowerModel,
    export_index,
    export_retrieval,
)
from merlin_poeem.serving import ServedModel
from workflows.serving.shop import Shop

DIM = 32
BYTES_PER_ITEM = 9
BATCH_SIZE = 1024
LEARNING_RATE = 0.003
TEMPERATURE = 0.2


def make_workflow(statistics: Path) -> nvt.Workflow:
    """To be fitted; numbers ids and categories, and keeps its tables in ``statistics``."""

    def numbered(column: str) -> nvt.WorkflowNode:
        return [column] >> ops.Categorify(out_path=str(statistics))

    user_id = numbered("user_id") >> ops.TagAsUserID()
    age = ["age"] >> ops.FillMissing(fill_val=40) >> ops.Normalize()
    user = user_id + ((numbered("city") + age) >> ops.TagAsUserFeatures())
    item_id = numbered("item_id") >> ops.TagAsItemID()
    item = item_id + (numbered("brand") >> ops.TagAsItemFeatures())
    return nvt.Workflow(Subgraph("user", user) + Subgraph("item", item))


@dataclass(frozen=True)
class Trained:
    """A model that can be trained on, with the workflow that makes its columns."""

    shop: Shop
    workflow: nvt.Workflow
    data: Dataset
    model: tf.keras.Model

    @classmethod
    def of(cls, shop: Shop, folder: Path, epochs: int) -> Trained:
        """Fit a workflow, kept in ``folder``, and train; shows Keras' progress bar."""
        workflow = make_workflow(folder)
        raw = shop.pairs.merge(shop.users, on="user_id").merge(shop.items, on="item_id")
        data = workflow.fit_transform(Dataset(raw.sample(frac=1, random_state=0), cpu=True))
        quantizer = IVFPQQuantizer.for_catalog(
            len(shop.items), dim=DIM, bytes_per_item=BYTES_PER_ITEM, metric="cosine"
        )
        tower = mm.MLPBlock([2 * DIM, DIM], no_activation_last_layer=True)
        model = QuantizedTwoTowerModel(
            data.schema, tower, quantizer, logits_temperature=TEMPERATURE
        )
        optimizer = tf.keras.optimizers.Adam(LEARNING_RATE)
        model.compile(optimizer=optimizer, run_eagerly=False, metrics=[])
        trained = cls(shop, workflow, data, model)
        trained.go_on(epochs)
        return trained

    def go_on(self, epochs: int) -> None:
        """Train more, as one does when new pairs have come."""
        self.model.fit(self.data, batch_size=BATCH_SIZE, epochs=epochs)

    def index(self) -> Index:
        """The catalog as the model codes it now, with titles; ids stay the shop's."""
        return export_index(
            self.model, self.shop.items, workflow=self.workflow, item_table=["title"]
        )

    def export(self, repository: Path, folder: Path, **options: Any) -> ServedModel:
        """The next version in a Triton model repository; ``folder`` holds the index meanwhile."""
        save_index(self.index(), folder)
        return export_retrieval(
            self.model, folder, repository, workflow=self.workflow, titles="title", **options
        )
