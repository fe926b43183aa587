"""A finished run at work: measure it on a split, or name the class of photographs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gta.data.datasets import parts
from gta.data.images import cropped, open_rgb, readable
from gta.data.reading import read_photos, read_split
from gta.data.sample import Sample
from gta.data.transforms import test_view
from gta.devices import default_device
from gta.errors import GtaError
from gta.sources.info import source_info
from gta.sources.loading import load_source
from gta.training.evaluate import measure
from gta.training.look import shown
from gta.training.options import TrainOptions
from gta.training.run_folder import load_weights, read_options

BATCH = 32


def evaluate_run(folder: Path, data: str | None = None, split: str = "test") -> dict[str, Any]:
    """Measure a run's model on a split of its own data, or of another folder with the same classes.

    Returns:
        run, data, split, images, classes, top1, drift, object_mass, source_object_mass, jaccard,
        source_jaccard (None where nothing has a mask).

    Raises:
        GtaError: no finished run, no such split, or other classes than the model's.
    """
    options = read_options(folder)
    model, known = load_weights(folder)
    root = data or options.data
    subset_list = options.subset_list if data is None else None
    samples = _samples(root, split, known["classes"], options, subset_list)
    source = load_source(options.source, options.image_size, heads=options.heads)
    info = source_info(source)
    device = default_device()
    measures = measure(model.to(device), source.to(device), info, shown(samples, folder))
    return {
        "run": str(folder), "data": root, "split": split, "images": len(samples), "classes": len(known["classes"]),
        **measures,
    }  # fmt: skip


def _samples(
    root: str, split: str, classes: list[str], options: TrainOptions, subset_list: str | None
) -> Sequence[Sample]:
    if split != "train" and not parts(root)[0] and (Path(root) / split).is_dir():
        return read_split(root, split, classes, skip_unreadable=options.skip_unreadable)
    # train is what the run's fraction and seed (or its list) choose; val may have to be held out of train
    photos = read_photos(
        root,
        fraction=options.fraction,
        seed=options.seed,
        skip_unreadable=options.skip_unreadable,
        subset_list=subset_list,
    )
    if list(photos.classes) != classes:
        differing = sorted(set(photos.classes) ^ set(classes))
        raise GtaError(f"{root} has other classes than the model was trained on: {', '.join(differing[:8])}.")
    return photos.split(split)


def predict_images(folder: Path, images: Sequence[str]) -> list[dict[str, Any]]:
    """The most probable class of each image.

    Returns:
        Per image: image, class, probability, and `probabilities` of all classes by name.

    Raises:
        GtaError: no finished run, or files that are missing or no images (all are named).
    """
    model, known = load_weights(folder)
    readable(images)
    size = known["model_args"]["img_size"]
    view = test_view(size if isinstance(size, int) else size[0], known["mean"], known["std"])
    device = default_device()
    model.to(device)
    samples = shown([Sample(Path(path), path, 0) for path in images], folder)
    guesses = []
    for start in range(0, len(samples), BATCH):
        chunk = samples[start : start + BATCH]
        with torch.no_grad():
            batch = torch.stack([view(cropped(open_rgb(sample.path), sample.box)) for sample in chunk]).to(device)
            probabilities = model(batch).softmax(-1).cpu()
        for sample, row in zip(chunk, probabilities, strict=True):
            best = int(row.argmax())
            guesses.append(
                {
                    "image": sample.name,
                    "class": known["classes"][best],
                    "probability": float(row[best]),
                    "probabilities": dict(zip(known["classes"], row.tolist(), strict=True)),
                }
            )
    return guesses
