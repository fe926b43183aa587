"""What a run came to, in numbers and plain warnings."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gta.report.charts import Chart, chart, smoothed
from gta.report.measures import (
    Interval,
    Probe,
    calibration_error,
    mcnemar,
    reliability,
    tempered,
    wilson,
)  # fmt: skip
from gta.report.problems import MOST, Copy, Suspect
from gta.report.run import Predictions, RunFiles

Array = NDArray[Any]

PENALTIES = (1e-3, 1e-4, 1e-5, 1e-6)  # of the linear probe, chosen on val
WIDE = 8.0  # points on either side: an interval that says little
FEW = 3  # training images of a class


class Warning(NamedTuple):
    """Something to know before believing the numbers; `tab` of the gallery shows its images."""

    title: str
    text: str
    tab: str = ""


class ClassLine(NamedTuple):
    """A class by its number and name: training images, images measured, the share that is right."""

    label: int
    name: str
    train: int | None
    images: int
    accuracy: Interval


class ProbeResult(NamedTuple):
    """A linear probe on the source's features: its accuracy, and the p that the run is equally often right."""

    accuracy: Interval
    p: float
    penalty: float


def accuracy(shown: Predictions) -> Interval:
    return wilson(int(shown.right.sum()), len(shown.right))


def chance(shown: Predictions) -> float:
    """Percent that is right when the most common class is always guessed."""
    return 100 * max(Counter(shown.labels.tolist()).values()) / len(shown.labels)


def probe(run: RunFiles, shown: Predictions) -> ProbeResult | None:
    """None where there are no features, or too many to fit in seconds."""
    of = run.features
    if not of or len(of["label"]) * len(of["classes"]) * of["features"].shape[1] > MOST:
        return None
    wide = of["features"].astype(np.float32)
    train, val = of["split"] == "train", of["split"] == "val"
    classes = len(of["classes"])

    def right(penalty: float, some: Array) -> Array:
        guesses = Probe(wide[train], of["label"][train], classes, penalty)(wide[some]).argmax(1)
        return np.asarray(guesses == of["label"][some])

    choose = shown.split == "test" and val.any()
    penalty = max(PENALTIES, key=lambda p: right(p, val).mean()) if choose else 1e-5
    found = right(penalty, of["split"] == shown.split)
    return ProbeResult(wilson(int(found.sum()), len(found)), mcnemar(shown.right, found), penalty)


def class_lines(run: RunFiles, shown: Predictions) -> list[ClassLine]:
    """Every class that was measured, the least accurate first."""
    train: Counter[int] = Counter()
    if run.features:
        train.update(run.features["label"][run.features["split"] == "train"].tolist())
    lines = []
    for index, name in enumerate(run.classes):
        own = shown.labels == index
        if own.any():
            share = wilson(int(shown.right[own].sum()), int(own.sum()))
            lines.append(ClassLine(index, name, train[index] if run.features else None, int(own.sum()), share))
    return sorted(lines, key=lambda line: (line.accuracy.value, -line.images, line.name))


