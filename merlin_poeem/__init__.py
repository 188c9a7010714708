"""A two-tower recommender's index, trained with the towers: the right half, free of TensorFlow.

frame → workflow → towers → quantizer → **codes → index → search → frame**
"""

from merlin_poeem.frames.items import like_items, like_rows, with_items
from merlin_poeem.frames.ready_made import index_frame
from merlin_poeem.frames.search_frame import search_frame
from merlin_poeem.frames.text_index import TextIndex
from merlin_poeem.index.flat_index import FlatIndex
from merlin_poeem.index.index import Index
from merlin_poeem.index.loading import load_flat_index, load_index
from merlin_poeem.index.saving import save_index
from merlin_poeem.index.stored_files import IndexFormatError
from merlin_poeem.quantization.fit import fit
from merlin_poeem.quantization.item_codes import ItemCodes, Quantization
from merlin_poeem.quantization.params import IVFPQParams
from merlin_poeem.quantization.refit import refit
from merlin_poeem.quantization.suggested_params import suggest_params
from merlin_poeem.search.item_set import ItemSet
from merlin_poeem.search.ragged import Candidates, IdLists
from merlin_poeem.search.searcher import Searcher, open_searcher
from merlin_poeem.tuning.settings import Setting, Tuning
from merlin_poeem.tuning.tune import tune
from merlin_poeem.version import __version__ as __version__

__all__ = [
    "Candidates",
    "FlatIndex",
    "IVFPQParams",
    "IdLists",
    "Index",
    "IndexFormatError",
    "ItemCodes",
    "ItemSet",
    "Quantization",
    "Searcher",
    "Setting",
    "TextIndex",
    "Tuning",
    "fit",
    "index_frame",
    "like_items",
    "like_rows",
    "load_flat_index",
    "load_index",
    "open_searcher",
    "refit",
    "save_index",
    "search_frame",
    "suggest_params",
    "tune",
    "with_items",
]
