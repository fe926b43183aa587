"""Pictures of what source and target look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gta.attention.maps import logits_and_rows, patch_grid
from gta.attention.metrics import mean_map, patch_attention
from gta.data.sample import Sample
from gta.data.transforms import TestViews
from gta.sources.loading import SourceInfo
from gta.vit.attention_logits import anatomy

PICTURES = 12
WIDTH = 9  # panels per line of the sheet, at most
GREY, GREEN, RED = "#666666", "#1a7f37", "#b42318"


def draw_maps(
    source: nn.Module,
    models: Mapping[str, nn.Module],
    info: SourceInfo,
    samples: Sequence[Sample],
    classes: Sequence[str],
    path: Path,
) -> None:
    """Draw a dozen samples, spread evenly over the split, beside what the source and each model look at.

    Attention is that of the [cls] query in the last layer, mean over heads, over the patches; each picture
    has its own colour scale from its smallest to its largest value. The mask's outline is drawn where there
    is one.

    Args:
        source: its classifier, if any, is not asked.
        models: classifiers by the names they are to have in the picture.
        info: image size and normalisation.
        samples: at least one.
        classes: names, by label.
        path: PNG to write.
    """
    count = min(PICTURES, len(samples))
    chosen = [samples[(2 * i + 1) * len(samples) // (2 * count)] for i in range(count)]
    views = TestViews(chosen, info.image_size, info.mean, info.std)
    images = torch.stack([views[i][0] for i in range(count)])
    mean, std = (torch.tensor(values)[:, None, None] for values in (info.mean, info.std))
    photos = (images * std + mean).clamp(0, 1)
    source_maps, _ = _look(source, images)
    looks = {name: _look(model, images) for name, model in models.items()}
    groups: list[list[_Panel]] = []
    for i, sample in enumerate(chosen):
        mask = views[i][2]
        name = classes[sample.label]
        panels = [
            _Panel(photos[i], mask, None, _short(name), ""),
            _Panel(photos[i], mask, source_maps[i], "source", "looks at"),
        ]
        for model, (maps, guesses) in looks.items():
            guess = classes[guesses[i]]
            verdict = ("✓ recognised", GREEN) if guess == name else (f"✗ {_short(guess, 20)}", RED)
            panels.append(_Panel(photos[i], mask, maps[i], model, *verdict))
        groups.append(panels)
    _sheet(groups, path)


@dataclass(frozen=True)
class _Panel:
    photo: Tensor  # (3, height, width) in [0, 1]
    mask: Tensor  # (height, width); NaN where there is none
    heat: Tensor | None  # (down, across)
    title: str
    line: str
    colour: str = GREY


def _look(model: nn.Module, images: Tensor) -> tuple[Tensor, list[int]]:
    """Mean attention maps (B, down, across) of the last layer, and first guesses."""
    device = next(model.parameters()).device
    logits, rows = logits_and_rows(model, images.to(device))
    maps = mean_map(patch_attention(rows[-1], anatomy(model).prefix_tokens))
    return maps.unflatten(-1, patch_grid(model, images)).cpu(), logits.argmax(-1).tolist()


def _sheet(groups: list[list[_Panel]], path: Path) -> None:
    from matplotlib.figure import Figure

    size = len(groups[0])
    columns = max(1, min(WIDTH // size, len(groups)))
    lines = -(-len(groups) // columns)
    figure = Figure(figsize=(1.7 * size * columns, 2.1 * lines), dpi=110, facecolor="white")
    sheet = figure.subfigures(lines, columns, squeeze=False)
    for i, panels in enumerate(groups):
        axes = sheet[divmod(i, columns)].subplots(1, size)
        sheet[divmod(i, columns)].subplots_adjust(left=0.02, right=0.98, bottom=0.03, top=0.8, wspace=0.04)
        for axis, panel in zip(axes, panels, strict=True):
            _panel(axis, panel.photo, panel.mask, panel.heat)
            axis.text(0, 1.13, panel.title, transform=axis.transAxes, fontsize=9, fontweight="bold", parse_math=False)
            axis.text(0, 1.03, panel.line, transform=axis.transAxes, fontsize=8, color=panel.colour, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name("new-" + path.name)
    figure.savefig(new, format="png")
    new.replace(path)


def _panel(axis: Any, image: Tensor, mask: Tensor, heat: Tensor | None) -> None:
    from matplotlib import colormaps

    photo = image.permute(1, 2, 0).numpy()
    if heat is None:
        axis.imshow(photo)
    else:
        strength = (heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-12)
        smooth = F.interpolate(strength[None, None], photo.shape[:2], mode="bicubic")[0, 0].clamp(0, 1).numpy()
        glow = colormaps["inferno"](smooth)
        glow[..., 3] = 0.9 * smooth**0.5  # where nothing is looked at, the photograph shows
        axis.imshow(photo.mean(-1) * 0.75, cmap="gray", vmin=0, vmax=1)
        axis.imshow(glow)
    if not mask.isnan().any() and mask.any():
        axis.contour(mask.numpy(), levels=[0.5], colors="#4fd1ff", linewidths=1.0)
    axis.axis("off")


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
