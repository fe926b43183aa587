"""What a study will cost, from one short run of it."""

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

from gta.data.datasets import list_data
from gta.studies.plan import Plan
from gta.studies.progress import readable
from gta.studies.statistics import detectable
from gta.studies.study import Cell, Run, Study
from gta.tables import read_csv
from gta.training.fit import train
from gta.training.run_folder import CHECKPOINT, WEIGHTS

BATCHES = 3  # of the short run's epochs, about


def estimate(plan: Plan) -> str:
    """Runs, hours and gigabytes, timed on the first run of each data set in a folder that is deleted again.

    Of every epoch after the first the seconds per image are taken, and of the rest (start, validation, test, pictures)
    what the short run took.

    Raises:
        GtaError: as `run_study`.
    """
    lines, seconds, size = [], 0.0, 0
    with TemporaryDirectory(prefix="gta-study-") as folder:
        study = Study(plan, Path(folder))
        trials, finals = study.total
        for cell in study.cells:
            per_run, rest, weights = _timed(study, next(_first(study, cell)))
            seconds += len(study.cells) ** -1 * (trials + finals) * (per_run + rest)
            size += finals // len(study.cells) * weights
            share = "" if len(plan.fractions) == 1 else f", {100 * cell.fraction:g} %"
            lines.append(f"{cell.data}{share}: {readable(per_run + rest)} a run")
    total = f"{trials} trials, {finals} runs to report: {readable(seconds)} one after another, {size / 1e9:.1f} GB"
    method = next(iter(plan.trials))
    lines.append(f"{total} (timed with {method}, on this machine; trials keep no weights)")
    if (effect := detectable(len(plan.seeds))) is not None:
        lines.append(
            f"{len(plan.seeds)} seeds: a paired difference of {effect:.1f} of its standard deviations is found in 8 of "
            "10 studies, before the correction for several."
        )
    else:
        lines.append(f"{len(plan.seeds)} seeds: not enough for a test; give three or more.")
    return "\n".join(lines)


def _first(study: Study, cell: Cell) -> Iterator[Run]:
    for of in study.plan.trials.values():
        yield study.run(cell, of[0], study.plan.seeds[0], test=True)


def _timed(study: Study, run: Run) -> tuple[float, float, int]:
    """Seconds of training, seconds of the rest, and bytes of the weights."""
    study.prepare(run)
    options = study.options(run.cell, run.trial, run.seed)
    images = len(list_data(options.data).splits["train"]) * run.cell.fraction
    share = min(1.0, BATCHES * options.batch / images) * run.cell.fraction
    out = run.folder.with_name("timed")
    short = replace(options, epochs=2, val_every=2, fraction=ceil(1000 * share) / 1000, out=str(out))
    found = train(short, overwrite=out.exists())
    assert found is not None  # one device
    last = [float(row["seconds"]) for row in read_csv(out / "metrics.csv") if row["seconds"]][-1]
    per_image = last / found["train_images"]
    rest = found["wall_seconds"] - found["train_seconds"]
    (out / CHECKPOINT).unlink(missing_ok=True)
    return per_image * images * options.epochs, rest, (out / WEIGHTS).stat().st_size
