"""The half that trains: a Keras layer for Merlin's item tower. Needs TensorFlow 2.12 and Merlin."""

from merlin_poeem.optional import needed_by

with needed_by("merlin_poeem.blocks", "train"):
    from merlin_poeem.blocks.export.distributed import encode_items_ddf, export_index_ddf
    from merlin_poeem.blocks.export.export import (
        encode_items,
        export_index,
        item_vectors,
        query_vectors,
    )
    from merlin_poeem.blocks.export.query_tower import (
        QueryTower,
        load_query_tower,
        save_query_tower,
    )
    from merlin_poeem.blocks.export.retrieval import export_retrieval
    from merlin_poeem.blocks.export.settling import settle_index
    from merlin_poeem.blocks.in_graph.predict import batch_predict, save_encoder, top_k_encoder
    from merlin_poeem.blocks.in_graph.searcher import TensorFlowSearcher
    from merlin_poeem.blocks.in_graph.topk import IVFPQTopK
    from merlin_poeem.blocks.model.freshness import StaleIndexError, check_fresh, tower_fingerprints
    from merlin_poeem.blocks.model.horovod import SameOnAllRanks
    from merlin_poeem.blocks.model.index_start import IndexStart
    from merlin_poeem.blocks.model.popularity import LengthByPopularity
    from merlin_poeem.blocks.model.query_refresh import refresh_queries
    from merlin_poeem.blocks.model.temperature import Temperature
    from merlin_poeem.blocks.model.towers import find_quantizer
    from merlin_poeem.blocks.model.two_tower import QuantizedTwoTowerModel, QuantizedTwoTowerModelV2
    from merlin_poeem.blocks.quantizer.quantizer import IVFPQQuantizer
    from merlin_poeem.blocks.recall_callback import QuantizedRecall
    from merlin_poeem.blocks.recommend import recommend

__all__ = [
    "IVFPQQuantizer",
    "IVFPQTopK",
    "IndexStart",
    "LengthByPopularity",
    "QuantizedRecall",
    "QuantizedTwoTowerModel",
    "QuantizedTwoTowerModelV2",
    "QueryTower",
    "SameOnAllRanks",
    "StaleIndexError",
    "Temperature",
    "TensorFlowSearcher",
    "batch_predict",
    "check_fresh",
    "encode_items",
    "encode_items_ddf",
    "export_index",
    "export_index_ddf",
    "export_retrieval",
    "find_quantizer",
    "item_vectors",
    "load_query_tower",
    "query_vectors",
    "recommend",
    "refresh_queries",
    "save_encoder",
    "save_query_tower",
    "settle_index",
    "top_k_encoder",
    "tower_fingerprints",
]
