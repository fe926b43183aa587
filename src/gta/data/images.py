"""Open any image file as 8-bit RGB, or say why it cannot be opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageOps

from gta.errors import GtaError

SUFFIXES = frozenset(
    (
        ".jpg .jpeg .jpe .jfif .png .apng .gif .bmp .webp .tif .tiff .heic .heif .avif .jp2 .tga .ppm .pgm .pbm .pnm"
    ).split()
)


def is_image_name(path: Path) -> bool:
    """Whether the file name is that of an image; hidden files (`._photo.jpg`) are not."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def open_rgb(path: str | Path) -> Image.Image:
    """Read an image as RGB, upright.

    The first frame of an animation is taken, 16-bit and float greys are scaled to 8 bits, CMYK and palettes
    are converted, transparency is laid on white, and the camera's orientation tag is followed.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: what Pillow raises for a damaged file.
    """
    with Image.open(path) as file:
        image: Image.Image = file
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            image = _eight_bits(image)
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return image.convert("RGB")


def open_mask(path: str | Path, kind: str = "any") -> Image.Image:
    """Read an object mask as an "L" image of 0 and 255, upright.

    Args:
        path: its file.
        kind: "any": the object is what is opaque where there is transparency, every colour but the first of a palette,
            and the upper half of the values otherwise (of 0 and 255, of 0 and 1, of 0 and 65535). "share": grey is the
            share of annotators who saw the object, who are followed by majority (CUB-200-2011). "trimap": 1 is the
            object, 2 the background, 3 the unclassified border, which counts as object (Oxford-IIIT Pet).
    """
    import numpy as np

    with Image.open(path) as file:
        file.load()
        image: Image.Image = ImageOps.exif_transpose(file)
    if kind == "trimap":
        inside = np.isin(np.asarray(image), (1, 3))
    elif kind == "share":
        inside = np.asarray(image.convert("L")) > 127
    elif image.mode == "P" and "transparency" not in image.info:
        inside = np.asarray(image) > 0
    elif image.mode in ("RGBA", "LA", "PA", "P"):
        inside = np.asarray(image.convert("RGBA"))[..., 3] > 127
    else:
        values = np.asarray(image if image.mode.startswith(("I", "F")) else image.convert("L"), dtype=np.float64)
        inside = values > values.max() / 2
    return Image.fromarray(np.where(inside, 255, 0).astype(np.uint8))


def open_objects(path: str | Path, kind: str = "any") -> Image.Image:
    """Read a mask as an "L" image of 0 and the number of the object, upright.

    In a palette image every colour is an object of its own, but for the first (background) and the last, 255 (the
    border between objects, as in Pascal VOC); any other mask shows one object, as `open_mask` reads it.
    """
    import numpy as np

    with Image.open(path) as file:
        file.load()
        image: Image.Image = ImageOps.exif_transpose(file)
    if kind != "any" or image.mode != "P" or "transparency" in image.info:
        return open_mask(path, kind).point(lambda value: min(value, 1))
    numbers = np.asarray(image)
    return Image.fromarray(np.where(numbers == 255, 0, numbers).astype(np.uint8))


def _eight_bits(image: Image.Image) -> Image.Image:
    import numpy as np

    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    top = values.max(initial=0.0)
    # 16-bit files reach 65535, floating-point ones 1; an integer file that stays below 256 is 8-bit already
    scale = 255.0 if image.mode == "F" and top <= 1.0 else 1.0 if top <= 255.0 and image.mode != "I;16" else 1 / 257
    return Image.fromarray(np.clip(values * scale, 0, 255).round().astype(np.uint8))


def inspect_all(paths: Iterable[Path]) -> tuple[dict[Path, tuple[str, tuple[int, int]]], dict[Path, str]]:
    """Read every file completely, on all cores.

    Returns:
        Of the readable ones the SHA-256 of the bytes and the size (width, height) as upright; of the others
        the reason.
    """
    good: dict[Path, tuple[str, tuple[int, int]]] = {}
    bad: dict[Path, str] = {}
    files = list(paths)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for path, result in zip(files, pool.map(_inspect, files), strict=True):
            if isinstance(result, str):
                bad[path] = result
            else:
                good[path] = result
    return good, bad


def readable(images: Sequence[str]) -> list[Path]:
    """The image files as paths.

    Raises:
        GtaError: files that are missing or no images; all are named.
    """
    missing = {path: "no such file" for path in images if not Path(path).is_file()}
    _, bad = inspect_all(Path(p) for p in images if p not in missing)
    problems = missing | {str(p): reason for p, reason in bad.items()}
    if problems:
        listing = "\n".join(f"  {path}: {reason}" for path, reason in problems.items())
        raise GtaError(f"{len(problems)} of {len(images)} images cannot be read:\n{listing}")
    return [Path(p) for p in images]


def _inspect(path: Path) -> tuple[str, tuple[int, int]] | str:
    try:
        content = path.read_bytes()
        if not content:
            return "empty file"
        return hashlib.sha256(content).hexdigest(), open_rgb(path).size
    except Image.DecompressionBombError as error:
        return str(error)
    except Exception as error:  # Pillow's plugins raise errors of many kinds on damaged files
        return f"{type(error).__name__}: {error}".replace(str(path), path.name)[:160]
