"""Open any image file as 8-bit RGB, or say why it cannot be opened; keep decoded ones in memory."""

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch.utils.data
from PIL import ExifTags, Image, ImageOps
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from gta.devices import cores, free_memory
from gta.errors import GtaError
from gta.files import file_digest

S = TypeVar("S")
T = TypeVar("T")
Box = tuple[float, float, float, float]  # left, top, right, bottom, in shares of width and height

_KINDS = ".jpg .jpeg .jpe .jfif .png .apng .gif .bmp .webp .tif .tiff .heic .heif .avif .jp2 .tga .ppm .pgm .pbm .pnm"
SUFFIXES = frozenset(_KINDS.split())
MAX_PIXELS = 120_000_000  # of one image; decoding takes up to ten bytes for each


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
    return as_rgb(_open_upright(path))


def as_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB, see `open_rgb`."""
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def open_mask(path: str | Path, kind: str = "any") -> Image.Image:
    """Read an object mask as an "L" image of 0 and 255, upright.

    Args:
        path: its file.
        kind: "any": the object is what is opaque where there is transparency, every colour but the first of a palette,
            and the upper half of the values otherwise (of 0 and 255, of 0 and 1, of 0 and 65535). "share": grey is the
            share of annotators who saw the object, who are followed by majority (CUB-200-2011). "trimap": 1 is the
            object, 2 the background, 3 the unclassified border, which counts as object (Oxford-IIIT Pet).
    """
    image = _open_upright(path)
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
    image = _open_upright(path)
    if kind != "any" or image.mode != "P" or "transparency" in image.info:
        return open_mask(path, kind).point(lambda value: min(value, 1))
    numbers = np.asarray(image)
    return Image.fromarray(np.where(numbers == 255, 0, numbers).astype(np.uint8))


def _open_upright(path: str | Path) -> Image.Image:
    with _opened(path) as file:
        file.load()
        return ImageOps.exif_transpose(file)


class _Unsuitable(ValueError):
    """A file that is not even tried."""


def _opened(path: str | Path) -> Image.Image:
    """Its header read and its size checked, nothing decoded."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
        raise _Unsuitable("no regular file")
    image = Image.open(path)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _Unsuitable(
            f"{image.width}×{image.height} px are more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller"
        )
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    top = values.max(initial=0.0)
    # 16-bit files reach 65535, floating-point ones 1; an integer file that stays below 256 is 8-bit already
    scale = 255.0 if image.mode == "F" and top <= 1.0 else 1.0 if top <= 255.0 and image.mode != "I;16" else 1 / 257
    return Image.fromarray(np.clip(values * scale, 0, 255).round().astype(np.uint8))


def inspect_all(paths: Iterable[Path]) -> tuple[dict[Path, tuple[str, tuple[int, int]]], dict[Path, str]]:
    """Read every file completely, on all cores.

    Returns:
        Of the readable ones SHA-256 of the bytes and size (width, height) as upright; of the others the reason.
    """
    files = list(paths)
    results = list(zip(files, on_all_cores(_inspect, files), strict=True))
    good = {path: result for path, result in results if not isinstance(result, str)}
    return good, {path: result for path, result in results if isinstance(result, str)}


def on_all_cores(function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """The function's results, in the order of the items, from as many threads as there are cores."""
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(function, items))


def readable(images: Sequence[str]) -> list[Path]:
    """The image files as paths.

    Raises:
        GtaError: files that are missing or no images; all are named.
    """
    paths = [Path(path) for path in images]
    missing = {path: "no such file" for path in paths if not path.is_file()}
    problems = missing | inspect_all(path for path in paths if path not in missing)[1]
    if problems:
        listing = "\n".join(f"  {path}: {reason}" for path, reason in problems.items())
        raise GtaError(f"{len(problems)} of {len(images)} images cannot be read:\n{listing}")
    return paths


def _inspect(path: Path) -> tuple[str, tuple[int, int]] | str:
    try:
        with _opened(path) as file:
            if file.format != "JPEG":
                return file_digest(path), open_rgb(path).size
            width, height = file.size
            file.draft(file.mode, (1, 1))  # all of the file is read, and an eighth of the pixels computed
            lying = file.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            ImageOps.exif_transpose(file)
        return file_digest(path), (height, width) if lying else (width, height)
    except Exception as error:  # Pillow's plugins raise errors of many kinds on damaged files
        return why_unreadable(path, error)


def why_unreadable(path: Path, error: Exception) -> str:
    """What reading an image file raised, as a short reason."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if path.is_file() and path.stat().st_size == 0:
        return "empty file"
    if isinstance(error, (Image.DecompressionBombError, _Unsuitable)):
        return str(error)
    return f"{type(error).__name__}: {error}".replace(str(path), path.name)[:160]


class ImageCache:
    """Decoded photographs in memory as 8-bit RGB, decoded once, as far as a quarter of the free memory goes.

    Whether one is in memory or not changes nothing: all are `reduced`.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._images: dict[tuple[Path, Box | None], Image.Image] = {}
        self._room: float | None = None

    def __getstate__(self) -> dict[str, Any]:  # loader processes that are not forked have their own
        return {**self.__dict__, "_images": {}, "_room": None}

    def open(self, path: Path, box: Box | None = None) -> Image.Image:
        """An image, or what is in a box of it."""
        image = self._images.get((path, box))
        if image is None:
            image = reduced(cropped(open_rgb(path), box), self._size)
            if self._room is None:
                workers = torch.utils.data.get_worker_info()
                self._room = free_memory() / 4 / (1 if workers is None else workers.num_workers)
            self._room -= 3 * image.width * image.height
            if self._room > 0:
                self._images[path, box] = image
        return image


def reduced(image: Image.Image, size: int) -> Image.Image:
    """An image with the shorter side at most twice that of a view; crops of half its area are still larger than one."""
    return resize(image, [2 * size], interpolation=InterpolationMode.BICUBIC) if min(image.size) > 2 * size else image


def cropped(image: Image.Image, box: Box | None) -> Image.Image:
    """What is in a box, at least a pixel of it; the image itself without one."""
    if box is None:
        return image
    left, top, right, bottom = (round(e * s) for e, s in zip(box, (*image.size, *image.size), strict=True))
    left, top = min(left, image.width - 1), min(top, image.height - 1)
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
