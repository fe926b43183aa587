"""README.md of a run folder: what the model is, what it was measured to do, and what nobody should expect of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from gta.data.datasets import parts, title
from gta.methods import METHODS, method_names
from gta.training.options import TrainOptions

CARD = "README.md"
FEW = 100  # images of a split, below which its numbers are said to be of few


def model_card(
    options: TrainOptions,
    results: Mapping[str, Any],
    form: Literal["run", "hf", "timm"] = "run",
    whole: float | None = None,
) -> str:
    """The card in Markdown; where the data and the source lie on this disk is not in it.

    Args:
        options: of the run.
        results: the content of its results.json.
        form: of the folder that it lies in: a run, or what transformers (hf) or timm and transformers (timm) take.
        whole: where a run's model is shown parts of images and what is exported is given whole ones: its top-1 on
            these, in percent.
    """
    environment = Environment(
        loader=PackageLoader("gta.training", "."), undefined=StrictUndefined, keep_trailing_newline=True
    )
    named, _ = parts(options.data)
    methods = [(name, METHODS[name]) for name in method_names(results["composed"])]
    splits = [split for split in ("val", "test") if results[f"{split}_images"]]
    return environment.get_template("model_card.md.jinja").render(
        r=results,
        form=form,
        whole=whole,
        data=title(options.data) if named else "a folder of photographs",
        source=options.source if ":" in options.source else Path(options.source).name,
        licence=source_licence(options.source),
        methods=[(name, str(kind.__doc__).strip().splitlines()[0], kind.paper) for name, kind in methods],
        splits=splits,
        intervals={split: wilson(results[f"{split}_top1"], results[f"{split}_images"]) for split in splits},
        fitted="val" if results["cv_top1"] is None else "the images that cross-validation left out",
        few=FEW,
    )


def source_licence(spec: str) -> str | None:
    """The licence of a source's weights as timm says it, such as apache-2.0; None where nobody says."""
    if spec.startswith("gta:"):
        return "apache-2.0"
    if spec.startswith("timm:"):
        import timm

        found = timm.get_pretrained_cfg(spec.removeprefix("timm:"), allow_unregistered=True)
        return None if found is None else found.license
    return None


def wilson(percent: float, images: int) -> tuple[float, float, float]:
    """A share in percent of so many images, and its 95 % interval (Wilson 1927)."""
    from scipy.stats import binomtest  # a quarter of a second, which no training waits for

    found = binomtest(round(percent * images / 100), images).proportion_ci(0.95, method="wilson")
    return percent, 100 * float(found.low), 100 * float(found.high)
