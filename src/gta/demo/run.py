"""The demo: the default beside plain fine-tuning of the embedded source on a few butterflies, and their page.

Every seed is a world of its own (species, grounds, images) and seeds the training as well; both methods get the same.
Plain's settings were chosen on validation, on other seeds than the demo's; the default has none: docs/demo.md.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gta.attention.plots import draw_maps
from gta.data.reading import Photos, read_photos
from gta.data.sample import SPLITS
from gta.errors import GtaError
from gta.files import atomic_write, locked, write_json
from gta.folders import MARKER, Kind, check_replaceable, mark, read_marker, remove
from gta.report.demo import write_report
from gta.sources.info import source_info
from gta.sources.loading import load_source
from gta.studies.statistics import paired
from gta.training.fit import train
from gta.training.look import Closer
from gta.training.options import TrainOptions
from gta.training.run_folder import RUN, load_weights
from gta.worlds.folder import write_world
from gta.worlds.options import WorldOptions

WORLD = WorldOptions(out="", classes=16, train=6, val=6, test=20, spurious=1.0)
COMMON = TrainOptions(
    data="",
    out="",
    source="gta:butterflies",
    image_size=96,
    batch_size=16,
    precision="32",
    devices=1,
    val_every=1000,
    keep_attention=12,
)
_WORLD_FILES = [f"{split}/species-[0-9][0-9]/[0-9][0-9][0-9].png" for split in SPLITS]
DEMO = Kind(
    "demo",
    (
        "demo.json", "report.html", "examples.png", "attention.png", "data", "runs",
        *(f"data/seed*/{above}{path}" for above in ("", "masks/") for path in _WORLD_FILES),
        *(f"runs/*-seed*/{path}" for path in (MARKER, *RUN.files)),
    ),
)  # fmt: skip
CHOSEN: dict[str, dict[str, Any]] = {
    "plain": {"method": "plain", "lr": 1e-4, "layer_decay": 0.65, "epochs": 15},
    "default": {"method": "auto", "epochs": 15},
}


def run_demo(
    out: str = "gta-demo", seeds: int = 1, *, overwrite: bool = False, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Train both methods on `seeds` worlds and write the page; what is there already is kept and gone on from.

    Args:
        out: folder to write: data/, runs/, examples.png, attention.png, demo.json, report.html.
        seeds: worlds, 1 or more.
        overwrite: start anew.
        log: called with a line before each run.

    Returns:
        The content of demo.json: `setting`, `source`, `plain` and `default` (lists over seeds), `test`
        (None for one seed).

    Raises:
        GtaError: a folder that holds something else, or runs of other settings.
    """
    folder = Path(out)
    if seeds < 1:
        raise GtaError(f"--seeds {seeds} cannot be used: write a number at least 1.")
    with locked(folder):
        _open_folder(folder, overwrite)
        return _run(folder, seeds, log)


def _run(folder: Path, seeds: int, log: Callable[[str], None]) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {"source": [], **{name: [] for name in CHOSEN}}
    for seed in range(seeds):
        data = folder / "data" / f"seed{seed}"
        if not data.exists():
            write_world(replace(WORLD, out=str(data), seed=seed))
        for name, choice in CHOSEN.items():
            log(f"seed {seed}: {name}, {choice['epochs']} epochs on {WORLD.classes * WORLD.train} photographs …")
            run = str(folder / "runs" / f"{name}-seed{seed}")
            results = train(replace(COMMON, data=str(data), out=run, seed=seed, **choice), resume=True)
            assert results is not None  # one device
            runs[name].append(results)
        found = runs["plain"][-1]
        measures = {key: found[f"source_{key}"] for key in ("object_mass", "jaccard")}
        runs["source"].append({**measures, "drift": 0.0})
    tested = ([results["test_top1"] for results in runs[name]] for name in ("default", "plain"))
    demo = {
        "setting": {"world": asdict(WORLD), "common": asdict(COMMON), "chosen": CHOSEN},
        **runs,
        "test": asdict(paired(*tested)) if seeds > 1 else None,
    }
    draw_pictures(folder)
    write_json(folder / "demo.json", demo)
    write_report(folder, folder / "report.html")
    return demo


def _open_folder(folder: Path, overwrite: bool) -> None:
    if folder.is_file():
        raise GtaError(f"--out {folder} is a file: give a folder.")
    if folder.is_dir() and any(folder.iterdir()):
        if overwrite:
            check_replaceable(folder, DEMO)
            remove(folder, DEMO)
        elif read_marker(folder, DEMO) is None:
            raise GtaError(f"--out {folder} holds something that is not a demo: give a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    mark(folder, DEMO)


def draw_pictures(folder: Path) -> None:
    """The page's two pictures, both of the first seed: examples of the data, and what the models look at."""
    source = load_source(COMMON.source, COMMON.image_size)
    photos = read_photos(folder / "data" / "seed0")
    runs = {name: folder / "runs" / f"{name}-seed0" for name in CHOSEN}
    models = {name: load_weights(run)[0] for name, run in runs.items()}
    shown = {name: closer.of_samples for name, run in runs.items() if (closer := Closer.load(run)) is not None}
    draw_maps(source, models, source_info(source), photos.test, photos.classes, folder / "attention.png", shown)
    _draw_examples(photos, folder / "examples.png")


def _draw_examples(photos: Photos, path: Path, species: int = 4, each: int = 4) -> None:
    """A few species, one a line: training photographs left and test photographs right."""
    from matplotlib.figure import Figure
    from PIL import Image

    height = 1.15 * species + 0.35  # inches
    figure = Figure(figsize=(1.15 * (2 * each + 0.3), height), dpi=110, facecolor="white")
    halves: Any = figure.subfigures(1, 2, wspace=0.03)
    for half, samples, title in zip(halves, (photos.train, photos.test), ("training", "test"), strict=True):
        axes = half.subplots(species, each, squeeze=False)
        half.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.3 / height, wspace=0.05, hspace=0.05)
        half.text(0.015, 0.995, title, fontsize=10, fontweight="bold", va="top")
        for i, line in enumerate(axes):
            own = [sample for sample in samples if sample.label == 4 * i % len(photos.classes)]
            for j, axis in enumerate(line):
                axis.axis("off")
                if j < len(own):
                    with Image.open(own[j].path) as image:
                        axis.imshow(image)
    with atomic_write(path) as new:
        figure.savefig(new, format="png")
