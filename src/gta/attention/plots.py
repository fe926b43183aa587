"""Pictures of what models look at: [cls] attention of the last layer over the patches, laid over photographs.

Each panel has its own colour scale, from the smallest to the largest value of its map.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate

from gta.attention.maps import last_attention, patch_grid
from gta.attention.metrics import mean_map
from gta.data.sample import Sample, evenly_spread
from gta.data.transforms import TestViews
from gta.files import atomic_write, printable
from gta.sources.info import SourceInfo, source_info

PICTURES = 12
WIDTH = 9  # panels per line of the sheet, at most
GREY, GREEN, RED = "#666666", "#1a7f37", "#b42318"


@dataclass(frozen=True)
class _Panel:
    photo: Tensor  # (3, height, width) in [0, 1]
    mask: Tensor  # (height, width); NaN where there is none
    title: str
    heat: Tensor | None = None  # (down, across)
    line: str = ""
    colour: str = GREY


def draw_maps(
    source: nn.Module,
    models: Mapping[str, nn.Module],
    info: SourceInfo,
    samples: Sequence[Sample],
    classes: Sequence[str],
    path: Path,
    shown: Mapping[str, Callable[[Sequence[Sample]], Sequence[Sample]]] = MappingProxyType({}),
) -> None:
    """Draw a dozen samples, spread evenly over the split, beside what the source and each model look at.

    Attention is the mean over heads. The mask's outline is drawn where there is one.

    Args:
        source: its classifier, if any, is not asked.
        models: classifiers by the names they are to have in the picture.
        info: image size and normalisation.
        samples: at least one.
        classes: names, by label.
        path: PNG to write; its folder is made.
        shown: by a model's name, what it is shown of samples, where that is not all of them.
    """
    chosen = evenly_spread(samples, PICTURES)
    images, photos, masks = _open(chosen, info)
    _, source_maps = _mean_maps(source, images)
    opened = {name: _open(shown[name](chosen), info) if name in shown else (images, photos, masks) for name in models}
    seen = {name: _mean_maps(model, opened[name][0]) for name, model in models.items()}
    groups = []
    for i, sample in enumerate(chosen):
        name = classes[sample.label]
        panels = [
            _Panel(photos[i], masks[i], _short(name)),
            _Panel(photos[i], masks[i], "source", source_maps[i], "looks at"),
        ]
        for model, (logits, maps) in seen.items():
            guess = classes[int(logits[i].argmax())]
            verdict = ("✓ recognised", GREEN) if guess == name else (f"✗ {_short(guess, 20)}", RED)
            _, own_photos, own_masks = opened[model]
            panels.append(_Panel(own_photos[i], own_masks[i], model, maps[i], *verdict))
        groups.append(panels)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as new:
        _sheet(groups, new, columns=WIDTH // len(groups[0]))


def draw_heads(model: nn.Module, images: Sequence[Path], out: Path) -> tuple[int, int]:
    """Draw a line of panels per image: the photograph, the mean over heads, then every head.

    Args:
        model: from `load_source`.
        images: readable files; their central squares are taken.
        out: PNG to write, named by --out; its folder is made.

    Returns:
        How many images and heads were drawn.
    """
    inputs, photos, masks = _open([Sample(path, path.name, label=0) for path in images], source_info(model))
    groups = []
    for path, image, photo, mask in zip(images, inputs[:, None], photos, masks, strict=True):
        _, attention = last_attention(model, image)
        maps = torch.cat([mean_map(attention), attention[0]]).unflatten(-1, patch_grid(model, image))
        names = ["mean of heads", *(f"head {i}" for i in range(len(maps) - 1))]
        panels = (_Panel(photo, mask, "", heat, name) for heat, name in zip(maps, names, strict=True))
        groups.append([_Panel(photo, mask, path.name), *panels])
    with atomic_write(out, "--out") as new:
        _sheet(groups, new, upsampling="nearest")
    return len(groups), len(groups[0]) - 2


def _open(samples: Sequence[Sample], info: SourceInfo) -> tuple[Tensor, Tensor, Tensor]:
    """Images as models see them, the same in [0, 1], and masks, as in `TestViews`."""
    views = TestViews(samples, info.image_size, info.mean, info.std)
    images, _, masks = default_collate([views[i] for i in range(len(views))])
    mean, std = (torch.tensor(values)[:, None, None] for values in (info.mean, info.std))
    return images, (images * std + mean).clamp(0, 1), masks


def _mean_maps(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and attention averaged over heads, (B, down, across)."""
    logits, attention = last_attention(model, images)
    return logits, mean_map(attention).unflatten(-1, patch_grid(model, images))


def _sheet(groups: list[list[_Panel]], path: Path, columns: int = 1, upsampling: str = "bicubic") -> None:
    """Write a PNG of groups of panels; a group's panels stand in one line, `columns` groups beside each other."""
    from matplotlib.figure import Figure

    size = len(groups[0])
    columns = max(1, min(columns, len(groups)))
    lines = -(-len(groups) // columns)
    figure = Figure(figsize=(1.7 * size * columns, 2.1 * lines), dpi=110, facecolor="white")
    sheet = figure.subfigures(lines, columns, squeeze=False)
    for part, panels in zip(sheet.flat, groups, strict=False):
        part.subplots_adjust(left=0.02, right=0.98, bottom=0.03, top=0.8, wspace=0.04)
        for axis, panel in zip(part.subplots(1, size), panels, strict=True):
            _draw_panel(axis, panel, upsampling)
    figure.savefig(path, format="png")


def _draw_panel(axis: Any, panel: _Panel, upsampling: str) -> None:
    from matplotlib import colormaps

    photo, heat = panel.photo.permute(1, 2, 0).numpy(), panel.heat
    if heat is None:
        axis.imshow(photo)
    else:
        strength = (heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-12)
        glow = F.interpolate(strength[None, None], photo.shape[:2], mode=upsampling)[0, 0].clamp(0, 1).numpy()
        colours = colormaps["inferno"](glow)
        colours[..., 3] = 0.9 * glow**0.5  # where nothing is looked at, the photograph shows
        axis.imshow(photo.mean(-1) * 0.75, cmap="gray", vmin=0, vmax=1)
        axis.imshow(colours)
    if not panel.mask.isnan().any() and panel.mask.any():
        axis.contour(panel.mask.numpy(), levels=[0.5], colors="#4fd1ff", linewidths=1.0)
    axis.text(
        0, 1.13, printable(panel.title), transform=axis.transAxes, fontsize=9, fontweight="bold", parse_math=False
    )
    axis.text(
        0, 1.03, printable(panel.line), transform=axis.transAxes, fontsize=8, color=panel.colour, parse_math=False
    )
    axis.axis("off")


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
