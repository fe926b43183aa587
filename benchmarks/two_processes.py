"""Seconds of a study by two processes of half the threads each, and by one after another with all of them.

    python benchmarks/two_processes.py --out /tmp/two 4

Trials of plain and gta on one world of the plan world-methods, as many of each as asked for, and one run of each to
report, some rounds each way in turn, into new folders; give the machine nothing else to do.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from gta.devices import cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=int, help="of each method")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rates = ",".join(f"{1e-4 * (i + 1):g}" for i in range(given.runs))
    plan = [
        "world-methods",
        "methods=[plain,gta]",
        "methods.plain={}",
        "methods.gta={}",
        f"grid.lr=[{rates}]",
        "seeds=[0]",
    ]
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(given.rounds):
        for processes, seconds in found.items():
            shutil.rmtree(given.out, ignore_errors=True)
            command = [sys.executable, "-m", "gta.cli", "study", "run", *plan, "--out", str(given.out)]
            began = time.perf_counter()
            subprocess.run([*command, "--local.processes", str(processes)], check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
            print(f"{processes} process(es) of {cores() // processes} thread(s): {seconds[-1]:.1f} s", flush=True)
    one, two = (median(found[n]) for n in (1, 2))
    print(f"medians: one {one:.1f} s, two {two:.1f} s, ratio {two / one:.2f}")


if __name__ == "__main__":
    main()
