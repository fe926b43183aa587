from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from jsonargparse import Namespace

from gta.cli.console import print_table
from gta.cli.parser import Command, Group, OptionParser, documented
from gta.errors import GtaError
from gta.registry import Registry

if TYPE_CHECKING:
    from gta.studies.table import Report


@Command
def plans() -> None:
    """List the plans that are shipped, with what they cost."""
    from gta.studies.plan import PLANS, header

    print_table([{"plan": name, "what it runs": header(path)} for name, path in PLANS.items()])


@Command
def plan(plan: str, *changes: str) -> None:
    """Show a plan's runs, and what they cost by one timed run.

    Args:
        plan: Name of a shipped plan (gta study plans lists them), or a YAML file.
        changes: Of the plan, such as seeds=[0,1,2,3,4] or data.mine=photos.
    """
    from gta.studies.estimate import estimate
    from gta.studies.plan import outline, read_plan

    found = read_plan(plan, changes)
    print_table(outline(found), plan)
    print(estimate(found))


def add_launchers(parser: OptionParser, words: Sequence[str]) -> None:
    """A flag --NAME.FIELD for each option of a launcher."""
    from gta.studies.launchers import LAUNCHERS

    parser.show_choices("launcher", LAUNCHERS)
    for name, kind in LAUNCHERS.items():
        helps, types = documented(kind), get_type_hints(kind)
        for field in fields(kind):
            meaning = f"{helps[field.name]} (launcher {name})"
            parser.add_argument(f"--{name}.{field.name}", type=types[field.name], default=field.default, help=meaning)


@partial(Command, add_options=add_launchers, interrupted=lambda given: "Give the same command again to go on.")
def run(plan: str, *changes: str, out: str, launcher: str = "local", retry_failed: bool = False, **others: Any) -> None:
    """Run what is missing of a plan, and print its tables.

    Args:
        plan: Name of a shipped plan (gta study plans lists them), or a YAML file.
        changes: Of the plan, such as seeds=[0,1,2,3,4] or data.mine=photos.
        out: Folder for the runs and tables. What it holds already is not run again.
        launcher: Where the runs are executed.
        retry_failed: Run those again that failed before.
        others: By launcher, its options --NAME.FIELD.
    """
    from gta.studies.launchers import LAUNCHERS
    from gta.studies.plan import read_plan
    from gta.studies.run import run_study

    kind = LAUNCHERS[launcher]
    chosen = kind(**vars(others.get(launcher, Namespace())))
    report = run_study(read_plan(plan, changes), Path(out), chosen, retry_failed=retry_failed)
    print_report(report, Path(out))


def print_report(report: Report, out: Path) -> None:
    """The tables of a study, and their page; fails where runs of it failed."""
    from gta.report.study import write_report

    if report.grid:
        print_table(report.grid, "trials")
    if report.overview:
        print_table(report.overview, "overview")
    print_table(report.rows, "comparison")
    print(f"{report.notes}\nTables {out}/table.md, .tex, .csv; runs {out}/runs.csv, {out}/runs")
    print(f"Page {write_report(out, out / 'report.html')}")
    if report.failed:
        listed = "\n".join(f"  {run}: {why}" for run, why in report.failed.items())
        raise GtaError(f"{len(report.failed)} runs failed; --retry-failed runs them again:\n{listed}")


study = Group(
    Registry("action", {"plans": plans, "plan": plan, "run": run}),
    help="Run many trainings by a plan, and make one table of them.",
)
