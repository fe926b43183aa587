"""A plan in a folder: which runs it has, which of them are needed now, and what validation has chosen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from gta.data.datasets import resolved
from gta.data.reading import read_photos
from gta.errors import GtaError
from gta.studies import execute
from gta.studies.grid import Trial
from gta.studies.identity import data_digest, folder_name, identity, source_digest, world_digest
from gta.studies.plan import Plan
from gta.training.batch import step_bytes
from gta.training.options import TrainOptions
from gta.training.source import load_for_training
from gta.worlds.folder import write_world
from gta.worlds.options import WorldOptions

PATHS = ("source", "look_source", "subset_list", "reuse_dir")  # options that may be one
State = Literal["missing", "complete", "diverged", "failed"]


class Cell(NamedTuple):
    """A share of a data set: what methods are compared on."""

    data: str
    fraction: float


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        cell, trial, seed: which.
        test: False for trials, which only choose.
        folder: named by the digest of what determines it.
    """

    cell: Cell
    trial: Trial
    seed: int
    test: bool
    folder: Path

    def __str__(self) -> str:
        share = "" if self.cell.fraction == 1 else f" {100 * self.cell.fraction:g}%"
        return f"{self.cell.data}{share} {self.trial.name} {self.trial.label} seed {self.seed}".replace("  ", " ")


