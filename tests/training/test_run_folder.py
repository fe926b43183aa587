"""A run folder is of one run, and what was in it stays until the new run can take its place."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gta import GtaError
from gta.report.write import write_report
from gta.tables import read_csv
from gta.training import fit
from gta.training.finite import Diverged
from gta.training.fit import train
from gta.training.options import TrainOptions
from gta.training.recorder import Checkpoints
from gta.training.run_folder import DIVERGED, RunFolder, load_weights, read_options
from tests.conftest import tiny_vit, write_photos


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_photos(root / "photos", {"train": 4, "val": 1, "test": 1}, masks=False)
    save_file(tiny_vit(num_classes=0).state_dict(), root / "source.safetensors")

    def make(**more: object) -> TrainOptions:
        base = {"data": root / "photos", "source": root / "source.safetensors", "out": root / "run"}
        texts = {k: str(v) for k, v in base.items()}
        return TrainOptions(**{**texts, "image_size": 40, "epochs": 2, "batch_size": 6, "method": "plain", **more})

    train(make())
    return make


@pytest.fixture
def run(options, tmp_path):
    """A copy of a finished run."""
    import shutil

    return Path(shutil.copytree(options().out, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_equal_runs_have_equal_models_to_the_byte(options, tmp_path):
    again = tmp_path / "again"
    train(options(out=str(again)))
    assert (again / "model.safetensors").read_bytes() == (Path(options().out) / "model.safetensors").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"again"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"method": "gta", "weight": "auto", "batch_size": 1}, "batch-size"),
        ({"method": "bss", "settings": {"bss": {"k": 100}}}, "bss"),
        ({"lr": 1e30, "clip": 0.0}, "lower --lr"),
        ({"data": "nowhere"}, "nowhere"),
    ],
)
def test_a_run_that_fails_before_its_first_checkpoint_leaves_the_old_one(options, run, tmp_path, more, words):
    before = contents(run)
    with pytest.raises(GtaError, match=words):
        train(options(out=str(run), **more), overwrite=True)
    assert contents(run) == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_refused_run_leaves_no_folder(options, tmp_path):
    with pytest.raises(GtaError, match="batch-size"):
        train(options(out=str(tmp_path / "deep" / "run"), method="gta", weight="auto", batch_size=1))
    assert not list(tmp_path.iterdir())


def test_a_new_run_takes_the_old_ones_place_with_its_first_checkpoint(options, run, tmp_path, monkeypatch):
    seen = []
    save = Checkpoints.save_checkpoint

    def watched(self, checkpoint, path, storage_options=None):
        save(self, checkpoint, path, storage_options)
        seen.append((read_options(run).seed, sorted(p.name for p in tmp_path.iterdir())))

    monkeypatch.setattr(Checkpoints, "save_checkpoint", watched)
    train(options(out=str(run), seed=5), overwrite=True)
    assert seen == [(0, [".run.lock", ".run.new", "run"]), (5, [".run.lock", "run"])]
    assert load_weights(run)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_notes_in_a_run_are_never_deleted(options, run):
    (run / "notes.md").write_text("mine")
    before = contents(run)
    with pytest.raises(GtaError, match=r"notes\.md"):
        train(options(out=str(run)), overwrite=True)
    assert contents(run) == before


def test_a_config_alone_makes_no_run(options, tmp_path):
    (tmp_path / "config.yaml").write_text((Path(options().out) / "config.yaml").read_text())
    for more in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(GtaError, match="that gta wrote"):
            train(options(out=str(tmp_path)), **more)
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


def test_a_folder_in_use_is_refused(options, run):
    with RunFolder(run, resume=True, overwrite=False).held(), pytest.raises(GtaError, match="in use by"):
        train(options(out=str(run)), overwrite=True)


def test_files_of_two_runs_are_no_run(options, run, tmp_path):
    other = tmp_path / "other"
    train(options(out=str(other), seed=3))
    for name in ("model.safetensors", "results.json", "config.yaml"):
        own = (run / name).read_bytes()
        (run / name).write_bytes((other / name).read_bytes())
        with pytest.raises(GtaError, match=f"{name} is not of the run"):
            load_weights(run)
        with pytest.raises(GtaError, match=r"is not of the run|was given"):
            train(options(out=str(run)), resume=True)
        (run / name).write_bytes(own)
    (run / "results.json").unlink()
    (run / "last.ckpt").write_bytes((other / "last.ckpt").read_bytes())
    with pytest.raises(GtaError, match=r"last\.ckpt is of another run"):
        train(options(out=str(run)), resume=True)


def test_one_flipped_bit_is_noticed(run, options):
    for name, use in (
        ("model.safetensors", lambda: load_weights(run)),
        ("last.ckpt", lambda: train(options(out=str(run)), resume=True)),
    ):
        if name == "last.ckpt":
            (run / "results.json").unlink()
        whole = (run / name).read_bytes()
        for place in (len(whole) // 3, len(whole) // 2):
            (run / name).write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
            with pytest.raises(GtaError, match=f"{name} cannot be read"):
                use()
        (run / name).write_bytes(whole)
        use()


def test_moved_data_is_known_by_its_digest(options, run, tmp_path):
    (run / "results.json").unlink()  # as if stopped before the end
    moved = write_photos(tmp_path / "moved", {"train": 4, "val": 1, "test": 1}, masks=False)
    assert train(options(out=str(run), data=str(moved)), resume=True)["test_top1"] is not None
    assert read_options(run).data == str(moved)
    other = write_photos(tmp_path / "other", {"train": 5, "val": 1, "test": 1}, masks=False)
    with pytest.raises(GtaError, match="training images and validation images are not those"):  # complete or not
        train(options(out=str(run), data=str(other)), resume=True)


def test_a_run_that_diverges_in_its_last_step_is_not_complete(options, tmp_path, monkeypatch):
    """The checkpoint of the epoch before it is finite, and becomes the model where that is asked for."""
    out = tmp_path / "run"
    step = torch.optim.AdamW.step

    def break_in(last: int) -> None:
        def broken(self, *args, **more):
            loss = step(self, *args, **more)
            self.count = getattr(self, "count", 0) + 1
            if self.count == last:
                self.param_groups[0]["params"][0].data.fill_(torch.nan)
            return loss

        monkeypatch.setattr(torch.optim.AdamW, "step", broken)

    break_in(4)  # of 2 epochs of 2 steps
    with pytest.raises(Diverged, match="no longer finite"):
        train(options(out=str(out)))
    assert "no longer finite" in (out / DIVERGED).read_text()
    assert not {"results.json", "model.safetensors"} & {p.name for p in out.iterdir()}
    monkeypatch.undo()
    with pytest.raises(Diverged):  # it stays so
        train(options(out=str(out)), resume=True)
    with pytest.raises(GtaError, match="diverged"):
        train(options(out=str(out)))
    break_in(2)  # of the second epoch, which is gone on with
    results = train(options(out=str(out)), resume=True, keep_finite=True)
    assert "no longer finite" in results["diverged"]
    kept = torch.load(out / "last.ckpt", weights_only=True)["state_dict"]
    for name, tensor in load_file(out / "model.safetensors").items():
        assert torch.equal(tensor, kept[f"method.model.{name}"])
    assert not (out / DIVERGED).exists()


def test_measures_that_are_not_finite_make_no_result(options, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "evaluate", lambda *_, **__: {"val_loss": float("nan"), "test_top1": 3.0})
    with pytest.raises(Diverged, match="val_loss nan"):
        train(options(out=str(tmp_path / "run"), epochs=1))
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize("name", ["results.json", "gta.json", "config.yaml", "model.safetensors", "last.ckpt"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00\xfe", b"[" * 100_000])
def test_damaged_files_are_named(options, run, name, content):
    (run / name).write_bytes(content)
    if name == "last.ckpt":
        (run / "results.json").unlink()
    for use in (lambda: train(options(out=str(run)), resume=True), lambda: load_weights(run)):
        if name == "last.ckpt" and use.__code__.co_names[0] == "load_weights":
            continue
        with pytest.raises(GtaError, match=name):
            use()


def test_results_are_json_always(run):
    text = (run / "results.json").read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(word))


def test_names_that_are_no_utf8_end_in_a_complete_run(options, tmp_path):
    data = write_photos(tmp_path / "photos", {"train": 4, "val": 1, "test": 1}, masks=False)
    strange = os.fsdecode(b"caf\xe9")
    for split in ("train", "val", "test"):
        (data / split / "class 0").rename(data / split / strange)
    (data / "test" / "class 1" / "000.jpg").rename(data / "test" / "class 1" / os.fsdecode(b"\xff.jpg"))
    run = tmp_path / "run"
    train(options(data=str(data), out=str(run), epochs=1))
    assert load_weights(run)[1]["classes"] == sorted(["class 1", "class 2", strange])
    assert {row["label"] for row in read_csv(run / "predictions.csv")} == {"class 1", "class 2", strange}
    assert write_report([run]).is_file()
    assert train(options(data=str(data), out=str(run), epochs=1), resume=True)["classes"] == 3


def test_a_test_image_that_is_deleted_while_it_trains_is_named_and_the_run_can_go_on(options, tmp_path, monkeypatch):
    data = write_photos(tmp_path / "photos", {"train": 4, "val": 1, "test": 1}, masks=False)
    image = data / "test" / "class 1" / "000.jpg"
    whole = image.read_bytes()
    settle = RunFolder.settle

    def meanwhile(self: RunFolder) -> None:
        settle(self)
        image.unlink(missing_ok=True)

    monkeypatch.setattr(RunFolder, "settle", meanwhile)
    given = options(data=str(data), out=str(tmp_path / "run"))
    with pytest.raises(FileNotFoundError) as told:
        train(given)
    assert str(image) in str(told.value)
    monkeypatch.undo()
    image.write_bytes(whole)
    assert train(given, resume=True)["test_images"] == 3


def test_a_full_disk_leaves_no_half_written_file(options, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gta.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train(options(out=str(tmp_path / "run")))
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    torch_save = torch.save

    def half(content: object, file: object) -> None:
        torch_save(content, file)
        full()

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match=r"last\.ckpt"):
        train(options(out=str(tmp_path / "run")))
    assert not list(tmp_path.iterdir())
