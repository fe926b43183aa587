"""A finished run at work, from Python and from the command line."""

import csv
import io
import json
import math
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

import gta
from gta.cli import main
from gta.data.images import open_rgb
from gta.data.reading import read_photos
from gta.data.transforms import TestViews
from gta.errors import GtaError
from gta.training.measure_run import evaluate_run
from gta.training.predict import AHEAD, BATCH, _opened, _seen


@pytest.fixture(scope="module")
def photos(finished):
    return finished.folder.parent / "photos"


@pytest.fixture(scope="module")
def images(photos):
    return gta.image_paths(photos / "test")


def test_predictions_are_the_models_own(finished, images):
    """Against timm's model and the views that evaluation uses, by a plain softmax of the logits over T."""
    trained = finished.trained()
    model = timm.create_model(trained.architecture, **trained.model_args).eval()
    model.load_state_dict(load_file(finished.folder / "model.safetensors"))
    samples = read_photos(finished.folder.parent / "photos").test
    views = TestViews(samples, 40, trained.mean, trained.std)
    with torch.no_grad():
        logits = model(torch.stack([views[i][0] for i in range(len(views))])) / trained.temperature
    expected = logits.exp() / logits.exp().sum(-1, keepdim=True)
    for p, row, sample in zip(finished.predict(images), expected.tolist(), samples, strict=True):
        assert p.image == str(sample.path)
        ordered = sorted(row, reverse=True)
        assert list(p.probabilities.values()) == pytest.approx(ordered, abs=1e-5)
        assert p.label == trained.classes[row.index(ordered[0])]
        assert p.probability == pytest.approx(ordered[0], abs=1e-5)
        assert p.margin == pytest.approx(ordered[0] - ordered[1], abs=1e-5)
        assert p.entropy == pytest.approx(-sum(x * math.log(x) for x in row), abs=1e-4)
        assert p.error is None


