"""What the report's warnings find in data that was spoiled on purpose: wrong labels and copies between train and test.

    python benchmarks/report_warnings.py PHOTOS --out DIR --source SPEC [--image-size 98] [--epochs 6]

Copies PHOTOS (train/, val/, test/ of CLASS/*), moves 5 % of every split's images into another class, copies 10 test
images into train as they are and 10 more at 80 % of their size and JPEG quality 60, trains plainly, and prints
precision and recall of what `gta report` lists. Then the labels alone are spoiled anew with four other seeds.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from gta.report.problems import Images
from gta.report.run import RunFiles
from gta.tables import markdown
from gta.training.fit import train
from gta.training.options import TrainOptions


def spoil(photos: Path, out: Path, seed: int = 0) -> None:
    """Write the spoiled copy to `out`, and `out`.json with the names of what was done, path by path."""
    rng, moved, copied = random.Random(seed), [], {"as it is": [], "smaller, compressed": []}
    for split in ("train", "val", "test"):
        images = sorted((photos / split).glob("*/*"))
        classes = sorted({path.parent.name for path in images})
        wrong = set(rng.sample(images, round(0.05 * len(images))))
        for path in images:
            label = rng.choice([c for c in classes if c != path.parent.name]) if path in wrong else path.parent.name
            name = f"{path.parent.name}-{path.name}" if path in wrong else path.name
            new = out / split / label / name
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, new)
            if path in wrong:
                moved.append(new.relative_to(out).as_posix())
    honest = [p for p in sorted((out / "test").glob("*/*")) if p.relative_to(out).as_posix() not in moved]
    for i, path in enumerate(rng.sample(honest, 20)):
        new = out / "train" / path.parent.name / f"copy-{path.name}"
        kind = "as it is" if i < 10 else "smaller, compressed"
        if i < 10:
            shutil.copyfile(path, new)
        else:
            image = Image.open(path)
            image.resize((image.width * 4 // 5, image.height * 4 // 5), Image.Resampling.BICUBIC).save(new, quality=60)
        copied[kind].append([new.relative_to(out).as_posix(), path.relative_to(out).as_posix()])
    out.with_suffix(".json").write_text(json.dumps({"moved": moved, "copied": copied}, indent=1))


def found(name: str, listed: set, true: set) -> dict[str, object]:
    hits = len(listed & true)
    precision, recall = hits / max(1, len(listed)), f"{hits / len(true):.2f}" if true else None
    counts = {"there": len(true), "listed": len(listed), "of them right": hits}
    return {"": name, **counts, "precision": f"{precision:.2f}" if true else None, "recall": recall}


def measure(run: Path, spoiled: Path) -> list[dict[str, object]]:
    truth, files = json.loads(spoiled.with_suffix(".json").read_text()), RunFiles(run)
    features, images = files.features, Images(files.features)
    path = features["path"]
    suspects = {str(path[s.row]) for s in images.suspects() or []}
    copies = [(str(path[c.train]), str(path[c.other]), c.same_file) for c in images.copies()]
    rows = [found("wrong labels", suspects, set(truth["moved"]))]
    rows += [
        found(f"wrong labels in {part}", {p for p in suspects if p.startswith(part)},
              {p for p in truth["moved"] if p.startswith(part)})
        for part in ("train", "val", "test")
    ]  # fmt: skip
    for same, (kind, pairs) in zip((True, False), truth["copied"].items(), strict=True):
        rows.append(found(f"copies, {kind}", {c[:2] for c in copies if c[2] == same}, set(map(tuple, pairs))))
    right = np.array([p.split("/")[-1].rpartition("-")[0] if p in truth["moved"] else p.split("/")[1] for p in path])
    labels = np.array([list(features["classes"]).index(name) for name in right])
    clean = Images({**features, "label": labels})
    rows.append(found("no wrong label", {s.row for s in clean.suspects() or []}, set()))
    for seed in range(1, 5):
        rng = np.random.default_rng(seed)
        wrong = rng.random(len(labels)) < 0.05
        other = (labels + rng.integers(1, labels.max() + 1, len(labels))) % (labels.max() + 1)
        again = Images({**features, "label": np.where(wrong, other, labels)})
        rows.append(
            found(f"wrong labels, seed {seed}", {s.row for s in again.suspects() or []}, set(np.nonzero(wrong)[0]))
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--image-size", type=int, default=98)
    parser.add_argument("--epochs", type=int, default=6)
    given = parser.parse_args()
    spoiled, run = given.out / "spoiled", given.out / "run"
    if not spoiled.exists():
        spoil(given.photos, spoiled)
    train(
        TrainOptions(
            data=str(spoiled), source=given.source, out=str(run), image_size=given.image_size, epochs=given.epochs,
            method="plain", layer_decay=0.8, keep_attention=12,
        ),
        resume=True,
    )  # fmt: skip
    print(markdown(measure(run, spoiled)))


if __name__ == "__main__":
    main()
