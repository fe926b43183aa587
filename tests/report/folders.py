"""A complete run folder made of invented numbers, as docs/commands.md describes its files; no model is trained."""

import csv
import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

AWKWARD = [
    "<script>alert(1)</script>",
    "</textarea>\"'",
    "new\nline",
    "to the \u202eright",
    "{{ 7 * 7 }}",
    "plain, comma",
]
LAYERS, HEADS, GRID, SIDE = 3, 2, (5, 5), 40


def write_run(
    folder: Path,
    counts: dict[str, int] | None = None,
    classes: list[str] = AWKWARD,
    seed: int = 0,
    accuracy: float = 0.6,
    epochs: int = 2,
    side: int = SIDE,
) -> Path:
    """Counts are images per class and split; the last two classes' features are far apart from the others'."""
    counts = {"train": 5, "val": 3, "test": 6} if counts is None else counts
    data, own = np.random.default_rng(0), np.random.default_rng(seed)  # of the images; of the run
    folder.mkdir(parents=True)
    rows = [(s, c, i) for s, n in counts.items() for c in range(len(classes)) for i in range(n)]
    paths = [f"{split}/{classes[c]}/{i:03}.jpg" for split, c, i in rows]
    labels = np.array([c for _, c, _ in rows])
    centres = data.normal(size=(len(classes), 16))
    features = centres[labels] + 0.4 * data.normal(size=(len(rows), 16))
    np.savez_compressed(
        folder / "features.npz",
        split=np.array([s for s, _, _ in rows]),
        path=np.array(paths),
        label=labels.astype(np.int32),
        classes=np.array(classes),
        sha256=np.array([hashlib.sha256(p.encode()).hexdigest() for p in paths]),
        features=features.astype(np.float16),
        tiny=data.integers(0, 256, (len(rows), 16, 16)).astype(np.uint8),
    )
    measured = [i for i, (s, _, _) in enumerate(rows) if s != "train"]
    logits = own.normal(size=(len(rows), len(classes)))
    right = own.random(len(rows)) < accuracy
    logits[np.arange(len(rows)), np.where(right, labels, (labels + 1) % len(classes))] += 4
    powers = np.exp(logits)
    probabilities = powers / powers.sum(1, keepdims=True)
    if measured:
        with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["split", "path", "label", "guess", *(f"p:{name}" for name in classes)])
            for i in measured:
                guess = classes[int(probabilities[i].argmax())]
                writer.writerow(
                    [rows[i][0], paths[i], classes[labels[i]], guess, *(f"{p:.9g}" for p in probabilities[i])]
                )
    shown = "test" if counts.get("test") else "val"
    of = np.array([i for i in measured if rows[i][0] == shown], dtype=int)
    if len(of):
        explored = of[:4]
        masks = np.zeros((len(explored), side, side), bool)
        masks[:, 8:20, 10:30] = True
        maps = own.random((len(explored), LAYERS, HEADS, *GRID)).astype(np.float16)
        np.savez_compressed(
            folder / "attention.npz", split=np.array(shown), rows=of, explored=explored, masks=masks, target=maps,
            source=data.random(maps.shape).astype(np.float16), drift=own.random((LAYERS, HEADS)),
            target_mean=own.random((len(of), *GRID)).astype(np.float16),
            source_mean=data.random((len(of), *GRID)).astype(np.float16),
        )  # fmt: skip
        (folder / "attention").mkdir()
        for epoch in range(1, epochs + 1):
            np.savez_compressed(folder / "attention" / f"{epoch:04}.npz", target=maps[:2] ** (epochs / epoch))
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for i in range(len(rows)):
            content = io.BytesIO()
            noise = np.kron(data.integers(0, 256, (side // 8, side // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            Image.fromarray(noise).save(content, "WEBP")
            archive.writestr(f"{i:06}.webp", content.getvalue())
    (folder / "metrics.csv").write_text(
        "epoch,step,lr,loss,penalty,weight,top1,val_top1,seconds\n0,0,1e-4,2.5,0.5,10,20,,\n0,1,1e-4,2,0.25,10,40,30,1\n"
        "1,2,1e-4,1.5,0.2,10,60,,\n1,3,1e-4,1,0.1,10,80,50,1\n"
    )
    (folder / "config.yaml").write_text("data: /photos\nmethod: gta\nclip: 1.0\n")
    results = {
        "method": "gta", "source": "/a/source.safetensors", "train_images": counts.get("train", 0), "seed": seed,
        "classes": len(classes), "image_size": side, "epochs": 2, "weight": None, "temperature": 1.7,
        "val_top1": 50.0, "wall_seconds": 3.0,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def change(folder: Path, **arrays: object) -> None:
    """Put other arrays into a run's features.npz."""
    with np.load(folder / "features.npz") as file:
        np.savez_compressed(folder / "features.npz", **{**dict(file), **arrays})