def warnings(
    run: RunFiles,
    shown: Predictions,
    found: ProbeResult | None,
    copies: Sequence[Copy],
    suspects: Sequence[Suspect] | None,
) -> list[Warning]:
    """Everything about a run that its reader should know first."""
    told = []
    for split in ("val", "test"):
        measured = run.predictions(split)
        if measured is None:
            continue
        a = accuracy(measured)
        if max(a.high - a.value, a.value - a.low) > WIDE:
            told.append(
                Warning(
                    f"{len(measured.labels)} {split} images say little",
                    f"The accuracy on them may as well be {a.low:.0f} % as {a.high:.0f} %: smaller differences between "
                    "settings cannot be seen.",
                )
            )
    if shown.split == "val":
        told.append(Warning("There is no test split", "All numbers here are of the validation images."))
    if accuracy(shown).low <= chance(shown):
        told.append(
            Warning("Not better than chance", f"Always guessing the most common class is right {chance(shown):.1f} %.")
        )
    if found is not None and found.accuracy.value >= accuracy(shown).value:
        told.append(
            Warning(
                "A linear probe does as well",
                f"A linear classifier on the source's frozen features is right {found.accuracy.value:.1f} % of the "
                "time: fine-tuning gained nothing here. Try a lower learning rate or --layer-decay 0.8.",
            )
        )
    if copies:
        same = sum(copy.same_file for copy in copies)
        images = _count(len({c.other for c in copies}), "val or test image is", "val or test images are")
        told.append(
            Warning(
                f"{images} in train too",
                f"{same} as the same file, {len(copies) - same} as a copy in other pixels: on them the accuracy says "
                "nothing about new images.",
                "copies",
            )
        )
    if suspects:
        told.append(
            Warning(
                f"{_count(len(suspects), 'label', 'labels')} to check",
                "A linear probe that did not see them is sure of another class, and none of their nearest neighbours "
                "has their label. Some will be right: look at them before training again.",
                "suspects",
            )
        )
    if suspects is None and run.features:
        told.append(Warning("Labels were not checked", "There are too many images to do it in seconds, or too few."))
    few = [line for line in class_lines(run, shown) if line.train is not None and line.train < FEW]
    if few:
        names = ", ".join(line.name for line in few[:8]) + (f" and {len(few) - 8} more" if len(few) > 8 else "")
        told.append(
            Warning(f"{_count(len(few), 'class', 'classes')} with fewer than {FEW} training images", f"{names}.")
        )
    return told


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def curves(runs: Sequence[RunFiles]) -> list[Chart]:
    """Loss, penalty, λ and validation accuracy over the epochs, of each run that has them."""
    columns = {
        "loss": "Training loss, nats", "val_top1": "Validation accuracy, %", "penalty": "Penalty, λ included",
        "weight": "λ",
    }  # fmt: skip
    charts = []
    for column, title in columns.items():
        lines = {}
        for run in runs:
            steps = max(1, len(run.metrics)) / max(1, len({row["epoch"] for row in run.metrics}))
            points = [((i + 1) / steps, float(v)) for i, row in enumerate(run.metrics) if (v := row.get(column))]
            if points and (column in ("loss", "val_top1") or len({y for _, y in points}) > 1):
                lines[run.name] = points if column == "val_top1" else smoothed(points)
        if lines:
            charts.append(chart(title, "epoch", lines, dots=column == "val_top1", from_zero=True))
    return charts


class Calibration(NamedTuple):
    """How far confidence can be trusted: the error as it is, the temperature and the error with it (None without)."""

    error: float
    temperature: float | None
    tempered_error: float | None
    curve: Chart


def calibration(run: RunFiles, shown: Predictions) -> Calibration:
    """As the model is, and with the temperature of results.json where there is one."""
    temperature = run.results.get("temperature")
    lines = {"as it is": _curve(shown.confidence, shown.right)}
    error = None
    if temperature is not None:
        confidence = tempered(shown.probabilities, temperature).max(1)
        error = calibration_error(confidence, shown.right)
        lines[f"temperature {temperature:.2f}"] = _curve(confidence, shown.right)
    curve = chart("Share that is right", "confidence", lines, y_range=(0, 1), x_range=(0, 1), dots=True, diagonal=True)
    return Calibration(calibration_error(shown.confidence, shown.right), temperature, error, curve)


def _curve(confidence: Array, right: Array) -> list[tuple[float, float]]:
    return [(b.confidence, b.accuracy) for b in reliability(confidence, right)]


class Cell(NamedTuple):
    """So many images of a label (line) that got a guess (column)."""

    label: int
    guess: int
    images: int


def confusion(shown: Predictions) -> list[Cell]:
    """The cells that are not empty."""
    pairs = Counter(zip(shown.labels.tolist(), shown.guesses.tolist(), strict=True))
    return [Cell(label, guess, images) for (label, guess), images in sorted(pairs.items())]
