"""A procedural world of butterflies: small photograph-like scenes, each with its object mask.

`butterflies.render` draws them; `folder.write_world` writes them as a data folder that `gta train` takes.
"""

from gta.worlds.butterflies import DOWNSTREAM, PRETRAINING, render, scenes, species
from gta.worlds.folder import write_world

__all__ = ["DOWNSTREAM", "PRETRAINING", "render", "scenes", "species", "write_world"]
