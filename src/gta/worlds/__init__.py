"""A procedural world of butterflies: small photograph-like scenes, each with its object mask.

`butterflies.render` draws them; `folder.write_world` writes them as a data folder that `gta train` takes;
`butterflies.safetensors` is a small ViT pre-trained on other species of this world (source spec `gta:butterflies`).

Imported when first used: `gta world --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gta.worlds.butterflies import DOWNSTREAM as DOWNSTREAM
    from gta.worlds.butterflies import PRETRAINING as PRETRAINING
    from gta.worlds.butterflies import render as render
    from gta.worlds.butterflies import scenes as scenes
    from gta.worlds.butterflies import species as species
    from gta.worlds.folder import write_world as write_world
    from gta.worlds.options import WorldOptions as WorldOptions

_HOME = {
    **dict.fromkeys(("DOWNSTREAM", "PRETRAINING", "render", "scenes", "species"), "gta.worlds.butterflies"),
    "WorldOptions": "gta.worlds.options",
    "write_world": "gta.worlds.folder",
}
__all__ = ["DOWNSTREAM", "PRETRAINING", "WorldOptions", "render", "scenes", "species", "write_world"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gta.worlds' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
