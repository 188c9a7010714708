"""A two-tower recommender's index, trained with the towers: the right half, free of TensorFlow.

frame → workflow → towers → quantizer → **codes → index → search → frame**
"""

from merlin_poeem.fit import fit
from merlin_poeem.index import Index
from merlin_poeem.index_format import IndexFormatError, load_index, save_index
from merlin_poeem.item_codes import ItemCodes, Quantization
from merlin_poeem.item_set import ItemSet
from merlin_poeem.params import IVFPQParams
from merlin_poeem.ragged import Candidates, IdLists
from merlin_poeem.search.frames import search_frame
from merlin_poeem.search.searcher import Searcher, open_searcher

__version__ = "0.1.0.dev0"

__all__ = [
    "Candidates",
    "IVFPQParams",
    "IdLists",
    "Index",
    "IndexFormatError",
    "ItemCodes",
    "ItemSet",
    "Quantization",
    "Searcher",
    "fit",
    "load_index",
    "open_searcher",
    "save_index",
    "search_frame",
]
