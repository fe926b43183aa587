"""A finished run at work: name the class of photographs, as fast as they can be decoded and the model can run."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.ImageOps import exif_transpose as upright
from torch import Tensor

from gta.data.images import as_rgb, open_rgb, why_unreadable
from gta.errors import GtaError
from gta.training.trained import Trained

BATCH = 32
AHEAD = 4 * BATCH  # images that are decoded before the model takes them
Picture = str | Path | Image.Image


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
    batch: list[tuple[str, Tensor | str]] = []
    readable = done = 0
    for name, seen in _decoded(trained, images):
        batch.append((name, seen))
        readable += not isinstance(seen, str)
        if readable == BATCH or len(batch) == AHEAD:
            yield from _said(trained, batch, abstain)
            progress(done := done + len(batch))
            batch, readable = [], 0
    if batch:
        yield from _said(trained, batch, abstain)
        progress(done + len(batch))


def _decoded(trained: Trained, images: Iterable[Picture]) -> Iterator[tuple[str, Tensor | str]]:
    """Of each image its name, and what the model is given of it or why it cannot be read."""
    waiting: deque[tuple[str, Future[Tensor | str]]] = deque()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for i, image in enumerate(images):
            waiting.append((_name(image, i), pool.submit(_read, trained, image)))
            if len(waiting) > AHEAD:
                name, future = waiting.popleft()
                yield name, future.result()
        for name, future in waiting:
            yield name, future.result()


def _name(image: Picture, index: int) -> str:
    if isinstance(image, Image.Image):
        return str(getattr(image, "filename", "")) or f"image {index}"
    return str(image)


def _read(trained: Trained, image: Picture) -> Tensor | str:
    try:
        return trained.sees(as_rgb(upright(image)) if isinstance(image, Image.Image) else open_rgb(image))
    except Exception as error:  # Pillow's plugins raise errors of many kinds on damaged files
        return why_unreadable(Path(_name(image, 0)), error)


def _said(trained: Trained, batch: Sequence[tuple[str, Tensor | str]], abstain: float) -> Iterator[Prediction]:
    seen = [tensor for _, tensor in batch if not isinstance(tensor, str)]
    probabilities = trained.probabilities(torch.stack(seen)) if seen else torch.empty(0, len(trained.classes))
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
