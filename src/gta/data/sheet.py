"""A sheet of sample pictures, masks outlined, and of suspicious pairs."""

from __future__ import annotations

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
    tiles = [(_tile(s), _short(classes[s.label])) for s in samples]
    doubles = [
        (_tile(s), f"{word} {_short(s.name, 15)}")
        for pair in pairs
        for s, word in zip(pair, ("train", "test"), strict=True)
    ]
    lines = -(-len(tiles) // _COLUMNS) + -(-len(doubles) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _SIDE, max(1, lines) * (_SIDE + _TEXT)), "white")
    pen = ImageDraw.Draw(sheet)
    place = 0
    for group in (tiles, doubles):
        for image, text in group:
            y, x = divmod(place, _COLUMNS)
            sheet.paste(image, (x * _SIDE + 2, y * (_SIDE + _TEXT) + _TEXT))
            pen.text((x * _SIDE + 2, y * (_SIDE + _TEXT)), text, fill="black")
            place += 1
        place = -(-place // _COLUMNS) * _COLUMNS  # the pairs begin a new line
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
    tile = Image.new("RGB", (side, side), (235, 235, 235))
    tile.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return tile


def _short(text: str, most: int = 21) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"
