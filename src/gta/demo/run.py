"""The demo: plain and guided fine-tuning of the embedded source on a few butterflies, and a page that shows both.

Every seed is a world of its own (species, grounds, images) and seeds the training as well; both methods get the same.
The settings below were chosen on validation, on other seeds than the demo's: docs/demo.md has the grid.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gta.attention.plots import draw_maps
from gta.data.reading import Photos, read_photos
from gta.errors import GtaError
from gta.files import write_json
from gta.report.demo import write_report
from gta.sources.info import source_info
from gta.sources.loading import load_source
from gta.studies.statistics import paired
from gta.training.fit import train
from gta.training.options import TrainOptions
from gta.training.run_folder import load_weights
from gta.worlds import WorldOptions, write_world

SOURCE = "gta:butterflies"
WORLD = WorldOptions(out="", classes=16, train=6, val=6, test=20, spurious=1.0)
COMMON = TrainOptions(
    data="", out="", source=SOURCE, image_size=96, batch_size=16, precision="32", devices=1, val_every=1000
)
CHOSEN: dict[str, dict[str, Any]] = {
    "plain": {"method": "plain", "lr": 1e-4, "epochs": 15},
    "gta": {"method": "gta", "weight": 10.0, "lr": 3e-4, "epochs": 30},
}
RESULTS = "demo.json"


def run_demo(
    out: str = "gta-demo", seeds: int = 1, *, overwrite: bool = False, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Train both methods on `seeds` worlds and write the page; what is there already is kept and gone on from.

    Args:
        out: folder to write: data/, runs/, examples.png, attention.png, demo.json, report.html.
        seeds: worlds, 1 or more.
        overwrite: start anew.
        say: told what is being done.

    Returns:
        The content of demo.json: `setting`, `source`, `plain` and `gta` (lists over seeds), `test` (None for one seed).

    Raises:
        GtaError: a folder that holds something else, or runs of other settings.
    """
    folder = Path(out)
    if seeds < 1:
        raise GtaError(f"--seeds {seeds} cannot be used: write a number at least 1.")
    _open(folder, overwrite)
    found: dict[str, Any] = {"setting": {"world": asdict(WORLD), "common": asdict(COMMON), "chosen": CHOSEN}}
    found |= {"source": [], **{name: [] for name in CHOSEN}}
    for seed in range(seeds):
        data = folder / "data" / f"seed{seed}"
        if not data.exists():
            write_world(replace(WORLD, out=str(data), seed=seed))
        for name, choice in CHOSEN.items():
            say(f"seed {seed}: {name}, {choice['epochs']} epochs on {WORLD.classes * WORLD.train} photographs …")
            run = folder / "runs" / f"{name}-seed{seed}"
            result = train(replace(COMMON, data=str(data), out=str(run), seed=seed, **choice), resume=True)
            assert result is not None  # one device
            found[name].append(result)
        measured = found["plain"][-1]
        found["source"].append({k: measured[f"source_{k}"] for k in ("object_mass", "jaccard")} | {"drift": 0.0})
    found["test"] = None
    if seeds > 1:
        found["test"] = asdict(paired(*([r["test_top1"] for r in found[name]] for name in ("gta", "plain"))))
    draw(folder)
    write_json(folder / RESULTS, found)
    write_report(folder)
    return found


def _open(folder: Path, overwrite: bool) -> None:
    ours = {"data", "runs"}
    there = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    if folder.is_file() or (there and not there & ours):
        raise GtaError(f"--out {folder} holds something that is no demo: give a new folder.")
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def draw(folder: Path) -> None:
    """The two pictures of the page, of the first seed: examples of the data, and what the models look at."""
    source = load_source(SOURCE, COMMON.image_size)
    photos = read_photos(folder / "data" / "seed0")
    models = {name: load_weights(folder / "runs" / f"{name}-seed0")[0] for name in CHOSEN}
    draw_maps(source, models, source_info(source), photos.test, photos.classes, folder / "attention.png")
    draw_examples(photos, folder / "examples.png")


def draw_examples(photos: Photos, path: Path, kinds: int = 4, each: int = 4) -> None:
    """A few species, training photographs left and test photographs right."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(1.15 * (2 * each + 0.3), 1.15 * kinds + 0.35), dpi=110, facecolor="white")
    halves: Any = figure.subfigures(1, 2, wspace=0.03)
    for part, samples, title in zip(halves, (photos.train, photos.test), ("training", "test"), strict=True):
        axes = part.subplots(kinds, each, squeeze=False)
        top = 1 - 0.3 / (1.15 * kinds + 0.35)
        part.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=top, wspace=0.05, hspace=0.05)
        part.text(0.015, 0.995, title, fontsize=10, fontweight="bold", va="top")
        for line, kind in zip(axes, range(0, 4 * kinds, 4), strict=True):
            own = [s for s in samples if s.label == kind % len(photos.classes)][:each]
            for axis in line:
                axis.axis("off")
            for axis, sample in zip(line, own, strict=False):
                with Image.open(sample.path) as image:
                    axis.imshow(image)
    figure.savefig(path, format="png")
