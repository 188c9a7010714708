"""A two-tower recommender's index, trained with the towers: the right half, free of TensorFlow.

frame → workflow → towers → quantizer → **codes → index → search → frame**
"""

from merlin_poeem.fit import fit
from merlin_poeem.index import Index
from merlin_poeem.index_format import IndexFormatError, load_index, save_index
from merlin_poeem.item_codes import ItemCodes, Quantization
from merlin_poeem.item_set import ItemSet
from merlin_poeem.items import like_items, like_rows, with_items
from merlin_poeem.params import IVFPQParams
from merlin_poeem.ragged import Candidates, IdLists
from merlin_poeem.ready_made import index_frame
from merlin_poeem.search.frames import search_frame
from merlin_poeem.search.searcher import Searcher, open_searcher
from merlin_poeem.text_index import TextIndex

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
    "TextIndex",
    "fit",
    "index_frame",
    "like_items",
    "like_rows",
    "load_index",
    "open_searcher",
    "save_index",
    "search_frame",
    "with_items",
]
