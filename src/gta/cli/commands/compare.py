from functools import partial

from gta.cli.commands.study import print_report
from gta.cli.parser import Command
from gta.studies.comparison import Comparison


@partial(Command, interrupted=lambda given: "Give the same command again to go on.")
def compare(options: Comparison) -> None:
    """Run it, and print its tables."""
    from pathlib import Path

    from gta.studies.launchers.local import Local
    from gta.studies.run import run_study

    out = Path(options.out)
    print_report(run_study(options.plan(), out, Local(options.processes)), out)
