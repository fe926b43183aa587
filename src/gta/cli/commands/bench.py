import sys
from pathlib import Path

from gta.benchmark.options import Bench
from gta.cli.console import print_table
from gta.cli.parser import Command
from gta.errors import GtaError


@Command
def bench(options: Bench) -> None:
    """Measure, write --out and print its tables."""
    from gta.benchmark.bench import bench as run
    from gta.files import write_json
    from gta.report.benchmark import tables, where, write_report

    folder = Path(options.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GtaError(f"--out {options.out} cannot be made: {error.strerror or error}.") from error
    found = run(options, say=lambda what: print(what, file=sys.stderr, flush=True))
    write_json(folder / "bench.json", found)
    write_report(folder)
    print(where(found))
    for title, rows, notes in tables(found):
        print_table(rows, title)
        print("\n".join(notes) + "\n")
    print(f"Results {folder / 'bench.json'}, tables {folder / 'bench.md'}, page {folder / 'bench.html'}")
