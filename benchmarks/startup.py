"""Seconds from `gta train` to the end of its first epoch of a single step, files warm.

    python benchmarks/startup.py [--gta PATH-TO-GTA]

A world of 32 images, 96 px, `--method gta`, six times; the first, whose files may be cold, is left out of the median.
For an environment without the development packages: where transformers is installed torchmetrics, and so Lightning,
import it too.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gta", default="gta", help="the command to time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = [given.gta, "world", "--out", f"{folder}/world", "--classes", "4", "--val", "1", "--test", "1"]
        subprocess.run(world, check=True, capture_output=True)
        options = ["--source", "gta:butterflies", "--image-size", "96", "--method", "gta", "--epochs", "2"]
        seconds = []
        for i in range(6):
            train = [given.gta, "train", "--data", f"{folder}/world", *options, "--out", str(Path(folder, str(i)))]
            began = time.perf_counter()
            with subprocess.Popen(train, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
                assert process.stderr is not None
                for line in process.stderr:
                    if line.startswith("epoch 1"):
                        seconds.append(time.perf_counter() - began)
    print(", ".join(f"{s:.2f}" for s in seconds), f"s: median of all but the first {median(seconds[1:]):.2f}")


if __name__ == "__main__":
    main()
