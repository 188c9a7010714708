"""Sphinx: `make docs` builds docs/_build/html in the pinned environment, warnings as errors."""

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from sphinx.util import inspect

from merlin_poeem import __version__

project = "merlin_poeem"
release = version = __version__
html_title = f"merlin_poeem {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
# Of blocks that name no language, such as listings of folders.
highlight_language = "text"
exclude_patterns = ["_build"]
myst_heading_anchors = 3

# What a class is stands in the class, what it takes in __init__.
autoclass_content = "both"
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
# Or else Keras' docstrings come in, with their reST errors.
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
numpydoc_show_class_members = False
add_module_names = False
toc_object_entries_show_parents = "hide"

# A reference to a function, a method or a public class of ours that leads nowhere is an error.
# Modules have no pages; types of others, short names of types, and these in signatures have none.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:mod", r"merlin_poeem\..*"),
    (r"py:(class|obj)", r"(?!merlin_poeem\.).*"),
    (r"py:exc", r"tf\..*"),
    (r"py:class", r"merlin_poeem\.(ops|search\.gpu|blocks\.in_graph|blocks\.export)\.\w+\..*"),
]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = html_show_sourcelink = False
html_show_copyright = False


def signature_of_init(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: Any
) -> tuple[str, Any] | None:
    """Of a Keras layer: Keras' ``__new__``, where autodoc looks first, takes anything."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    of_init = inspect.signature(obj.__init__, bound_method=True)
    signature = inspect.stringify_signature(
        of_init, show_return_annotation=False, unqualified_typehints=True
    )
    return signature, returns


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", signature_of_init)
