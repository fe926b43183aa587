from pathlib import Path
from typing import Literal

from gta.cli.console import print_values
from gta.cli.parser import Command


@Command
def evaluate(
    run: str, *, data: str | None = None, split: Literal["train", "val", "test"] = "test", json: bool = False
) -> None:
    """Measure a trained run on a split: accuracy, attention, drift.

    Args:
        run: Run folder written by gta train.
        data: NAME:ROOT, a folder or a .csv file; by default the data the run was trained on.
        split: Which of its splits.
        json: Print JSON instead of a table.
    """
    from gta.run import Run

    print_values(Run(Path(run)).evaluate(data, split), f"{run} on {split}", json)
