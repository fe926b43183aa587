"""The default method: what it decides, what its runs show their models, and that they end as uninterrupted."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import gta
from gta.data.reading import read_photos
from gta.data.transforms import TrainViews
from gta.methods import METHODS
from gta.methods.compose import ComposedMethod
from gta.sources.loading import load_source, new_target
from gta.training.auto import decide, leave_one_out, ridge, scattered
from gta.training.fit import train
from gta.training.look import Look, looked_at
from gta.training.measure_run import evaluate_run
from gta.training.options import TrainOptions
from gta.training.predict import predict
from gta.training.trained import Trained
from gta.worlds.folder import write_world
from gta.worlds.options import WorldOptions

SIZE, BUTTERFLIES = 48, "gta:butterflies"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    root = tmp_path_factory.mktemp("worlds")
    for label in ("species", "ground"):
        write_world(
            WorldOptions(out=str(root / label), label=label, classes=6, train=6, val=6, test=4, size=64, spurious=1.0)
        )
    return root


@pytest.fixture(scope="module")
def run(worlds, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    options = TrainOptions(data=str(worlds / "species"), out=str(out), source=BUTTERFLIES, image_size=SIZE, epochs=2,
                           batch_size=12, precision="32", lr=1e-3)  # fmt: skip
    return out, options, train(options)


def decided(data, **more):
    options = TrainOptions(data=str(data), out="", source=BUTTERFLIES, image_size=SIZE)
    photos = read_photos(data)
    return decide(options, replace(photos, **more), load_source(BUTTERFLIES, SIZE), Look.of(BUTTERFLIES, SIZE))


@pytest.mark.parametrize("more", [{}, {"val": ()}])
def test_the_background_is_believed_where_it_is_the_class(worlds, more):
    """With validation images, and from training images alone."""
    species, ground = decided(worlds / "species", **more), decided(worlds / "ground", **more)
    assert "background_swap" in species.method
    assert ground.method == "plain"
    assert ground.lr == 2.5 * species.lr == pytest.approx(1e-3)  # 192 wide
    assert (species.layer_decay, ground.layer_decay) == (0.8, 0.9)
    assert ground.accuracy["background"] > 1.5 * ground.accuracy["object"]
    torch.rand(1)  # whatever was drawn before
    assert decided(worlds / "ground", **more).accuracy == ground.accuracy
    assert "in the background" in " ".join(ground.reasons)
    asked = "36 training images" if more else "36 validation images"
    assert asked in species.reasons[0]


@pytest.mark.parametrize(
    ("crop", "object_", "background", "scatter", "chosen"),
    [
        (85, 70, 100, 0.5, "plain"), (89, 70, 100, 0.5, "attention_crop+background_swap"),
        (85, 77, 100, 0.5, "attention_crop+background_swap"), (60, 90, 30, 0.5, "background_swap"),
        (1, 1, 2, 0.5, "background_swap"), (0, 0, 2, 0.5, "plain"),  # by more than a standard error
        (89, 70, 100, 0.81, "plain"), (89, 70, 100, 0.79, "attention_crop+background_swap"),  # no objects
        (89, 77, 100, 0.81, "attention_crop+background_swap"),
    ],
)  # fmt: skip
def test_objects_and_crops_must_both_tell_much_less_than_backgrounds(
    worlds, monkeypatch, crop, object_, background, scatter, chosen
):
    """The thresholds that docs/default.md states; crops that tell much less than whole pictures are not taken."""
    monkeypatch.setattr("gta.training.auto.scattered", lambda *_: scatter)
    told = {"whole": 95, "crop": crop, "object": object_, "background": background}
    right = {kind: torch.arange(100) < hits for kind, hits in told.items()}
    monkeypatch.setattr("gta.training.auto._right", lambda *_: right)
    assert decided(worlds / "species", val=()).method == chosen


def test_where_nothing_is_to_be_seen_shuffling_changes_little(worlds, tmp_path, monkeypatch):
    """Butterflies hold the attention together, their patches in any order do not, and noise does not either way."""
    torch.manual_seed(0)
    look = Look.of(BUTTERFLIES, SIZE)
    assert scattered(read_photos(worlds / "species").train, look) < 0.7
    generator = torch.Generator().manual_seed(0)
    for i in range(24):
        pixels = torch.randint(256, (64, 64, 3), generator=generator, dtype=torch.uint8).numpy()
        (tmp_path / "train" / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "train" / f"{i % 2}" / f"{i}.png")
    noise = read_photos(tmp_path).train
    assert 0.9 < scattered(noise, look) < 1.1
    monkeypatch.setattr("gta.training.auto.SHUFFLED", len(noise))
    unread = replace(noise[0], path=tmp_path / "none.png")
    assert 0.9 < scattered([*noise, unread], look) < 1.1  # of many images no more are looked at


def test_options_that_are_given_are_kept(worlds):
    options = TrainOptions(data="", out="", lr=3e-5, layer_decay=1.0)
    photos = read_photos(worlds / "species")
    chosen = decide(options, photos, load_source(BUTTERFLIES, SIZE), Look.of(BUTTERFLIES, SIZE))
    assert (chosen.applied(options).lr, chosen.applied(options).layer_decay) == (3e-5, 1.0)
    with pytest.raises(gta.GtaError, match="add --method gta"):
        TrainOptions(data="", out="", weight=1.0)


def test_ridge_against_its_definition():
    torch.manual_seed(0)
    features, classes = torch.randn(14, 5).double(), torch.arange(14) % 3
    features += 2 * torch.nn.functional.one_hot(classes, 5)
    alone = leave_one_out(features, classes)
    kernel_mean = features.mean(0)
    scale = (features - kernel_mean).square().sum(1).mean().sqrt()
    scaled = torch.cat([(features - kernel_mean) / scale, torch.ones(14, 1)], 1)  # the bias is penalised as well
    for i in range(14):
        rest = torch.arange(14) != i
        x, y = scaled[rest], torch.nn.functional.one_hot(classes[rest], 3).double()
        weights = torch.linalg.solve(x.T @ x + 0.3 * torch.eye(6), x.T @ y)
        assert alone[i] == (scaled[i] @ weights).argmax()
    assert (ridge(features, classes, features) == classes).double().mean() >= (alone == classes).double().mean()


def test_a_run_says_what_was_decided_and_looks_the_same_way_ever_after(run, worlds):
    out, _, results = run
    assert results["method"] == "auto"
    assert results["composed"] == "attention_crop+background_swap"
    assert "the frozen source tells" in results["reasons"]
    again = evaluate_run(out)
    assert again["top1"] == pytest.approx(results["test_top1"])
    assert again["object_mass"] == pytest.approx(results["object_mass"], abs=1e-4)
    trained = Trained.load(out)
    paths = sorted((worlds / "species" / "test").rglob("*.png"))
    guesses = [p.label for p in predict(trained, paths)]
    right = sum(guess == path.parent.name for guess, path in zip(guesses, paths, strict=True))
    assert 100 * right / len(paths) == pytest.approx(results["test_top1"])
    with Image.open(paths[0]) as image:
        whole = replace(trained, closer=None).sees(image.convert("RGB"))
        assert not torch.equal(trained.sees(image.convert("RGB")), whole)


@pytest.mark.parametrize("pixels", [10**9, 5 * 64 * 64])
def test_images_are_looked_at_in_batches_that_memory_holds(pixels, run, worlds, tmp_path, monkeypatch):
    monkeypatch.setattr("gta.training.look.bf16_where_fast", lambda device: nullcontext())  # one as many
    monkeypatch.setattr("gta.training.predict.PIXELS", pixels)
    trained = Trained.load(run[0])
    sizes, looks = [], trained.closer.look.looks
    object.__setattr__(trained.closer.look, "looks", lambda views: sizes.append(len(views)) or looks(views))
    paths = sorted((worlds / "species" / "test").rglob("*.png"))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    said = list(predict(trained, [*paths[:3], tmp_path / "broken.png", *paths[3:]]))
    assert sum(sizes) == len(paths)
    assert sizes[0] == (min(32, len(paths)) if pixels > 10**6 else 5)
    assert "cannot identify" in said.pop(3).error
    for path, p in zip(paths, said, strict=True):
        with Image.open(path) as image:
            alone = trained.probabilities(trained.sees(image.convert("RGB"))[None])[0]
            assert trained.closer.view(image.convert("RGB")).dtype == torch.uint8  # normalised by the batch
        assert p.image == str(path)
        assert p.probability == pytest.approx(float(alone.max()), abs=1e-4)


def test_a_stopped_run_ends_with_the_same_weights(run, tmp_path, monkeypatch):
    out, options, _ = run
    from gta.training.recorder import Recorder

    ends = Recorder.on_train_epoch_end

    def stop(self, trainer, module):
        ends(self, trainer, module)
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "on_train_epoch_end", stop)
    stopped = replace(options, out=str(tmp_path / "run"))
    with pytest.raises(KeyboardInterrupt):
        train(stopped)
    monkeypatch.undo()
    train(stopped, resume=True)
    one, two = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "run"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_masks_of_the_users_own_say_what_is_kept(worlds):
    photos = read_photos(worlds / "species")
    source = load_source(BUTTERFLIES, SIZE)
    method = ComposedMethod(new_target(source, 6), source, [METHODS["background_swap"](foreground="masks", share=1.0)])
    _, edits = looked_at(photos, Look.of(BUTTERFLIES, SIZE), method)
    rank = edits.ranks[photos.train[0].sha256]
    assert set(rank.unique().tolist()) == {0.0, 1.0}
    assert rank.shape == (64, 64) or rank.shape[0] >= SIZE


def test_views_are_a_function_of_seed_epoch_and_image(worlds):
    photos = read_photos(worlds / "species")
    source = load_source(BUTTERFLIES, SIZE)
    methods = [METHODS["attention_crop"](), METHODS["background_swap"](share=1.0)]
    method = ComposedMethod(new_target(source, 6), source, methods)
    unseen, _ = looked_at(photos, Look.of(BUTTERFLIES, SIZE), method, test=False)
    assert all(sample.box is None for sample in unseen.test)
    shown, edits = looked_at(photos, Look.of(BUTTERFLIES, SIZE), method)
    assert unseen.train == shown.train
    assert all(sample.box is not None for split in (shown.train, shown.val, shown.test) for sample in split)
    views, again, plain = (TrainViews(shown.train, SIZE, 0, edits=e) for e in (edits, edits, None))
    torch.manual_seed(3)
    first = views[5][0]
    torch.manual_seed(4)
    again[2]
    assert torch.equal(again[5][0], first)
    assert not torch.equal(plain[5][0], first)
    assert not torch.equal(views[5 + len(shown.train)][0], first)


def test_two_methods_cannot_both_say_what_is_shown():
    source = load_source(BUTTERFLIES, SIZE)

    class Other(METHODS["attention_crop"]):
        name = "other_crop"

    with pytest.raises(gta.GtaError, match="attention_crop and other_crop cannot be composed"):
        ComposedMethod(new_target(source, 2), source, [METHODS["attention_crop"](), Other()])


def test_what_is_looked_with_is_kept_with_the_run(run):
    out, _, _ = run
    tensors = load_file(out / "look.safetensors")
    assert all(tensor.dtype == torch.float16 for tensor in tensors.values() if tensor.is_floating_point())
    assert json.loads(json.dumps(Trained.load(out).closer.crop.mass)) == 0.5


def test_what_looked_by_another_rule_is_refused(run, tmp_path):
    out = shutil.copytree(run[0], tmp_path / "old")
    with safe_open(out / "look.safetensors", "pt") as file:
        metadata = file.metadata()
    del metadata["rule"]  # as of runs from before heads were weighed
    save_file(load_file(out / "look.safetensors"), out / "look.safetensors", metadata)
    with pytest.raises(gta.GtaError, match="another rule"):
        Trained.load(out)
