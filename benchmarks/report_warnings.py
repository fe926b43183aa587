"""What the report's warnings find in data that was spoiled on purpose: wrong labels and copies between train and test.

    python benchmarks/report_warnings.py PHOTOS --out DIR --source SPEC [--image-size 98] [--epochs 8]

Copies PHOTOS (train/, val/, test/ of CLASS/*), moves 5 % of every split's images into another class, copies 10 test images
into train as they are and 10 more at 80 % of their size and JPEG quality 60, trains plainly, and prints precision and
recall of what `gta report` lists.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

from PIL import Image

from gta.report.problems import find_problems
from gta.report.run import read_run
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
