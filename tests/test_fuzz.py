"""Whatever options, files and run folders hold, a user meets a sentence and exit code 2, never a traceback.

A few cases of each kind here; a campaign of any length:

    GTA_FUZZ=3000 pytest tests/test_fuzz.py --hypothesis-show-statistics
"""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("hypothesis", reason="needs hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gta
from gta.cli import main
from gta.data.manifest import listed
from gta.data.reading import read_photos, write_manifest
from gta.methods import METHODS
from gta.methods.compose import own_options
from gta.training import fit
from gta.training.options import TrainOptions
from tests.conftest import tiny_vit, write_photos

COUNT = int(os.environ.get("GTA_FUZZ", 12))
fuzz = settings(
    max_examples=COUNT,
    deadline=None,
    database=None,
    derandomize="GTA_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
# Text that means something to YAML, paths, terminals or numbers, and any text.
WORDS = (
    "nan inf -inf 1e400 -0 1e-400 0x10 1_000 null ~ true [] {} [1 {a: [[[[ !!python/name:os.system &a *a ../../x / . "
    "~root \\ % $HOME * ? auto all last none -1 0 1 2 3.5 9999999999999999999999 1e18 1,2 -1,0 , a+b gta+gta"
)
VALUES = st.one_of(
    st.sampled_from(WORDS.split()),
    st.integers().map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
)
PLAIN = st.one_of(VALUES, st.none(), st.booleans(), st.floats(), st.integers(-10, 300))
NESTED = st.recursive(
    PLAIN, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=3), of, max_size=3), max_leaves=4
)
ARGS = {"img_size": 40, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2}
ARGUMENTS = {
    *ARGS, "act_layer", "norm_layer", "class_token", "global_pool", "reg_tokens", "qkv_bias", "mlp_ratio",
    "init_values", "checkpoint_path", "pretrained", "in_chans",
}  # fmt: skip
FLAGS = sorted(field.name for field in fields(TrainOptions) if field.name not in ("out", "download"))
FLAGS += [f"{name}.{key}" for name in METHODS for key in own_options(name)]


def refused_or_done(call: Callable[[], Any]) -> None:
    """In Python: what is wrong outside is a GtaError, or an OSError that names its file."""
    told: Exception | None = None
    try:
        call()
    except (gta.GtaError, OSError) as error:
        told = error
    assert told is None or (str(told).strip() and (isinstance(told, gta.GtaError) or told.filename is not None))


