"""A sheet of sample pictures, masks outlined, and of suspicious pairs."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from gta.data.images import open_mask, open_rgb
from gta.data.sample import Sample
from gta.files import atomic_write

_SIDE, _TEXT, _COLUMNS = 132, 14, 6
_OUTLINE = (79, 209, 255)


def draw_sheet(
    samples: Sequence[Sample], classes: Sequence[str], pairs: Sequence[tuple[Sample, Sample]], path: Path
) -> None:
    """Write a PNG: the samples with their class names, then the pairs side by side, training image first.

    Args:
        samples: readable images.
        classes: names in label order.
        pairs: duplicates, drawn below the samples.
        path: file to write; its folder is made.
    """
    single = [(s, _short(classes[s.label])) for s in samples]
    double = [(s, f"{word} {_short(s.name, 15)}") for a, b in pairs for s, word in ((a, "train"), (b, "test"))]
    lines = [-(-len(group) // _COLUMNS) for group in (single, double)]
    sheet = Image.new("RGB", (_COLUMNS * _SIDE, max(1, sum(lines)) * (_SIDE + _TEXT)), "white")
    pen = ImageDraw.Draw(sheet)
    for group, first_line in ((single, 0), (double, lines[0])):
        for i, (sample, text) in enumerate(group):
            x, y = i % _COLUMNS * _SIDE + 2, (first_line + i // _COLUMNS) * (_SIDE + _TEXT)
            pen.text((x, y), text, fill="black")
            sheet.paste(_tile(sample), (x, y + _TEXT))
    with atomic_write(path, "--pictures") as new:
        sheet.save(new, format="png")


def _tile(sample: Sample) -> Image.Image:
    """The whole image, fitted into the tile, with its mask's outline."""
    side = _SIDE - 4
    image = ImageOps.contain(open_rgb(sample.path), (side, side))
    if sample.mask is not None:
        mask = open_mask(sample.mask, sample.mask_kind).resize(image.size, Image.Resampling.NEAREST)
        edge = ImageChops.difference(mask, mask.filter(ImageFilter.MinFilter(3)))
        image.paste(Image.new("RGB", image.size, _OUTLINE), mask=edge)
    return ImageOps.pad(image, (side, side), color=(235, 235, 235))


def _short(text: str, most: int = 21) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"
