"""Pictures of what source and target look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gta.attention.maps import logits_and_rows, patch_grid
from gta.attention.metrics import mean_map, patch_attention
from gta.data.folder import Sample
from gta.data.views import TestViews
from gta.sources import SourceInfo
from gta.taps import anatomy

PICTURES = 12
BESIDE = 3  # photographs per line of the sheet


def draw_maps(
    model: nn.Module,
    source: nn.Module,
    info: SourceInfo,
    samples: Sequence[Sample],
    classes: Sequence[str],
    path: Path,
) -> None:
    """Draw image, source attention and target attention of a dozen samples, spread evenly over the split.

    Attention is that of the [cls] query in the last layer, mean over heads, over the patches; each picture
    has its own colour scale from its smallest to its largest value. The mask's outline is drawn where there
    is one.
    """
    count = min(PICTURES, len(samples))
    chosen = [samples[(2 * i + 1) * len(samples) // (2 * count)] for i in range(count)]
    views = TestViews(chosen, info.image_size, info.mean, info.std)
    items = [views[i] for i in range(count)]
    images = torch.stack([image for image, _, _ in items])
    device = next(model.parameters()).device
    logits, rows = logits_and_rows(model, images.to(device))
    _, source_rows = logits_and_rows(source, images.to(device))
    grid = patch_grid(model, images)
    maps = [
        mean_map(patch_attention(r[-1], anatomy(m).prefix_tokens)).unflatten(-1, grid).cpu()
        for m, r in ((source, source_rows), (model, rows))
    ]
    mean, std = (torch.tensor(values)[:, None, None] for values in (info.mean, info.std))
    guesses = logits.argmax(-1).cpu().tolist()
    _sheet(
        [(image * std + mean).clamp(0, 1) for image in images],
        [m for *_, m in items],
        maps,
        [classes[s.label] for s in chosen],
        [classes[g] for g in guesses],
        path,
    )


def _sheet(
    images: list[Tensor],
    masks: list[Tensor],
    maps: list[Tensor],
    names: list[str],
    guesses: list[str],
    path: Path,
) -> None:
    from matplotlib.figure import Figure

    lines, columns = -(-len(images) // BESIDE), min(BESIDE, len(images))
    figure = Figure(figsize=(5.1 * columns, 2.1 * lines), dpi=110, facecolor="white")
    sheet = figure.subfigures(lines, columns, squeeze=False)
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        right = names[i] == guesses[i]
        verdict = "✓ recognised" if right else f"✗ taken for {_short(guesses[i])}"
        panels = (
            (None, _short(names[i]), verdict, "#1a7f37" if right else "#b42318"),
            (maps[0][i], "source", "looks at", "#666666"),
            (maps[1][i], "fine-tuned", "looks at", "#666666"),
        )
        axes = sheet[divmod(i, columns)].subplots(1, len(panels))
        sheet[divmod(i, columns)].subplots_adjust(left=0.02, right=0.98, bottom=0.03, top=0.8, wspace=0.04)
        for axis, (heat, title, line, colour) in zip(axes, panels, strict=True):
            _panel(axis, image, mask, heat)
            axis.text(0, 1.13, title, transform=axis.transAxes, fontsize=9, fontweight="bold", parse_math=False)
            axis.text(0, 1.03, line, transform=axis.transAxes, fontsize=8, color=colour, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name("new-" + path.name)
    figure.savefig(new, format="png")
    new.replace(path)


def _panel(axis: Any, image: Tensor, mask: Tensor, heat: Tensor | None) -> None:
    photo = image.permute(1, 2, 0).numpy()
    edges = (-0.5, photo.shape[1] - 0.5, photo.shape[0] - 0.5, -0.5)
    if heat is None:
        axis.imshow(photo)
    else:
        strength = ((heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-12)).numpy()
        axis.imshow(photo.mean(-1) * 0.75, cmap="gray", vmin=0, vmax=1)
        axis.imshow(
            strength,
            cmap="inferno",
            vmin=0,
            vmax=1,
            alpha=0.35 + 0.5 * strength,
            extent=edges,
            interpolation="bicubic",
        )
    if not mask.isnan().any() and mask.any():
        axis.contour(mask.numpy(), levels=[0.5], colors="#4fd1ff", linewidths=1.0)
    axis.axis("off")


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
