"""Pictures of an index: what it finds, what a search costs, how lists fill, where they lie.

A ``draw_...`` function fills the axes that it is given; a ``plot_...`` function makes a file. Needs
matplotlib, which the extra ``plots`` brings.
"""

from merlin_poeem.optional import needed_by

with needed_by("merlin_poeem.plots", "plots"):
    import matplotlib as matplotlib

    from merlin_poeem.plots.lists import draw_list_map, draw_list_sizes
    from merlin_poeem.plots.quality import draw_quality, plot_quality
    from merlin_poeem.plots.settings import draw_settings, plot_settings
    from merlin_poeem.plots.training import draw_training

__all__ = [
    "draw_list_map",
    "draw_list_sizes",
    "draw_quality",
    "draw_settings",
    "draw_training",
    "plot_quality",
    "plot_settings",
]