def test_many_images_keep_their_order_whatever_is_unreadable(finished, images, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    many = [*images[:3], *[str(broken)] * (AHEAD + 1), *images * (2 * BATCH // len(images)), "nowhere.jpg", images[3]]
    done = []
    predictions = finished.predict(many, progress=done.append)
    assert [p.image for p in predictions] == many
    by_image = {p.image: p.label for p in finished.predict(images)}
    assert [p.label for p in predictions] == [by_image.get(image) for image in many]
    assert "cannot identify" in predictions[3].error
    assert predictions[-2].error == "no such file"
    assert done == sorted(done)
    assert done[-1] == len(many)


@pytest.mark.parametrize("in_turn", [True, False])
def test_no_image_is_decoded_beside_the_model_where_they_share_cores(images, in_turn):
    """How many are under way when one is taken: on a CPU none once a batch; on a GPU there are always some."""
    begun: list[int] = []

    class Pool(ThreadPoolExecutor):
        def submit(self, function, *given):
            begun.append(1)
            return super().submit(function, *given)

    with Pool(2) as pool:
        seen = _opened(lambda image: torch.zeros(1), [images[0]] * (4 * AHEAD), pool, in_turn)
        ahead = [len(begun) - taken for taken, _ in enumerate(islice(seen, 2 * AHEAD), 1)]
        assert (ahead.count(0) >= 2 * AHEAD // BATCH) if in_turn else (min(ahead[:-BATCH]) > 0 and max(ahead) >= AHEAD)
        assert len([*seen]) == 2 * AHEAD


def test_threads_that_decode_leave_normalising_to_the_batch(finished, images):
    """Their torch operations would slow the model down: `gta.data.transforms.framed`."""
    trained = finished.trained()
    with ThreadPoolExecutor(2) as pool:
        seen = [tensor for _, tensor in _seen(trained, images[:3], pool)]
    assert all(tensor.dtype == torch.uint8 for tensor in seen)
    expected = torch.stack([trained.sees(open_rgb(image)) for image in images[:3]])
    assert torch.equal(trained.normalised(seen), expected)


def test_images_and_single_paths(finished, images):
    from_file = finished.predict(images[0])
    opened, made = finished.predict([Image.open(images[0]), Image.new("LA", (50, 70), 200)])
    assert (opened.image, opened.label) == (images[0], from_file[0].label)
    assert opened.probability == pytest.approx(from_file[0].probability)
    assert made.image == "image 1"
    assert made.label in finished.trained().classes
    assert finished.predict([]) == []


def test_abstaining_names_no_class_below_the_threshold(finished, images):
    certain = sorted(p.probability for p in finished.predict(images))
    threshold = certain[len(certain) // 2]
    for p in finished.predict(images, abstain=threshold):
        assert (p.label is None) == (p.probability < threshold)
        assert p.probabilities
    with pytest.raises(GtaError, match=r"got 1\.5"):
        finished.predict(images, abstain=1.5)


def test_the_command_prints_json_csv_and_a_table(finished, photos, images, tmp_path, capsys, monkeypatch):
    run = str(finished.folder)
    predictions = finished.predict(images)

    def told(*words, status=0):
        assert main(["predict", run, *words]) == status
        return capsys.readouterr()

    assert [p["class"] for p in json.loads(told(str(photos / "test"), "--json").out)] == [p.label for p in predictions]
    rows = list(csv.DictReader(io.StringIO(told(str(photos / "test" / "**" / "*.jpg"), "--csv", "--top", "2").out)))
    assert (
        list(rows[0])
        == "path class probability margin entropy class_1 probability_1 class_2 probability_2 error".split()
    )
    for row, p in zip(rows, predictions, strict=True):
        assert (row["path"], row["class"], row["class_1"]) == (p.image, p.label, p.label)
        assert float(row["probability"]) - float(row["probability_2"]) == pytest.approx(float(row["margin"]))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{images[0]}\n"))
    assert predictions[0].label in told("-").out
    (tmp_path / "text.jpg").write_text("no picture")
    some = told(str(tmp_path / "text.jpg"), images[0], "nowhere.jpg", "--csv", status=1)
    rows = list(csv.DictReader(io.StringIO(some.out)))
    assert [row["class"] for row in rows] == ["", predictions[0].label, ""]
    assert rows[2]["error"] == "no such file"
    assert "2 of 3 images cannot be read" in some.err
    assert f"{tmp_path / 'text.jpg'}: UnidentifiedImageError" in some.err
    assert "no such file" in told("nowhere.jpg", status=1).out
    none = told(images[0], "--abstain", "1", "--csv")
    assert next(csv.DictReader(io.StringIO(none.out)))["class"] == ""
    assert "no class" in none.err
    for wrong in (("--json", "--csv"), ("--top", "0"), ("--abstain", "-1")):
        assert wrong[0] in told(images[0], *wrong, status=2).err or "abstain" in wrong[0]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "no image is named" in told("-", status=2).err


def test_a_long_table_is_plain(finished, images, tmp_path, capsys):
    listed = tmp_path / "list.csv"
    folders = [tmp_path / str(i) for i in range(40)]
    for folder in folders:
        folder.symlink_to(images[0].rsplit("/", 2)[0])
    listed.write_text("path\n" + "".join(f"{f}/{'/'.join(i.split('/')[-2:])}\n" for f in folders for i in images))
    assert main(["predict", str(finished.folder), str(listed)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 40 * len(images)
    assert lines[0].split() == ["path", "class", "probability", "margin", "entropy", "others"]
    assert lines[1].split("  ")[0] == f"{folders[0]}/class 0/000.jpg"
    assert {line.index("class ", line.index(".jpg")) for line in lines[1:]} == {lines[0].index("class")}


def test_a_run_is_loaded_fitted_and_measured_from_python(finished, photos, tmp_path):
    run = gta.Run.load(str(finished.folder))
    assert run == finished
    assert run.results["test_top1"] > 50  # chance is 33
    assert run.options.method == "plain"
    assert run.evaluate() == evaluate_run(finished.folder)
    assert run.evaluate(photos, "val")["top1"] == run.results["val_top1"]
    right = [p.label == p.image.split("/")[-2] for p in run.predict(gta.image_paths(photos / "test"))]
    assert run.results["test_top1"] == pytest.approx(100 * sum(right) / len(right))
    with pytest.raises(GtaError, match="'learning_rate' is not known: use one of source, "):
        gta.fit(photos, tmp_path / "run", learning_rate=1)
    with pytest.raises(GtaError, match="not a run folder"):
        gta.Run.load(tmp_path)
    again = gta.fit(resume=True, out=finished.folder, **{k: v for k, v in vars(run.options).items() if k != "out"})
    assert again == finished
    assert not (tmp_path / "run").exists()


def test_a_frame_is_trained_on(finished, photos, tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(photos)
    paths = [str(Path(path).relative_to(photos)) for path in gta.image_paths([photos / "train", photos / "test"])]
    frame = pandas.DataFrame({"path": paths})
    frame["label"] = frame.path.str.split("/").str[1]
    frame["split"] = frame.path.str.split("/").str[0]
    few = {"image_size": 40, "epochs": 1, "batch_size": 6, "method": "plain", "source": finished.options.source}
    run = gta.fit(frame, tmp_path / "run", **few)
    assert (run.results["train_images"], run.results["val_images"], run.results["test_images"]) == (15, 3, 15)
    monkeypatch.chdir(tmp_path)
    assert run.evaluate()["top1"] == run.results["test_top1"]
    with pytest.raises(GtaError, match=r"run\.csv is there already, with other images"):
        gta.fit(frame[frame.label != "class 0"], tmp_path / "run", resume=True, **few)
    assert run.evaluate()["top1"] == run.results["test_top1"]


def test_predictions_are_a_frame(finished):
    pandas = pytest.importorskip("pandas")
    frame = finished.predictions()
    assert list(frame.columns) == ["split", "path", "label", "guess", "p:class 0", "p:class 1", "p:class 2"]
    tested = frame[frame.split == "test"]
    assert 100 * (tested.label == tested.guess).mean() == pytest.approx(finished.results["test_top1"])
    root = finished.folder.parent / "photos"
    again = pandas.DataFrame(finished.predict(root / name for name in tested.path))
    assert list(again.label) == list(tested.guess)
