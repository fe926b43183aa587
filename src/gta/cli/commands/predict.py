import sys
from pathlib import Path

from gta.cli.console import counted, print_json, print_table
from gta.cli.parser import Command
from gta.errors import GtaError

SOME_UNREADABLE = 1


@Command
def predict(
    run: str, paths: list[str], *, json: bool = False, csv: bool = False, top: int = 3, abstain: float = 0.0
) -> int:
    """Name the class of photographs.

    Args:
        run: Run folder written by gta train.
        paths: Image files, folders (at any depth), patterns such as 'shots/**/*.jpg', .csv files with a column path,
            or - for one path a line on standard input.
        json: Print JSON instead of a table, with the probability of every class.
        csv: Print CSV instead of a table.
        top: How many classes the table and the CSV name of each image.
        abstain: Name no class whose probability is below this, such as 0.8.
    """
    from gta.data.gathering import image_paths
    from gta.run import Run
    from gta.tables import csv_text

    if json and csv:
        raise GtaError("--json and --csv are two forms of the same: leave one of them out.")
    if top < 1:
        raise GtaError(f"--top {top} cannot be used: write a number of classes, at least 1.")
    images = image_paths(paths, sys.stdin)
    if not images:
        raise GtaError("no image is named: give files, folders, patterns, a .csv file, or - for standard input.")
    with counted("images", len(images)) as progress:
        predictions = Run(Path(run)).predict(images, abstain=abstain, progress=progress)
    top = min(top, max(len(p.probabilities or ()) for p in predictions) or top)
    if json:
        print_json([p.as_json() for p in predictions])
    elif csv:
        print(csv_text([p.as_row(top) for p in predictions]), end="")
    else:
        print_table([_in_words(p.as_row(top), top) for p in predictions])
    unreadable = [p for p in predictions if p.error is not None]
    unsaid = sum(p.label is None for p in predictions) - len(unreadable)
    if unsaid:
        print(f"{unsaid} of {len(images)} images: no class, its probability is below {abstain}", file=sys.stderr)
    if unreadable:
        listing = "\n".join(f"  {p.image}: {p.error}" for p in unreadable)
        print(f"gta predict: {len(unreadable)} of {len(images)} images cannot be read:\n{listing}", file=sys.stderr)
    return SOME_UNREADABLE if unreadable else 0


def _in_words(row: dict[str, object], top: int) -> dict[str, object]:
    """A row for the eye: the further classes in one column, as an unreadable image's reason is."""
    others = [
        f"{row[f'class_{rank}']} {row[f'probability_{rank}']:.3f}"
        for rank in range(1 if row["class"] is None else 2, top + 1)
        if row["error"] is None
    ]
    shown = {key: row[key] for key in ("path", "class")}
    numbers = {key: None if row[key] is None else f"{row[key]:.3f}" for key in ("probability", "margin", "entropy")}
    return {**shown, **numbers, "others": row["error"] or ", ".join(others)}
