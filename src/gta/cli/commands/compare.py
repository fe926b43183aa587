from functools import partial

from gta.cli.console import print_table
from gta.cli.parser import Command
from gta.studies.comparison import Comparison


@partial(Command, interrupted=lambda given: "Give the same command again to go on.")
def compare(options: Comparison) -> None:
    """Run it, and print its tables."""
    from gta.studies.compare import compare as run

    result, out = run(options), options.out
    print_table(result.grid, "trials")
    print_table(result.table, "comparison")
    print(f"{result.notes}\nTables {out}/table.md, {out}/table.csv, {out}/grid.csv; runs {out}/runs")
