"""Export a run's model, and call it done only when it gives what PyTorch gives on real images."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gta.data.images import on_all_cores, open_rgb
from gta.data.sample import Sample, evenly_spread
from gta.errors import GtaError
from gta.export.form import (
    FORMS,
    Attention,
    Exported,
    Form,
    Looker,
    Pixels,
    Runner,
    Said,
    calibrated,
    described,
    described_look,
    run_torch,
)
from gta.folders import new_folder
from gta.training.look import Closer, Look
from gta.training.measure_run import run_samples
from gta.training.model_card import model_card, source_licence
from gta.training.run_folder import EXPORT, read_options, read_results
from gta.training.trained import Trained
from gta.vit.foreground import ranked

CHECKED = 16  # images
MOST = 1e-4  # that a logit or probability may differ in float32
BATCH = 16
REPEATS = 9  # of which a latency is the median
Row = dict[str, Any]


def export_run(
    folder: Path,
    to: str,
    out: Path | None = None,
    *,
    data: str | None = None,
    int8: bool = False,
    whole_images: bool = False,
    overwrite: bool = False,
) -> tuple[Path, list[Row]]:
    """Write a run's model in a form of `FORMS` and compare it with PyTorch's on images that the run was not trained on.

    Args:
        folder: of the run.
        to: the form.
        out: folder to write; by default export/FORM in the run's.
        data: other data with the same classes, where the run's own is no longer there.
        int8: write a model of int8 weights as well, and measure both on the images.
        whole_images: of a run that shows its model parts of images (`attention_crop`), export the model for whole
            ones; without it the file that says which part is written beside, where the form can.
        overwrite: replace what is in `out`.

    Returns:
        The folder; and a row for PyTorch and for each file, with its size in MB, ms per image in batches of 1 and of
        16 (median), the largest difference of logits and of probabilities (of attention, of what says where to look);
        with `int8` and of runs that crop, accuracy in percent; where the form has preprocessing of its own, the share
        of images that have the same guess with it.

    Raises:
        GtaError: no finished run, an unknown form, one that cannot show the model what the run does, packages or images
            that are missing, `out` in use, or a result that differs by more than 1e-4; nothing is left then.
    """
    form = FORMS[to]
    form.check_needs(to)
    if int8 and form.smaller is None:
        able = ", ".join(name for name in FORMS if FORMS[name].smaller is not None)
        raise GtaError(f"--int8 is for --to {able}, got --to {to}: leave it out.")
    out = folder / "export" / to if out is None else out
    trained = Trained.load(folder)
    if trained.closer is not None and form.look is None and not whole_images:
        able = ", ".join(name for name in FORMS if FORMS[name].look is not None)
        raise GtaError(
            f"{folder}'s model is shown of each image the part that its source attends to, which {to} cannot do: give "
            f"--to {able}, or add --whole-images, which gives it whole images and measures what that costs."
        )
    if trained.closer is None and whole_images:
        raise GtaError(f"--whole-images has no meaning for {folder}, whose model is shown whole images: leave it out.")
    samples, split = _images(folder, trained, data)
    options, results = read_options(folder), read_results(folder)
    licence = source_licence(options.source)
    shown, trained = trained, replace(trained, closer=None) if whole_images else trained
    model = calibrated(trained)
    top1 = _top1(run_torch(model), trained, samples) if whole_images else None
    card = model_card(options, results, "timm" if to == "timm" else "hf", top1)
    exported = Exported(model, trained, described(trained), card, licence)
    try:
        with new_folder(out, EXPORT, replace=overwrite) as new:
            measured = shown if int8 or shown.closer is not None else None
            rows = _written(form, to, exported, new, samples, split, measured, int8)
    except OSError as error:
        raise GtaError(f"--out {out} cannot be written: {error.strerror or error}.") from error
    return out, rows


def _images(folder: Path, trained: Trained, data: str | None) -> tuple[Sequence[Sample], str]:
    """Those of test, or of the first split that the data has, and that split."""
    options, results = read_options(folder), read_results(folder)
    split = next((name for name in ("test", "val") if data or results[f"{name}_images"]), "train")
    try:
        return run_samples(data or options.data, split, trained.classes, options, own=data is None), split
    except (GtaError, OSError) as error:
        raise GtaError(
            f"an export is checked on real images, and those of {data or options.data} cannot be had: give --data, "
            f"with the same classes. ({error})"
        ) from error


def _written(
    form: Form,
    to: str,
    exported: Exported,
    new: Path,
    samples: Sequence[Sample],
    split: str,
    measured: Trained | None,
    int8: bool,
) -> list[Row]:
    """`measured`: what the run's own accuracy is measured of, beside that of what is exported; None: neither is."""
    path = form.write(exported, new)
    few = evenly_spread(samples, CHECKED)
    images = on_all_cores(lambda sample: open_rgb(sample.path), few)
    pixels = np.stack([exported.trained.sees(image).numpy() for image in images])
    plain = run_torch(exported.trained.model.cpu(), exported.trained.temperature)
    run, expected = form.runner(path), plain(pixels)
    first = (expected[0][:1], expected[1][:1])
    apart = max(_apart(run(pixels), expected), _apart(run(pixels[:1]), first))
    if not apart <= MOST:
        raise GtaError(
            f"--to {to}: on {len(few)} images of {split} it differs from PyTorch by up to {apart:.2g}, more than "
            f"{MOST:g}: it is not written. Another version of torch or of the form's packages may do better."
        )
    runners = {"PyTorch": (plain, None, None), path.name if path != new else to: (run, path, apart)}
    if int8 and form.smaller is not None:
        smaller = form.smaller(path)
        rough = form.runner(smaller)
        runners[smaller.name] = (rough, smaller, _apart(rough(pixels), expected))
    rows = [_row(name, *of, pixels) for name, of in runners.items()]
    trained, look = exported.trained, None
    if trained.closer is not None and form.look is not None and form.looker is not None:
        look, trained = _looking(form, trained, trained.closer, new, images)
    if measured is not None:
        for row, (runner, *_) in zip(rows, runners.values(), strict=True):
            row[f"{split}_top1"] = _top1(runner, measured if runner is plain else trained, samples)
    if look is not None:
        rows.append(dict.fromkeys(rows[0]) | look)
    if form.own_view is not None:
        view = form.own_view(path)
        own, _ = run(np.stack([view(image).numpy() for image in images]))
        same = float((own.argmax(-1) == expected[0].argmax(-1)).mean())
        rows = [row | {"same_guess_with_own_preprocessing": None} for row in rows]
        rows[1]["same_guess_with_own_preprocessing"] = same
    return rows


