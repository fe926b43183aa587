from pathlib import Path

from gta.cli.console import print_table
from gta.cli.parser import Command


@Command
def demo(*, out: str = "gta-demo", seeds: int = 1, overwrite: bool = False) -> None:
    """See the default beside plain fine-tuning, in two minutes, with nothing but this package.

    Args:
        out: Folder to write; finished runs in it are kept.
        seeds: Worlds to do it in; with more than one the difference is tested.
        overwrite: Start anew.
    """
    from gta.demo.run import run_demo
    from gta.report.demo import table, verdict

    found = run_demo(out, seeds, overwrite=overwrite)
    rows = [
        dict(zip(("", "source", "plain", "default"), (label, *texts), strict=True)) for label, texts in table(found)
    ]
    print_table(rows, f"{seeds} world{'s' * (seeds > 1)}")
    print(f"{verdict(found)}\nLook at {Path(out) / 'report.html'}")
