from pathlib import Path

from gta.cli.parser import Command


@Command
def report(runs: list[str], *, out: str | None = None) -> None:
    """Write one page of a run, or of several beside each other, that opens without a network.

    Args:
        runs: Run folders; of several, the first is what the others are compared with.
        out: HTML file to write; by default report.html in the run folder, of several runs in the working directory.
    """
    from gta.report.write import write_report

    print(f"Page {write_report([Path(run) for run in runs], None if out is None else Path(out))}")
