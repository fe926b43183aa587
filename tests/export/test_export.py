"""Exported models, run by those they are for, beside what gta predict says."""

import importlib.util
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import gta
from gta.cli import main
from gta.data.images import open_rgb
from gta.errors import GtaError
from gta.export.form import FORMS, Exported, Form, described, run_torch
from gta.export.run import export_run
from gta.training.trained import Trained
from tests.conftest import TINY, tiny_vit

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images(finished):
    return gta.image_paths(finished.folder.parent / "photos" / "test")


@pytest.fixture(scope="module")
def pixels(finished, images):
    trained = finished.trained()
    return torch.stack([trained.sees(Image.open(path).convert("RGB")) for path in images])


def same(finished, images, probabilities) -> None:
    assert len(probabilities) == len(images)
    classes = finished.trained().classes
    for p, row in zip(finished.predict(images), np.asarray(probabilities), strict=True):
        assert [p.probabilities[name] for name in classes] == pytest.approx(row.tolist(), abs=1e-4)


def test_onnx_with_numpy_and_pillow_alone(finished, images, pixels, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert main(["export", str(finished.folder), "--to", "onnx", "--int8", "--json", "--out", str(tmp_path / "o")]) == 0
    told = json.loads(capsys.readouterr().out)
    files = {path.name: path for path in (tmp_path / "o").iterdir() if path.name != "gta.json"}
    assert set(files) == {"model.onnx", "model.int8.onnx"}
    assert [row["model"] for row in told["models"]] == ["PyTorch", "model.onnx", "model.int8.onnx"]
    for row in told["models"][1:]:
        assert row["megabytes"] == pytest.approx(files[row["model"]].stat().st_size / 1e6, abs=0.06)
    assert told["models"][0]["test_top1"] == told["models"][1]["test_top1"] == finished.results["test_top1"]
    assert 0 <= told["models"][2]["test_top1"] <= 100
    assert told["models"][1]["largest_difference"] < 1e-4 < told["models"][2]["largest_difference"]
    expected = finished.predict(images)
    for some in (images[:1], images):  # whatever the batch
        named = example("onnx_predict").predict(str(files["model.onnx"]), *some)
        assert [name for name, _ in named] == [p.label for p in expected[: len(some)]]
        assert [p for _, p in named] == pytest.approx([p.probability for p in expected[: len(some)]], abs=1e-3)
    for name in files:
        session = onnxruntime.InferenceSession(files[name])
        meta = session.get_modelmeta().custom_metadata_map
        assert json.loads(meta["classes"]) == finished.trained().classes
        assert float(meta["temperature"]) == finished.results["temperature"]
        assert int(meta["opset"]) >= 18
        logits, probabilities = session.run(None, {"images": pixels.numpy()})
        if name == "model.onnx":
            same(finished, images, probabilities)
            same(finished, images, torch.tensor(logits).softmax(-1))


def test_torchscript(finished, images, pixels):
    folder = finished.export("torchscript")
    assert folder == finished.folder / "export" / "torchscript"
    extra = {"metadata.json": ""}
    model = torch.jit.load(str(folder / "model.pt"), _extra_files=extra)
    assert json.loads(extra["metadata.json"])["classes"] == finished.trained().classes
    same(finished, images, model(pixels)[1].detach())
    same(finished, images[:1], model(pixels[:1])[1].detach())
    shutil.rmtree(folder.parent)


@pytest.mark.parametrize("form", ["hf", "timm"])
def test_folders_that_libraries_take(form, finished, images, tmp_path, capsys):
    """Each by the library it is for, timm's by transformers too, with that library's own preprocessing."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / form
    assert main(["export", str(finished.folder), "--to", form, "--out", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["models"]
    assert told[1]["same_guess_with_own_preprocessing"] == 1
    pictures = [Image.open(path).convert("RGB") for path in images]
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    assert type(model).__name__ == f"{'Dinov2' if form == 'hf' else 'TimmWrapper'}ForImageClassification"
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        logits = model.eval()(**processor(pictures, return_tensors="pt")).logits
    expected = [p.label for p in finished.predict(images)]
    assert [model.config.id2label[i] for i in logits.argmax(-1).tolist()] == expected
    card = (folder / "README.md").read_text()
    assert card.startswith(f"---\nlibrary_name: {'transformers' if form == 'hf' else 'timm'}\n")
    assert "# Classifier of 3 classes" in card
    assert "gta.Run.load" not in card
    assert ('create_model("local-dir:this-folder", pretrained=True)' in card) == (form == "timm")
    if form == "hf":
        return
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    view = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        probabilities = model(torch.stack([view(picture) for picture in pictures])).softmax(-1)
    assert [model.pretrained_cfg["label_names"][i] for i in probabilities.argmax(-1).tolist()] == expected
    with torch.no_grad():
        seen = torch.stack([finished.trained().sees(picture) for picture in pictures])
        same(finished, images, model(seen).softmax(-1))


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"init_values": 0.3}, "Dinov2"),
        ({"reg_tokens": 2}, "TimmWrapper"),
        ({"qk_norm": True}, "TimmWrapper"),
        ({"global_pool": "avg"}, "TimmWrapper"),
    ],
)
def test_plain_vits_are_transformers_own(more, kind, tmp_path):
    """Others stay timm's, which transformers wraps."""
    transformers = pytest.importorskip("transformers")
    model = tiny_vit(num_classes=3, **more).eval()
    args = {**TINY, "img_size": 40, "num_classes": 3, **more}
    stats = [0.5, 0.4, 0.6], [0.2, 0.3, 0.25]
    trained = Trained(model, "vit_tiny_patch16_224", args, ["a", "b", "c"], *stats, 1.0, tmp_path)
    FORMS["hf"].write(Exported(model, trained, described(trained), "card", None), tmp_path)
    found = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(found).__name__ == f"{kind}ForImageClassification"
    pixels = torch.randn(5, 3, 40, 40)
    with torch.no_grad():
        assert torch.allclose(found.eval()(pixels).logits, model(pixels), atol=1e-5)


def test_what_differs_is_refused_and_leaves_nothing(finished, tmp_path, monkeypatch):
    def write(exported, folder):
        (folder / "model").write_bytes(b"x")
        write.model = exported.model
        return folder / "model"

    form = Form(write, lambda path: run_torch(lambda images: write.model(images) + 0.001))
    FORMS.add("wrong", form)
    try:
        with pytest.raises(GtaError, match=r"--to wrong: on 15 images of test it differs from PyTorch by up to 0\.001"):
            finished.export("wrong", tmp_path / "o")
        monkeypatch.setattr("gta.export.run.MOST", 0.1)
        assert finished.export("wrong", tmp_path / "o") == tmp_path / "o"
    finally:
        FORMS.remove("wrong")
    with pytest.raises(GtaError, match="is there already"):
        finished.export("timm", tmp_path / "o")
    finished.export("timm", tmp_path / "o", overwrite=True)
    assert {p.name for p in (tmp_path / "o").iterdir()} == {"gta.json", "config.json", "model.safetensors", "README.md"}
    assert [p.name for p in tmp_path.iterdir()] == ["o"]


@pytest.fixture(scope="module")
def crops(finished, tmp_path_factory):
    options = {"image_size": 40, "epochs": 2, "batch_size": 6, "lr": 1e-3, "method": "attention_crop"}
    data, source = finished.folder.parent / "photos", finished.options.source
    return gta.fit(data, tmp_path_factory.mktemp("crops") / "run", source=source, **options)


def test_a_run_that_crops_is_exported_with_what_says_where(crops, images, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr("gta.training.look.bf16_where_fast", lambda device: nullcontext())  # as the exported file
    folder, (plain, model, look) = export_run(crops.folder, "onnx", tmp_path / "o")
    assert [row["model"] for row in (plain, model, look)] == ["PyTorch", "model.onnx", "look.onnx"]
    assert plain["test_top1"] == model["test_top1"] == pytest.approx(crops.results["test_top1"], abs=7)  # one image
    assert look["largest_difference"] < 1e-5
    odd = [Image.new("RGB", (90, 50), "navy"), Image.new("RGB", (31, 77), "red")]
    odd[0].paste(Image.open(images[0]), (30, 4))
    for i, image in enumerate(odd):
        image.save(tmp_path / f"{i}.png")
    images = [*images, str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    expected = crops.predict(images)
    named = example("onnx_predict_crop").predict(str(folder), *images)
    assert [name for name, _ in named] == [p.label for p in expected]
    assert [p for _, p in named] == pytest.approx([p.probability for p in expected], abs=1e-3)
    meta = onnxruntime.InferenceSession(folder / "model.onnx").get_modelmeta().custom_metadata_map
    assert "what is cut out of" in json.loads(meta["preprocessing"])["crop"]


def test_what_looks_elsewhere_is_refused(crops, tmp_path, monkeypatch):
    form = replace(FORMS["timm"], look=lambda source, size, metadata, folder: folder / "look",
                   looker=lambda path: lambda pixels: np.full((len(pixels), 5, 5), 0.04, np.float32))  # fmt: skip
    FORMS.add("elsewhere", form)
    try:
        with pytest.raises(GtaError, match="look: where it looks differs from PyTorch by up to"):
            crops.export("elsewhere", tmp_path / "o")
    finally:
        FORMS.remove("elsewhere")
    assert not (tmp_path / "o").exists()


def test_a_run_that_crops_is_exported_for_whole_images_if_one_says_so(crops, finished, tmp_path):
    run, data = crops, finished.folder.parent / "photos"
    with pytest.raises(GtaError, match="give --to onnx, or add --whole-images"):
        run.export("timm")
    _, (plain, exported) = export_run(run.folder, "timm", tmp_path / "o", whole_images=True)
    assert plain["test_top1"] == run.results["test_top1"]
    model = timm.create_model(f"local-dir:{tmp_path / 'o'}", pretrained=True).eval()
    whole = replace(run.trained(), closer=None)
    images = gta.image_paths(data / "test")
    with torch.no_grad():
        guesses = model(torch.stack([whole.sees(open_rgb(path)) for path in images])).argmax(-1)
    right = [path.split("/")[-2] == whole.classes[i] for path, i in zip(images, guesses.tolist(), strict=True)]
    assert exported["test_top1"] == pytest.approx(100 * sum(right) / len(right))
    assert f"top-1 is then {exported['test_top1']:.1f} %" in (tmp_path / "o" / "README.md").read_text()
    with pytest.raises(GtaError, match="--whole-images has no meaning"):
        finished.export("timm", whole_images=True)


def test_what_cannot_be_exported_is_told(finished, tmp_path, monkeypatch):
    with pytest.raises(GtaError, match="'tflite' is not known: use one of hf, onnx, timm, torchscript"):
        finished.export("tflite")
    with pytest.raises(GtaError, match="--int8 is for --to onnx, got --to timm"):
        finished.export("timm", int8=True)
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(GtaError, match=r'needs onnxscript, which is not installed: pip install "gta-vit\[onnx\]"'):
        finished.export("onnx")
    moved = gta.Run(tmp_path / "run")
    shutil.copytree(finished.folder, moved.folder)
    config = (moved.folder / "config.yaml").read_text()
    data = str(finished.folder.parent / "photos")
    (moved.folder / "config.yaml").write_text(config.replace(data, str(tmp_path / "gone")))
    with pytest.raises(GtaError, match="give --data"):
        moved.export("timm")
    assert moved.export("timm", data=data).is_dir()
