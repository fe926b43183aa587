"""Run a study: what is missing is given to a launcher, until nothing is; then its tables are written.

OUT/plan.yaml      the plan, complete
OUT/progress.json  how far it is
OUT/runs/…         every run, see `gta.studies.execute`; runs of other plans may lie beside them
OUT/data/…         the worlds it needs
OUT/grid.csv       every trial's validation measures
OUT/runs.csv       every run that is reported
OUT/table.csv, table.md, table.tex
"""

import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import yaml

from gta.errors import GtaError
from gta.files import write_text
from gta.studies import execute
from gta.studies.launchers import Launcher
from gta.studies.launchers.local import Local
from gta.studies.plan import Plan
from gta.studies.progress import Progress
from gta.studies.study import Run, Study
from gta.studies.table import Report, write_report

PLAN = "plan.yaml"
TRIES = 3  # of a run whose process ends without a word
PATIENCE = 5.0  # s between two looks at what is running


def run_study(plan: Plan, out: Path, launcher: Launcher | None = None, *, retry_failed: bool = False) -> Report:
    """Run what is missing of a plan, and write its tables; the same call goes on after any interruption.

    Args:
        plan: what to run.
        out: the study's folder. What is in it already is not run again, also of another plan.
        launcher: where; by default this machine.
        retry_failed: run those again that failed before.

    Raises:
        GtaError: bad input (nothing is run then), or a folder that holds something else.
        KeyboardInterrupt: stopped; it can be gone on with.
    """
    launcher = Local() if launcher is None else launcher
    _check_folder(out)
    study = Study(plan, out)
    if retry_failed:
        study.forget_failures()
    runs = study.needed()
    with ExitStack() as stack:
        where = ""
        if runs:
            study.check()
            where = launcher.open(study.out, sum(study.total), study.memory())
            stack.callback(launcher.close)
        _make_folder(out)
        trials, finals = study.total
        there = len(study.states()) - len(runs)
        print(f"{trials} trials, {finals} runs to report; {there} of them there", file=sys.stderr)
        write_text(out / PLAN, yaml.safe_dump(plan.content, sort_keys=False))
        if runs:
            print(where, file=sys.stderr)
            _launch(study, launcher, Progress(study, where), runs)
    return write_report(study)


def _check_folder(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / PLAN).is_file()):
        raise GtaError(f"--out {out} is not empty and holds no study (no {PLAN}): give a new folder.")


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GtaError(f"--out {out} cannot be made: {error.strerror or error}.") from error


def _launch(study: Study, launcher: Launcher, progress: Progress, runs: list[Run]) -> None:
    """Execute these, and what becomes needed by what they come to."""
    under_way: dict[Path, Run] = {}
    given: Counter[Path] = Counter()
    try:
        while True:
            new = {run.folder: run for run in runs if run.folder not in under_way}
            for run in new.values():
                study.prepare(run)
            under_way |= new
            given.update(new.keys())
            launcher.submit(list(new))
            progress.show([str(under_way[folder]) for folder in launcher.running()])
            if not under_way:
                break
            for folder in launcher.wait(PATIENCE):
                run = under_way.pop(folder)
                if study.state(run) == "missing" and given[folder] >= TRIES:
                    log = execute.log_file(folder)
                    execute.fail(folder, f"its process ended {TRIES} times without a word (out of memory?): see {log}")
                if study.state(run) != "missing":
                    progress.show([str(under_way[f]) for f in launcher.running()], run)
            runs = study.needed()
    finally:
        progress.close()
