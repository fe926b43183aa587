"""A finished run at work: name the class of photographs, as fast as they can be decoded and the model can run."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from PIL.ImageOps import exif_transpose as upright
from torch import Tensor

from gta.data.images import as_rgb, open_rgb, why_unreadable
from gta.devices import cores
from gta.errors import GtaError
from gta.training.trained import Trained

BATCH = 32
AHEAD = 4 * BATCH  # images that are decoded before the model takes them
PIXELS = 100_000_000  # of images that are kept whole until it is known what of them is shown, 300 MB
Picture = str | Path | Image.Image
Opened = tuple[Image.Image, Tensor]  # an RGB image, and its view to look at
T = TypeVar("T")
Named = tuple[str, T | str]  # an image's name, and what was made of it or why it cannot be read


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        image: its path; "image 0" and so on for images that came without one.
        label: the most probable class; None where its probability is too low to say, or the image is unreadable.
        probability: of the most probable class, calibrated.
        margin: to the second most probable.
        entropy: Shannon's, of all probabilities, in nats: 0 is certain, ln(classes) knows nothing.
        probabilities: of every class, the most probable first; {} of an unreadable image.
        error: why the image could not be read.
    """

    image: str
    label: str | None = None
    probability: float | None = None
    margin: float | None = None
    entropy: float | None = None
    probabilities: dict[str, float] | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Everything, under the names that gta predict --json gives it."""
        measures = {"probability": self.probability, "margin": self.margin, "entropy": self.entropy}
        rest = {"probabilities": self.probabilities, "error": self.error}
        return {"image": self.image, "class": self.label, **measures, **rest}

    def as_row(self, top: int) -> dict[str, Any]:
        """A line of a table: path, class, probability, margin, entropy, the `top` most probable classes, error."""
        measures = {"probability": self.probability, "margin": self.margin, "entropy": self.entropy}
        best = list((self.probabilities or {}).items())[:top]
        best += [("", None)] * (top - len(best))  # type: ignore[list-item]
        ranked: dict[str, Any] = {}
        for rank, (label, probability) in enumerate(best, 1):
            ranked |= {f"class_{rank}": label, f"probability_{rank}": probability}
        return {"path": self.image, "class": self.label, **measures, **ranked, "error": self.error}


def predict(
    trained: Trained,
    images: Iterable[Picture],
    *,
    abstain: float = 0.0,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Prediction]:
    """The most probable class of each image, in order, while they are decoded on all cores.

    Args:
        trained: a run's model.
        images: files, or images of Pillow's.
        abstain: name no class whose probability is below this, 0 to 1.
        progress: called with the number of images done, a batch at a time.

    Raises:
        GtaError: `abstain` out of range.
    """
    if not 0 <= abstain <= 1:
        raise GtaError(f"abstain must be a probability from 0 to 1, such as 0.8, got {abstain}.")
    return _predicted(trained, images, abstain, progress)


def _predicted(
    trained: Trained, images: Iterable[Picture], abstain: float, progress: Callable[[int], None]
) -> Iterator[Prediction]:
    done = 0
    with ThreadPoolExecutor(cores()) as pool:
        for batch in _batches(_seen(trained, images, pool)):
            yield from _said(trained, batch, abstain)
            progress(done := done + len(batch))


def _seen(trained: Trained, images: Iterable[Picture], pool: ThreadPoolExecutor) -> Iterator[Named[Tensor]]:
    """What the model is given of each image."""
    closer = trained.closer
    if closer is None:
        yield from _opened(trained.view, images, pool, trained.device.type == "cpu")
        return
    see: Callable[[Image.Image], Opened] = lambda image: (image, closer.view(image))  # noqa: E731
    opened = _opened(see, images, pool, trained.device.type == "cpu")
    for batch in _batches(opened):
        readable = [pair for _, pair in batch if not isinstance(pair, str)]
        shown = pool.map(trained.view, closer.of_images(*zip(*readable, strict=True)) if readable else ())
        for name, pair in batch:
            yield name, pair if isinstance(pair, str) else next(shown)


def _opened(
    see: Callable[[Image.Image], T], images: Iterable[Picture], pool: ThreadPoolExecutor, in_turn: bool
) -> Iterator[Named[T]]:
    """What is made of each image, some ahead of those that are taken.

    `in_turn`: a batch at a time, none while the model runs. Where that needs the same cores, its threads, which wait
    for each other, would wait for those that decode.
    """

    def read(image: Picture) -> T | str:
        try:
            return see(as_rgb(upright(image)) if isinstance(image, Image.Image) else open_rgb(image))
        except Exception as error:  # Pillow's plugins raise errors of many kinds on damaged files
            return why_unreadable(Path(_name(image, 0)), error)

    waiting: deque[tuple[str, Future[T | str]]] = deque()
    ahead = cores()  # until one is there to be measured
    for i, image in enumerate(images):
        waiting.append((_name(image, i), pool.submit(read, image)))
        if len(waiting) <= ahead:
            continue
        while len(waiting) > (0 if in_turn else ahead):
            name, future = waiting.popleft()
            ahead = max(cores(), min(BATCH if in_turn else AHEAD, PIXELS // _pixels(future.result())))
            yield name, future.result()
    for name, future in waiting:
        yield name, future.result()


def _batches(images: Iterator[Named[T]]) -> Iterator[list[Named[T]]]:
    """As many as a pass takes: `BATCH` that can be read, or fewer where they are kept whole and are large."""
    batch: list[Named[T]] = []
    readable = pixels = 0
    for name, seen in images:
        batch.append((name, seen))
        readable += not isinstance(seen, str)
        pixels += _pixels(seen)
        if readable == BATCH or len(batch) == AHEAD or pixels >= PIXELS:
            yield batch
            batch, readable, pixels = [], 0, 0
    if batch:
        yield batch


def _pixels(seen: Any) -> int:
    """Of an image that is kept."""
    return int(seen[0].width * seen[0].height) if isinstance(seen, tuple) else 1


def _name(image: Picture, index: int) -> str:
    if isinstance(image, Image.Image):
        return str(getattr(image, "filename", "")) or f"image {index}"
    return str(image)


def _said(trained: Trained, batch: Sequence[tuple[str, Tensor | str]], abstain: float) -> Iterator[Prediction]:
    seen = [tensor for _, tensor in batch if not isinstance(tensor, str)]
    probabilities = trained.probabilities(trained.normalised(seen)) if seen else torch.empty(0, len(trained.classes))
    entropy = iter(torch.special.entr(probabilities).sum(-1).tolist())
    ordered = iter(zip(*(t.tolist() for t in probabilities.sort(-1, descending=True)), strict=True))
    for name, tensor in batch:
        if isinstance(tensor, str):
            yield Prediction(name, error=tensor)
            continue
        values, order = next(ordered)
        yield Prediction(
            name,
            trained.classes[order[0]] if values[0] >= abstain else None,
            values[0],
            values[0] - values[1],
            next(entropy),
            {trained.classes[i]: value for i, value in zip(order, values, strict=True)},
        )
