"""Pictures inside a page: WebP as data addresses, maps as sheets of grey tiles, masks as outlines."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]


def embedded(image: Image.Image, side: int, quality: int = 72) -> str:
    """A photograph, no side longer than `side` px."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _address(small, quality=quality, method=4)


def embedded_file(path: Path) -> str:
    """A picture file, in its own size."""
    with Image.open(path) as image:
        return embedded(image.convert("RGB"), max(image.size), 85)


def sheet(maps: Array) -> str:
    """Maps as grey tiles of one picture, each from 0 to its own largest value.

    Args:
        maps: (lines, columns, down, across), 0 or above.
    """
    maps = maps.astype(np.float32)
    grey = 255 * maps / np.maximum(maps.max((2, 3), keepdims=True), 1e-12)
    lines, columns, down, across = maps.shape
    whole = grey.round().astype(np.uint8).transpose(0, 2, 1, 3).reshape(lines * down, columns * across)
    return _address(Image.fromarray(whole), lossless=True, quality=60, method=4)


def outline(mask: Array) -> str:
    """The outline of a mask, (height, width) bool, as an SVG path in px; "" where there is none."""
    from contourpy import contour_generator
    from scipy.ndimage import gaussian_filter

    if not mask.any():
        return ""
    soft = gaussian_filter(np.pad(mask.astype(np.float32), 1), len(mask) / 150)  # no stairs
    lines = (np.asarray(line) - 0.5 for line in contour_generator(z=soft).lines(0.5))
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) + "Z" for line in lines)


def _address(image: Image.Image, **how: Any) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", **how)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