def no_traceback(words: list[str]) -> None:
    """On the command line."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            status: Any = main(words)
        except SystemExit as stop:  # the parser's own
            status = stop.code
    assert status in (0, 1, 2), printed.getvalue()
    assert "Traceback" not in printed.getvalue(), printed.getvalue()


@st.composite
def damage(draw: st.DrawFn, whole: bytes) -> bytes:
    """Of a file's bytes: cut, overwritten, with something put in, or of another kind altogether."""
    at = draw(st.integers(0, max(0, len(whole) - 1)))
    some = draw(st.binary(max_size=16))
    return draw(
        st.sampled_from(
            [
                whole[:at],
                whole[:at] + some + whole[at + len(some) :],
                whole[:at] + some + whole[at:],
                whole[:at] + whole[at + 1 + len(some) :],
                whole[at:] + whole[:at],
                whole[:at] + bytes(min(64, len(whole) - at)) + whole[at + 64 :],
                some,
                some + whole,
                whole + some,
            ]
        )
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data folder, sources in three formats, and a finished run."""
    root = tmp_path_factory.mktemp("fuzz")
    write_photos(root / "photos", {"train": 3, "val": 1, "test": 1})
    model = tiny_vit(num_classes=0)
    about = {"architecture": "vit_tiny_patch16_224", "model_args": json.dumps(ARGS)}
    save_file(model.state_dict(), root / "source.safetensors", about)
    torch.save({"model": model.state_dict()}, root / "source.pth")
    np.savez(root / "source.npz", **{"embedding/kernel": np.zeros((8, 8, 3, 16), np.float32)})
    options = TrainOptions(
        data=str(root / "photos"), source=str(root / "source.safetensors"), out=str(root / "run"), image_size=40,
        epochs=1, batch_size=3, method="plain",
    )  # fmt: skip
    fit.train(options)
    write_manifest(str(root / "photos"), root / "list.txt")
    return root


class Reached(gta.GtaError):
    """All options were taken, and the data would be read now."""


@fuzz
@given(data=st.data())
def test_options(world, data):
    chosen = data.draw(st.lists(st.tuples(st.sampled_from(FLAGS), VALUES), max_size=4))
    words = [f"--{flag.replace('_', '-')}={value}" for flag, value in chosen]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "read_photos", lambda *_, **__: (_ for _ in ()).throw(Reached("reached")))
        no_traceback(["train", "--data", "x", "--out", str(world / "none"), *words])
    assert not (world / "none").exists()


@fuzz
@given(data=st.data())
def test_configs(world, data):
    whole = (world / "run" / "config.yaml").read_bytes()
    made = st.dictionaries(st.sampled_from(FLAGS) | st.text(), NESTED, max_size=4).map(lambda d: json.dumps(d).encode())
    (world / "config.yaml").write_bytes(data.draw(damage(whole) | made))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "read_photos", lambda *_, **__: (_ for _ in ()).throw(Reached("reached")))
        no_traceback(["train", "--config", str(world / "config.yaml"), "--out", str(world / "none"), "--data", "x"])


@fuzz
@given(data=st.data())
def test_tables(world, data):
    paths = ["train/class 0/000.jpg", "./train/class 1/001.jpg", "a", "b", "train", "..", "", "\0"]
    rows = st.lists(st.lists(st.sampled_from(paths) | VALUES, max_size=5).map(",".join), max_size=5).map("\n".join)
    heads = st.sampled_from(["path,label\n", "path,label,split,mask\n", "label,path\r\n", ""])
    content = (data.draw(heads) + data.draw(rows)).encode("utf-8", "surrogatepass")
    path = world / "photos" / "t.csv"
    path.write_bytes(data.draw(st.just(content) | damage(content)))
    refused_or_done(lambda: read_photos(path, skip_unreadable=data.draw(st.booleans())))
    path.unlink()


@fuzz
@given(data=st.data())
def test_manifests(world, data):
    (world / "changed.txt").write_bytes(data.draw(damage((world / "list.txt").read_bytes())))
    photos = read_photos(world / "photos")
    refused_or_done(lambda: listed(world / "changed.txt", photos.classes, photos.train))


@fuzz
@given(data=st.data())
def test_checkpoints(world, data):
    name = data.draw(st.sampled_from(["source.safetensors", "source.pth", "source.npz"]))
    path = world / f"changed{Path(name).suffix}"
    path.write_bytes(data.draw(damage((world / name).read_bytes())))
    refused_or_done(lambda: gta.load_source(path))


@fuzz
@given(data=st.data())
def test_metadata(world, data):
    keys = st.sampled_from(sorted(ARGUMENTS)) | st.text(max_size=5)
    more = data.draw(st.dictionaries(keys, NESTED, max_size=3))
    names = st.sampled_from(["vit_tiny_patch16_224", "resnet18", "eva02_tiny_patch14_224", "x"])
    about = {
        "architecture": data.draw(names | VALUES),
        "model_args": json.dumps({**ARGS, **more}),
        "mean": data.draw(st.just("0.5,0.5,0.5") | VALUES),
        "std": data.draw(st.just("0.5,0.5,0.5") | VALUES),
    }
    path = world / "metadata.safetensors"
    save_file(tiny_vit(num_classes=0).state_dict(), path, about)
    refused_or_done(lambda: gta.load_source(path))


@fuzz
@given(data=st.data())
def test_run_folders(world, data):
    shutil.rmtree(world / "changed", ignore_errors=True)
    run = shutil.copytree(world / "run", world / "changed")
    files = sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())
    name = data.draw(st.sampled_from(files))
    (run / name).write_bytes(data.draw(damage((run / name).read_bytes())))
    if data.draw(st.booleans()):
        (run / "results.json").unlink(missing_ok=True)
    image = str(next((world / "photos" / "test").rglob("*.jpg")))
    command = data.draw(
        st.sampled_from(
            [
                ["predict", str(run), image],
                ["evaluate", str(run)],
                ["train", "--out", str(run), "--resume"],
                ["attention", str(run), image, "--out", str(world / "a.png")],
                ["source", str(run)],
                ["report", str(run)],
            ]
        )
    )
    no_traceback(command)
