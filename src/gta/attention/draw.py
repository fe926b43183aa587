"""Pictures of what source and target look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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

    lines = -(-len(images) // BESIDE)
    columns = min(BESIDE, len(images))
    figure = Figure(figsize=(5.0 * columns, 1.95 * lines + 0.75), dpi=110, facecolor="white")
    sheet = figure.subfigures(lines, columns, squeeze=False, hspace=0, wspace=0.02)
    for i in range(lines * columns):
        part = sheet[divmod(i, columns)]
        if i >= len(images):
            continue
        axes = part.subplots(
            1, 3, gridspec_kw={"wspace": 0.03, "left": 0.02, "right": 0.98, "top": 0.8, "bottom": 0.02}
        )
        photo = images[i].permute(1, 2, 0).numpy()
        size = photo.shape[0]
        for axis, heat, title in zip(
            axes,
            (None, maps[0][i], maps[1][i]),
            (_short(names[i]), "source looks at", "target looks at"),
            strict=True,
        ):
            axis.imshow(photo if heat is None else photo.mean(-1) * 0.6 + 0.2, cmap="gray", vmin=0, vmax=1)
            if heat is not None:
                axis.imshow(
                    heat.numpy(), cmap="inferno", alpha=0.72, extent=(-0.5, size - 0.5, size - 0.5, -0.5),
                    interpolation="bicubic",
                )  # fmt: skip
            if not masks[i].isnan().any() and masks[i].any():
                axis.contour(masks[i].numpy(), levels=[0.5], colors="#4fd1ff", linewidths=1.1)
            axis.set_title(title, fontsize=8.5, color="#444444" if heat is not None else "black", pad=3)
            axis.axis("off")
        right = names[i] == guesses[i]
        part.suptitle(
            f"says {_short(guesses[i])}" + (" ✓" if right else " ✗"),
            x=0.02, y=0.985, ha="left", fontsize=9, color="#1a7f37" if right else "#b42318",
        )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name("new-" + path.name)
    figure.savefig(new, format="png")
    new.replace(path)


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
