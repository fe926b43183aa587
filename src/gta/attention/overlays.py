"""What each head of a model looks at in some images, laid over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from gta.attention.maps import patch_grid
from gta.attention.metrics import mean_map
from gta.attention.survey import last_attention
from gta.data.images import open_rgb
from gta.data.transforms import test_view
from gta.files import atomic_write
from gta.sources.info import source_info


def draw_overlays(model: nn.Module, images: Sequence[Path], out: Path) -> tuple[int, int]:
    """Write a PNG with a line per image: the photograph, the mean over heads, then every head.

    Attention is that of the [cls] query in the last layer over the patches; every picture has its own colour scale from
    its smallest to its largest value.

    Args:
        model: from `load_attentive`.
        images: readable files; their central squares are taken.
        out: file to write; its folder is made.

    Returns:
        How many images and heads were drawn.
    """
    from matplotlib.figure import Figure

    info = source_info(model)
    view = test_view(info.image_size, info.mean, info.std)
    mean, std = (torch.tensor(values)[:, None, None] for values in (info.mean, info.std))
    lines = []
    for path in images:
        pixels = view(open_rgb(path))
        attention = last_attention(model, pixels[None])
        maps = torch.cat([mean_map(attention), attention[0]]).unflatten(-1, patch_grid(model, pixels[None]))
        lines.append((path.name, (pixels * std + mean).clamp(0, 1).permute(1, 2, 0), maps))
    columns = 1 + len(lines[0][2])
    figure = Figure(figsize=(1.6 * columns, 1.75 * len(lines)), dpi=110, facecolor="white")
    axes = figure.subplots(len(lines), columns, squeeze=False)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.99 - 0.12 / len(lines), wspace=0.03, hspace=0.16)
    for row, (name, photo, maps) in zip(axes, lines, strict=True):
        for axis in row:
            axis.axis("off")
        row[0].imshow(photo.numpy())
        row[0].set_title(name if len(name) <= 20 else f"…{name[-19:]}", fontsize=8, parse_math=False)
        for number, (axis, heat) in enumerate(zip(row[1:], maps, strict=True)):
            axis.imshow(photo.mean(-1).numpy() * 0.75, cmap="gray", vmin=0, vmax=1)
            strength = ((heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-12)).numpy()
            edges = (-0.5, photo.shape[1] - 0.5, photo.shape[0] - 0.5, -0.5)
            alpha = 0.35 + 0.5 * strength
            axis.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=alpha, extent=edges, interpolation="nearest")
            axis.set_title(f"head {number - 1}" if number else "mean of heads", fontsize=8)
    with atomic_write(out, "--out") as new:
        figure.savefig(new, format="png")
    return len(lines), columns - 2
