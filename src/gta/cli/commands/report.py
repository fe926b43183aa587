from pathlib import Path

from gta.cli.parser import Command


@Command
def report(folders: list[str], *, out: str | None = None) -> None:
    """Write one page, that opens without a network, of a run, of several beside each other, or of a study.

    Args:
        folders: Run folders, of which the first is what the others are compared with; or one study's or demo's.
        out: HTML file to write; by default report.html in the folder, of several runs in the working directory.
    """
    from gta.report.write import write_report

    print(f"Page {write_report([Path(folder) for folder in folders], None if out is None else Path(out))}")
