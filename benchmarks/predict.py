"""What gta predict reaches of what decoding and the bare models allow: benchmarks/predict.py RUN PHOTOS [COUNT].

Makes a folder of COUNT photographs, links to those of PHOTOS, and measures three times in turn, the median counting:
decoding alone, to uint8 of the models' sizes, on all cores; the bare models alone, on normalised tensors that are
there, in batches as gta predict has them; and `gta predict RUN FOLDER --csv` as a whole, loading the model, normalising
and writing the table included. Of a run that crops, the model that says where to look is one of the bare models,
cutting out is part of decoding, and finding the box is part of neither. On the CPU decoding and models share the
cores, so the least time is the sum of both; on a GPU it is the longer of the two. What `gta predict` takes for a single
photograph, its start, is measured too: of few photographs it is a good part.
"""

import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import gta
from gta.cli import main as cli
from gta.data.images import cropped, on_all_cores, open_rgb
from gta.devices import device_name
from gta.training.predict import BATCH
from gta.training.trained import Trained

MIDDLE = (0.2, 0.2, 0.8, 0.8)  # a box, in place of those that are found


def main(run: str, photos: str, count: int = 10_000, rounds: int = 3) -> float:
    trained = Trained.load(Path(run))
    closer = trained.closer
    found = [Path(path).resolve() for path in gta.image_paths(photos)]
    few = [open_rgb(path) for path in islice(cycle(found), BATCH)]
    pixels = trained.normalised([trained.view(image) for image in few])
    looked = None if closer is None else closer.normalised([closer.view(image) for image in few])

    def decode(path: Path) -> object:
        image = open_rgb(path)
        if closer is None:
            return trained.view(image).shape
        return closer.view(image).shape, trained.view(cropped(image, MIDDLE)).shape

    def models() -> None:
        for start in range(0, count, BATCH):
            some = slice(count - start)
            if closer is not None and looked is not None:
                closer.look.looks(looked[some])
            trained.probabilities(pixels[some])

    with TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        folder.mkdir()
        for i, path in enumerate(islice(cycle(found), count)):
            (folder / f"{i:06}{path.suffix}").symlink_to(path)
        paths = sorted(folder.iterdir())

        def predict(which: Path) -> None:
            with (Path(name) / "said.csv").open("w") as file, redirect_stdout(file), redirect_stderr(None):
                assert cli(["predict", run, str(which), "--csv"]) == 0

        ways: dict[str, Callable[[], object]] = {
            "decoding": lambda: on_all_cores(decode, paths),
            "models": models,
            "start": lambda: predict(paths[0]),
            "gta predict": lambda: predict(folder),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        trained.probabilities(pixels)
        for _ in range(rounds):
            for way, run_it in ways.items():
                began = time.perf_counter()
                run_it()
                seconds[way].append(time.perf_counter() - began)
    took = {way: median(of) for way, of in seconds.items()}
    on_cpu = trained.device.type == "cpu"
    least = took["decoding"] + took["models"] if on_cpu else max(took["decoding"], took["models"])
    ratio, going = least / took["gta predict"], least / (took["gta predict"] - took["start"])
    print(
        f"{count} photographs, {device_name(trained.device)}: " + ", ".join(f"{w} {s:.2f} s" for w, s in took.items())
    )
    print(f"gta predict reaches {ratio:.2f} of what both allow, {going:.2f} once it has started")
    return ratio


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5]))