def _looking(
    form: Form, trained: Trained, closer: Closer, new: Path, images: Sequence[Image.Image]
) -> tuple[Row, Trained]:
    """What is said of the file that says where to look; and the run's model, looking where that says."""
    assert form.look is not None
    assert form.looker is not None
    source = closer.look.model.cpu().float()
    path = form.look(source, closer.look.info.image_size, described_look(closer), new)
    run, pixels = form.looker(path), closer.normalised([closer.view(image) for image in images]).numpy()
    with torch.inference_mode():
        expected = Attention(source)(torch.from_numpy(pixels)).numpy()
    apart = max(np.abs(run(pixels) - expected).max(), np.abs(run(pixels[:1]) - expected[:1]).max())
    if not apart <= MOST / expected[0].size:  # shares of attention, of so many patches
        raise GtaError(f"{path.name}: where it looks differs from PyTorch by up to {apart:.2g}: it is not written.")
    look = ExportedLook(closer.look.model, closer.look.info, run=run)
    return _row(path.name, run, path, float(apart), pixels), replace(trained, closer=replace(closer, look=look))


@dataclass(frozen=True)
class ExportedLook(Look):
    """Looks by an exported file."""

    run: Looker = field(kw_only=True)

    def looks(self, images: Tensor) -> Tensor:
        return ranked(torch.from_numpy(self.run(images.numpy())))


def _row(name: str, run: Runner | Looker, path: Path | None, apart: float | None, pixels: Pixels) -> Row:
    files = [] if path is None else [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    size = sum(p.stat().st_size for p in files) / 1e6 if files else None
    some = np.resize(pixels, (BATCH, *pixels.shape[1:]))
    return {
        "model": name,
        "megabytes": None if size is None else round(size, 1),
        "ms_per_image": _milliseconds(run, pixels[:1]),
        f"ms_per_image_in_batches_of_{BATCH}": _milliseconds(run, some),
        "largest_difference": apart,
    }


def _milliseconds(run: Runner | Looker, pixels: Pixels) -> float:
    run(pixels)
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run(pixels)
        times.append(time.perf_counter() - began)
    return round(1000 * median(times) / len(pixels), 2)


def _top1(run: Runner, trained: Trained, samples: Sequence[Sample]) -> float:
    hits = 0
    for start in range(0, len(samples), BATCH):
        few = samples[start : start + BATCH]
        pixels = np.stack(on_all_cores(lambda sample: trained.sees(open_rgb(sample.path)).numpy(), few))
        hits += int((run(pixels)[0].argmax(-1) == [sample.label for sample in few]).sum())
    return 100 * hits / len(samples)


def _apart(some: Said, others: Said) -> float:
    """The largest difference of a logit or a probability."""
    return max(float(np.abs(a - b).max()) for a, b in zip(some, others, strict=True))
