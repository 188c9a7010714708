"""The half that trains: a Keras layer for Merlin's item tower. Needs TensorFlow 2.12 and Merlin."""

from merlin_poeem.blocks.export import encode_items, export_index, item_vectors, query_vectors
from merlin_poeem.blocks.fingerprint import StaleIndexError, check_fresh, tower_fingerprints
from merlin_poeem.blocks.index_start import IndexStart
from merlin_poeem.blocks.popularity import LengthByPopularity
from merlin_poeem.blocks.predict import batch_predict, save_encoder, top_k_encoder
from merlin_poeem.blocks.quantizer import IVFPQQuantizer
from merlin_poeem.blocks.query_refresh import refresh_queries
from merlin_poeem.blocks.recall_callback import QuantizedRecall
from merlin_poeem.blocks.searcher import TensorFlowSearcher
from merlin_poeem.blocks.temperature import Temperature
from merlin_poeem.blocks.topk import IVFPQTopK
from merlin_poeem.blocks.towers import find_quantizer
from merlin_poeem.blocks.two_tower import QuantizedTwoTowerModel, QuantizedTwoTowerModelV2

__all__ = [
    "IVFPQQuantizer",
    "IVFPQTopK",
    "IndexStart",
    "LengthByPopularity",
    "QuantizedRecall",
    "QuantizedTwoTowerModel",
    "QuantizedTwoTowerModelV2",
    "StaleIndexError",
    "Temperature",
    "TensorFlowSearcher",
    "batch_predict",
    "check_fresh",
    "encode_items",
    "export_index",
    "find_quantizer",
    "item_vectors",
    "query_vectors",
    "refresh_queries",
    "save_encoder",
    "top_k_encoder",
    "tower_fingerprints",
]
