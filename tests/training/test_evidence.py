"""What a run leaves of its images, against the model and the source run again by hand."""

import csv
import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gta.data.images import open_rgb
from gta.data.reading import read_photos
from gta.data.transforms import TestViews, center_square
from gta.sources.info import source_info
from gta.sources.loading import load_source
from gta.training import evidence
from gta.training.fit import train
from gta.training.options import TrainOptions
from gta.training.run_folder import load_weights
from tests.conftest import reference_rows, tiny_vit, write_photos

SIZE = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run whose classes have awkward names, its data, its source, and its options."""
    root = tmp_path_factory.mktemp("evidence")
    data = write_photos(root / "photos", {"train": 5, "val": 2, "test": 3})
    for split in ("train", "val", "test", "masks/train", "masks/val", "masks/test"):
        (data / split / "class 1").rename(data / split / 'a,"b')
    save_file(tiny_vit(num_classes=0).state_dict(), root / "source.safetensors")
    options = TrainOptions(
        data=str(data), source=str(root / "source.safetensors"), out=str(root / "run"), image_size=SIZE, epochs=2,
        batch_size=4, lr=1e-3, keep_attention=4, method="plain",
    )  # fmt: skip
    assert train(options) is not None
    return root / "run", read_photos(data), load_source(options.source, SIZE), options


def views(photos, split, source):
    info = source_info(source)
    seen = TestViews(photos.split(split), SIZE, info.mean, info.std)
    return torch.stack([seen[i][0] for i in range(len(seen))])


def read(folder, name):
    with np.load(folder / name) as file:
        return dict(file)


def test_predictions_have_every_val_and_test_image_with_digits_enough_to_recalibrate(run):
    folder, photos, source, _ = run
    rows = list(csv.DictReader((folder / "predictions.csv").open(newline="")))
    samples = [(split, s) for split in ("val", "test") for s in photos.split(split)]
    assert [(r["split"], r["path"], r["label"]) for r in rows] == [
        (split, s.name, photos.classes[s.label]) for split, s in samples
    ]
    columns = [f"p:{name}" for name in photos.classes]
    assert list(rows[0]) == ["split", "path", "label", "guess", *columns]
    found = torch.tensor([[float(r[c]) for c in columns] for r in rows], dtype=torch.float64)
    model, _ = load_weights(folder)
    with torch.no_grad():
        logits = torch.cat([model(views(photos, split, source)) for split in ("val", "test")]).double()
    torch.testing.assert_close(found, logits.softmax(-1), rtol=1e-4, atol=0)
    torch.testing.assert_close((found.log() / 7).softmax(-1), (logits / 7).softmax(-1), rtol=1e-5, atol=0)
    assert [r["guess"] for r in rows] == [photos.classes[i] for i in logits.argmax(-1)]
    assert len({r["guess"] for r in rows}) > 1
    results = json.loads((folder / "results.json").read_text())
    loss = torch.nn.functional.cross_entropy(logits[-9:], torch.tensor([s.label for s in photos.test]))
    assert results["test_loss"] == pytest.approx(float(loss), rel=1e-4)


def test_features_are_the_sources_in_the_order_of_the_splits(run):
    folder, photos, source, _ = run
    found = read(folder, "features.npz")
    splits = ("train", "val", "test")
    assert found["split"].tolist() == [split for split in splits for _ in photos.split(split)]
    samples = [s for split in splits for s in photos.split(split)]
    assert found["path"].tolist() == [s.name for s in samples]
    assert found["sha256"].tolist() == [s.sha256 for s in samples]
    assert [found["classes"][i] for i in found["label"]] == [photos.classes[s.label] for s in samples]
    with torch.no_grad():
        features = torch.cat([source(views(photos, split, source)) for split in splits])
    np.testing.assert_allclose(found["features"], features.numpy(), rtol=3e-2, atol=3e-2)  # in bf16 where it is fast
    assert (found["tiny"].max((1, 2)) == 255).all()


def test_attention_is_that_of_every_layer_and_head_and_after_every_epoch(run):
    folder, photos, source, _ = run
    found = read(folder, "attention.npz")
    model, _ = load_weights(folder)
    first = len(photos.train) + len(photos.val)
    assert found["rows"].tolist() == list(range(first, first + 9))
    assert found["explored"].tolist()[:4] == [first + i for i in (1, 3, 5, 7)]
    images = views(photos, "test", source)
    with torch.no_grad():
        rows = {name: reference_rows(m.eval(), images) for name, m in (("target", model), ("source", source))}
    drift = torch.stack([(t - s).square().mean((0, 2)) for t, s in zip(rows["target"], rows["source"], strict=True)])
    np.testing.assert_allclose(found["drift"], drift, rtol=1e-3)
    for name in ("target", "source"):
        maps = torch.stack(rows[name], 1).softmax(-1)[found["explored"] - first]
        got = torch.from_numpy(found[name]).double().flatten(-2)
        torch.testing.assert_close(got / got.sum(-1, keepdim=True), maps, rtol=5e-3, atol=1e-4)
        mean = torch.stack(rows[name], 1).softmax(-1)[:, -1].mean(1)
        assert np.corrcoef(found[f"{name}_mean"].reshape(9, -1)[2], mean[2])[0, 1] > 0.99
    assert found["masks"].shape == (len(found["explored"]), SIZE, SIZE)
    assert found["masks"].any()
    epochs = sorted((folder / "attention").iterdir())
    assert [path.name for path in epochs] == ["0001.npz", "0002.npz"]
    first_epoch, last_epoch = (read(folder / "attention", path.name)["target"] for path in epochs)
    np.testing.assert_array_equal(last_epoch, found["target"][:4])
    assert not np.array_equal(first_epoch, last_epoch)


def test_pictures_show_what_the_models_saw(run):
    folder, photos, _, _ = run
    with zipfile.ZipFile(folder / "images.zip") as archive:
        names = archive.namelist()
        picture = Image.open(io.BytesIO(archive.read("000000.webp")))
    assert names == [f"{i:06}.webp" for i in range(15 + 6 + 9)]
    expected = center_square(open_rgb(photos.train[0].path), SIZE)
    difference = np.abs(np.asarray(picture, float) - np.asarray(expected, float))
    assert difference.mean() < 20  # WebP of noise
    other = np.asarray(center_square(open_rgb(photos.train[-1].path), SIZE), float)
    assert np.abs(np.asarray(picture, float) - other).mean() > 2 * difference.mean()


def test_of_many_images_the_mistakes_and_their_neighbours_are_pictured(monkeypatch):
    monkeypatch.setattr(evidence, "PICTURES", 5)
    features = torch.eye(20)[:, :7] + 0.01
    features[3] = features[17] = torch.tensor([0.0, 1, 0, 2, 0, 0, 0])
    chosen = evidence._pictured(features, 10, wrong=[4, 2], before=13, explored=[0])
    assert {17, 15, 13} <= set(chosen)  # 13 + 4, 13 + 2, 13 + 0
    assert sum(row >= 10 for row in chosen) == 5
    assert sum(row < 10 for row in chosen) == 5
    assert 3 in chosen  # the nearest of the worst mistake


def test_runs_that_only_choose_settings_leave_test_alone_and_keeping_attention_changes_no_weight(run, tmp_path):
    folder, _, _, options = run
    trial = train(replace(options, out=str(tmp_path / "trial"), keep_attention=0), test=False)
    assert trial["test_top1"] is None
    files = {path.name for path in (tmp_path / "trial").iterdir()}
    assert files == {
        "gta.json",
        "config.yaml",
        "results.json",
        "metrics.csv",
        "model.safetensors",
        "last.ckpt",
        "predictions.csv",
    }
    assert {r["split"] for r in csv.DictReader((tmp_path / "trial" / "predictions.csv").open())} == {"val"}
    one, two = (load_weights(f)[0].state_dict() for f in (folder, tmp_path / "trial"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_where_a_box_of_each_image_is_shown_all_evidence_is_of_the_box(run, tmp_path):
    folder, _, _, options = run
    out = tmp_path / "crop"
    assert train(replace(options, out=str(out), method="attention_crop", epochs=1)) is not None
    np.testing.assert_array_equal(
        read(out / "attention", "0001.npz")["target"], read(out, "attention.npz")["target"][:4]
    )
    assert (read(out, "features.npz")["features"] != read(folder, "features.npz")["features"]).any()