class Study:
    """The runs of a plan under a folder.

    Attributes:
        plan: what is run.
        out: the folder; its `runs` may hold those of other plans too, `data` the worlds.
    """

    def __init__(self, plan: Plan, out: Path) -> None:
        self.plan, self.out = plan, out.resolve()
        self.cells = [Cell(name, fraction) for name in plan.data for fraction in plan.fractions]
        self._digests: dict[str, str] = {}
        self._runs: dict[tuple[Cell, str, str, int, bool], Run] = {}
        self._states: dict[Path, State] = {}
        self._results: dict[Path, dict[str, Any]] = {}

    # --- which runs there are

    def run(self, cell: Cell, trial: Trial, seed: int, *, test: bool) -> Run:
        key = (cell, trial.name, trial.label, seed, test)
        if key not in self._runs:
            options = self.options(cell, trial, seed)
            folder = self.out / "runs" / folder_name(self._identity(cell, options, test=test))
            self._runs[key] = Run(cell, trial, seed, test, folder)
        return self._runs[key]

    def options(self, cell: Cell, trial: Trial, seed: int) -> TrainOptions:
        """Of a run, but for its `out`."""
        path = str(self._data_path(cell.data, seed))
        return trial.options(**self.plan.base(*cell), data=path, out="", seed=seed)

    def trial_runs(self, cell: Cell, name: str) -> dict[str, list[Run]]:
        """By label, the runs that choose one of a method's trials; none where there is nothing to choose."""
        if not self.plan.is_chosen(name):
            return {}
        seeds = self.plan.trial_seeds
        return {t.label: [self.run(cell, t, s, test=False) for s in seeds] for t in self.plan.trials[name]}

    def final_runs(self, cell: Cell, trial: Trial) -> list[Run]:
        return [self.run(cell, trial, seed, test=True) for seed in self.plan.seeds]

    @cached_property
    def total(self) -> tuple[int, int]:
        """Trials to choose from, and runs to report: the runs of the whole study."""
        plan, cells = self.plan, len(self.cells)
        trials = sum(len(of) for name, of in plan.trials.items() if plan.is_chosen(name)) * len(plan.trial_seeds)
        finals = sum(1 if plan.is_chosen(name) else len(of) for name, of in plan.trials.items()) * len(plan.seeds)
        return cells * trials, cells * finals

    def needed(self) -> list[Run]:
        """The runs that can be made now and are not: trials, and the final runs of what was chosen already."""
        return [run for run in self.wanted() if self.state(run) == "missing"]

    def wanted(self) -> Iterator[Run]:
        for cell in self.cells:
            for name in self.plan.trials:
                for runs in self.trial_runs(cell, name).values():
                    yield from runs
        for cell in self.cells:
            for name in self.plan.trials:
                for trial in self.settings(cell, name):
                    yield from self.final_runs(cell, trial)

    # --- what came of them

    def state(self, run: Run) -> State:
        if self._states.get(run.folder, "missing") == "missing":
            self._states[run.folder] = execute.state(run.folder)
        return self._states[run.folder]

    def states(self) -> list[State]:
        """Of the trials, and of the runs to report that are known by now."""
        return [self.state(run) for run in self.wanted()]

    def results(self, run: Run) -> dict[str, Any]:
        """Of a complete run."""
        if run.folder not in self._results:
            self._results[run.folder] = execute.results_of(run.folder)
        return self._results[run.folder]

    def settings(self, cell: Cell, name: str) -> list[Trial]:
        """The trials of a method that are reported: the chosen one, or all; none while nothing can be chosen."""
        trials, runs = self.plan.trials[name], self.trial_runs(cell, name)
        if not runs:
            return list(trials)
        if any(self.state(run) in ("missing", "failed") for of in runs.values() for run in of):
            return []
        scored = [(score, trial) for trial in trials if (score := self.score(runs[trial.label])) is not None]
        return [max(scored, key=lambda pair: pair[0])[1]] if scored else []

    def score(self, runs: Sequence[Run]) -> tuple[float, ...] | None:
        """What a trial is chosen by, more is better: means over its runs; None where one diverged or is not there."""
        if any(self.state(run) != "complete" for run in runs):
            return None
        means = ((name, fmean(self.results(run)[name] for run in runs)) for name in self.plan.choose)
        return tuple(-mean if name.endswith("loss") else round(mean, 6) for name, mean in means)

    def forget_failures(self) -> int:
        """Have failed runs made again; returns how many."""
        failed = [run for run in self.wanted() if self.state(run) == "failed"]
        for run in failed:
            execute.forget_failure(run.folder)
            del self._states[run.folder]
        return len(failed)

    # --- getting ready

    def prepare(self, run: Run) -> None:
        """Write what its execution reads: its world, and what is beside its folder."""
        choice = self.plan.data[run.cell.data]
        path = self._data_path(run.cell.data, run.seed)
        if choice.world is not None and not Path(path).is_dir():
            write_world(WorldOptions(out=str(path), **_world(choice.world, run.seed)))
        options = self.options(run.cell, run.trial, run.seed)
        places = {name: value for name in PATHS if (value := getattr(options, name)) and Path(value).exists()}
        places = {name: str(Path(value).resolve()) for name, value in places.items()}  # wherever it is executed
        options = replace(options, data=resolved(path), **places)
        determined_by = self._identity(run.cell, options, test=run.test)
        execute.describe_run(run.folder, options, determined_by, test=run.test)

    def check(self) -> None:
        """Raise GtaError for data or a source that no run could use, before a folder is made for them."""
        for _ in self._sources():
            pass  # each is loaded
        for name, choice in self.plan.data.items():
            cell = Cell(name, next(iter(self.plan.fractions)))
            options = TrainOptions(data="", out="", **self.plan.base(*cell))
            if choice.world is not None:
                has_val = WorldOptions("", **_world(choice.world, 0)).val > 0
            else:
                photos = read_photos(
                    choice.path, fraction=cell.fraction, seed=self.plan.trial_seeds[0], download=options.download,
                    skip_unreadable=options.skip_unreadable, subset_list=options.subset_list,
                )  # fmt: skip
                has_val = bool(photos.val)
            if not has_val and any(map(self.plan.is_chosen, self.plan.trials)):
                raise GtaError(
                    f"{choice.path or name} has no validation image to choose the settings on: add val/CLASS/, or "
                    "enough training images for a tenth of each class to be held out."
                )

    def memory(self) -> int:
        """Bytes that a process takes, about: packages, weights with optimiser, a step's activations."""
        most = 0
        for batch_size, source in self._sources():
            weights = sum(p.numel() for p in source.parameters())
            most = max(most, 1_000_000_000 + 24 * weights + step_bytes(source, batch_size))
        return most

    def _sources(self) -> Iterator[tuple[int, Any]]:
        """Every source that the plan names, at each image size, with the largest batch it is given."""
        largest: dict[tuple[str, int, int | None], int] = {}
        for cell in self.cells:
            o = TrainOptions(data="", out="", **self.plan.base(*cell))
            key = (o.source, o.image_size, o.heads)
            largest[key] = max(o.batch, largest.get(key, 0))
        return ((batch, load_for_training(*key)) for key, batch in largest.items())

    def _identity(self, cell: Cell, options: TrainOptions, *, test: bool) -> dict[str, Any]:
        data, source = self._data_digest(cell.data, options.seed), source_digest(options.source, options.heads)
        return identity(options, data, source, test=test)

    def _data_path(self, name: str, seed: int) -> str | Path:
        choice = self.plan.data[name]
        if choice.world is None:
            return choice.path
        return self.out / "data" / f"world-{world_digest(_world(choice.world, seed))[:12]}"

    def _data_digest(self, name: str, seed: int) -> str:
        choice = self.plan.data[name]
        if choice.world is not None:
            return world_digest(_world(choice.world, seed))
        if choice.path not in self._digests:
            download = bool({**self.plan.options, **choice.options}.get("download"))
            self._digests[choice.path] = data_digest(choice.path, download)
        return self._digests[choice.path]


def _world(given: Any, seed: int) -> dict[str, Any]:
    return {**given, **({"seed": seed} if given.get("seed") == "run" else {})}
