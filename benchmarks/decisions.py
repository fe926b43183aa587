"""What `--method auto` asks of data sets and what it decides, without training.

    python benchmarks/decisions.py garden things --source dinov2_vits14.safetensors --image-size 98 --shares 1 0.5 0.25

A row for every set and share (of every class; drawn by --seed): by validation images where the set has some (val), and
by the training images themselves (train). Numbers: percent of the images whose class the frozen source tells; scatter:
`gta.training.auto.scattered`.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from gta.data.reading import read_photos
from gta.sources.loading import load_source
from gta.tables import markdown
from gta.training.auto import decide, scattered
from gta.training.look import Look
from gta.training.options import TrainOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--source", required=True)
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    source = load_source(given.source, given.image_size).eval()
    look = Look.of(given.source, given.image_size)
    rows = []
    for data in given.data:
        for share in given.shares:
            photos = read_photos(data, fraction=share, seed=given.seed)
            options = TrainOptions(data=data, out="", source=given.source, image_size=given.image_size, fraction=share)
            torch.manual_seed(given.seed)  # of the shuffling
            scatter = f"{scattered(photos.train, look):.2f}"
            ways = {"train": replace(photos, val=())}
            if photos.val and not photos.val_held_out:
                ways["val"] = photos
            for asked, of in ways.items():
                decision = decide(options, of, source, look)
                told = {kind: f"{percent:.0f}" for kind, percent in decision.accuracy.items()}
                each = {"data": Path(data).name, "images": str(len(photos.train)), "asked": asked}
                rows.append({**each, **told, "scatter": scatter, "decided": decision.method})
                print(" ".join(rows[-1].values()), flush=True)
    print(f"\n{markdown(rows)}")


if __name__ == "__main__":
    main()
