"""GTA: fine-tune Vision Transformers on little data without losing what pre-training taught them to look at.

>>> run = gta.fit("photos", out="runs/first")  # what gta train does
>>> run.predict("new.jpg")

>>> source = gta.load_source("dinov2_vits14.safetensors", image_size=126)
>>> model = gta.new_target(source, num_classes=45)
>>> guided = gta.guide(model, source, weight=10.0)
>>> logits, penalty = guided(images)  # in a loop of one's own

Everything is imported when first used, so that `import gta` and `gta --help` do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gta.data.gathering import image_paths as image_paths
    from gta.errors import GtaError as GtaError
    from gta.guided import Guided as Guided
    from gta.guided import guide as guide
    from gta.run import Run as Run
    from gta.run import fit as fit
    from gta.sources.info import SourceInfo as SourceInfo
    from gta.sources.loading import load_source as load_source
    from gta.sources.loading import new_target as new_target

__version__ = "0.1.0"

_HOME = {
    "GtaError": "gta.errors",
    "Guided": "gta.guided",
    "Run": "gta.run",
    "fit": "gta.run",
    "guide": "gta.guided",
    "image_paths": "gta.data.gathering",
    "SourceInfo": "gta.sources.info",
    "load_source": "gta.sources.loading",
    "new_target": "gta.sources.loading",
}
__all__ = ["GtaError", "Guided", "Run", "SourceInfo", "fit", "guide", "image_paths", "load_source", "new_target"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gta' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # `gta.guide` is the function; see `gta.guided`
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
