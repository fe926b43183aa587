"""How far the runs of a study have moved from their source: their features, and the attention of every layer and head.

    python benchmarks/moved.py runs/why --out moved.csv
    python benchmarks/moved.py runs/freedom --heads plain auto --seed 0 --out heads.csv

Over the test images of every reported run: `features`, 1 - cosine between the run's [cls] features (after the final
norm) and its source's; with --heads, of the runs of the methods named, the drift (docs/measures.md) of every layer and
head. A row per method and setting, means over its seeds.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F

from gta.attention.maps import logits_and_rows
from gta.data.loading import loader
from gta.data.reading import read_photos
from gta.data.transforms import TestViews
from gta.sources.loading import load_source
from gta.tables import markdown, read_csv
from gta.training.run_folder import read_options
from gta.training.trained import Trained
from gta.vit.outputs import Features
from gta.vit.structure import vit_info


@torch.inference_mode()
def moved(folder: Path) -> tuple[float, torch.Tensor]:
    """1 - cosine of the features, and the drift (layers, heads), of one run, means over its test images."""
    run, options = Trained.load(folder), read_options(folder)
    source = load_source(options.source, run.image_size).eval()
    photos = read_photos(options.data, fraction=options.fraction, seed=options.seed)
    apart, drift, count = 0.0, torch.zeros(()), 0
    seen = Features(vit_info(run.model)), Features(vit_info(source))
    for images, _, _ in loader(TestViews(photos.test, run.image_size, run.mean, run.std), 80, 0):
        found = []
        for model, features in zip((run.model, source), seen, strict=True):
            prefix = vit_info(model).prefix_tokens
            with features:
                _, rows = logits_and_rows(model, images)
            found.append((features.read(images), torch.stack(rows)[..., prefix:]))
        (ours, our_rows), (theirs, their_rows) = found
        apart += float((1 - F.cosine_similarity(ours, theirs)).sum())
        drift = drift + (our_rows - their_rows).square().mean(-1).sum(1)
        count += len(images)
    return apart / count, drift / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--heads", nargs="*", help="methods whose runs' drift is written by layer and head")
    parser.add_argument("--seed", default="", help="of the runs; by default all")
    given = parser.parse_args()
    of = defaultdict(list)
    for row in read_csv(given.study / "runs.csv"):
        asked = (given.heads is None or row["name"] in given.heads) and given.seed in ("", row["seed"])
        if asked and row["state"] == "complete":
            found = moved(given.study / "runs" / row["folder"])
            of[row["data"], row["name"], row["settings"]].append((float(row["test_top1"]), *found))
    lines = []
    for (data, name, settings), runs in of.items():
        line = {"data": data, "method": name, "settings": settings, "runs": len(runs)}
        line |= {"test_top1": round(fmean(r[0] for r in runs), 2), "features": round(fmean(r[1] for r in runs), 4)}
        if given.heads:
            mean = torch.stack([r[2] for r in runs]).mean(0)
            line |= {f"{i}.{j}": f"{float(mean[i, j]):.4g}" for i in range(len(mean)) for j in range(len(mean[0]))}
        lines.append(line)
    with given.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    print(markdown([{k: v for k, v in line.items() if "." not in k} for line in lines]))


if __name__ == "__main__":
    main()
