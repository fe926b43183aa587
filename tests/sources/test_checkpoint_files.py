"""Checkpoint files and folders: what is read from them, and what is refused unread."""

from __future__ import annotations

import argparse
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import gta
from tests.conftest import tiny_vit
from tests.sources import originals as o
from tests.sources.test_checkpoints import agrees, plain, prefixed, refusal, written


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_folder_as_timm_saves_it(tmp_path, ending):
    """`timm.models.save_for_hf`: config.json beside the weights; it names the architecture and the channels."""
    model = tiny_vit(num_classes=0).eval()
    if ending == "safetensors":
        save_file(model.state_dict(), tmp_path / "model.safetensors")
    else:
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    args = {"img_size": 40, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2}
    config = {
        "architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": args,
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "input_size": [3, 40, 40]},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = gta.load_source(tmp_path)
    assert torch.equal(source(o.images()), model(o.images()))
    assert (source.info.architecture, source.info.std) == ("vit_tiny_patch16_224", (0.25,) * 3)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(gta.GtaError, match=r"config\.json cannot be read"):
        gta.load_source(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(gta.GtaError, match=r"folder without model\.safetensors"):
        gta.load_source(tmp_path / "empty")


def test_values_beside_the_weights_do_no_harm(tmp_path):
    """Paths among Lightning's hyper-parameters, numpy's numbers among the results."""
    w = plain()
    more = {"hyper_parameters": {"data": tmp_path}, "best": np.float64(3.0), "epoch": np.int64(7)}
    agrees(written(tmp_path / "l.ckpt", {"state_dict": prefixed(w, "model."), **more}),
           o.plain_tokens(w, o.images()), "plain")  # fmt: skip


class Exploding:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["b.pth", "b.pt", "b.ckpt", "b.bin", "b.pth.tar", "raw.ckpt", "inside.pth"])
def test_pickles_that_run_code_are_refused_unrun(tmp_path, name):
    bomb, path = Exploding(tmp_path / "exploded"), tmp_path / name
    if name.startswith("raw"):
        path.write_bytes(pickle.dumps(bomb))
    else:
        bag = argparse.Namespace(inside=bomb) if name.startswith("inside") else bomb
        torch.save({"state_dict": plain(), "args": bag}, path)
    assert "never run" in refusal(path)
    assert name.startswith("raw") or "it holds getattr" in refusal(path)
    assert not (tmp_path / "exploded").exists()


def test_arrays_of_objects_are_refused_unrun(tmp_path):
    np.savez(tmp_path / "b.npz", **{"embedding/kernel": np.array([Exploding(tmp_path / "exploded")], dtype=object)})
    assert "never run" in refusal(tmp_path / "b.npz")
    assert not (tmp_path / "exploded").exists()
    (tmp_path / "no.npz").write_bytes(b"no archive")
    assert "cannot be read as plain tensors" in refusal(tmp_path / "no.npz")


@pytest.mark.parametrize("ending", ["pth", "npz"])
def test_zip_bombs_are_refused_unopened(tmp_path, ending, monkeypatch):
    path = tmp_path / f"bomb.{ending}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl" if ending == "pth" else "embedding/kernel.npy", bytes(64 << 20))
    monkeypatch.setattr(torch, "load", None)  # not even called
    monkeypatch.setattr(np, "load", None)
    told = refusal(path)
    assert "would take 67,108,864" in told
    assert "it is compressed" in told


def test_tensors_that_claim_more_than_the_file_holds_are_refused(tmp_path):
    """A stride of zero makes a terabyte of four bytes."""
    path = written(tmp_path / "wide.pth", plain() | {"huge": torch.zeros(1).expand(1 << 40)})
    assert "would take 4,398" in refusal(path)


def test_an_array_that_claims_terabytes_is_refused(tmp_path):
    np.savez(tmp_path / "lie.npz", **{"embedding/kernel": np.zeros(3, dtype=np.float32)})
    with zipfile.ZipFile(tmp_path / "lie.npz") as archive:
        content = archive.read("embedding/kernel.npy")
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.writestr("embedding/kernel.npy", content.replace(b"(3,), }" + b" " * 14, b"(1099511627776,), }  "))
    assert "cannot be read as plain tensors (MemoryError" in refusal(tmp_path / "lie.npz")


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda t: t.to("meta"), lambda t: t[:0]])
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path, change):
    w = plain()
    w["patch_embed.proj.weight"] = change(w["patch_embed.proj.weight"])
    assert "empty" in refusal(written(tmp_path / "t.pth", w))


def test_a_truncated_safetensors_and_a_depth_of_a_million_are_refused(tmp_path):
    save_file(plain(), tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "fetch it again" in refusal(tmp_path / "cut.safetensors")
    deep = plain() | {"blocks.999999.norm1.weight": torch.ones(3)}
    assert "numbers a block 999,999" in refusal(written(tmp_path / "deep.pth", deep))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_in_every_layout(tmp_path, value):
    for name, w in (("n.npz", o.random_tensors(o.jax_shapes())), ("n.safetensors", plain())):
        w["norm.weight" if "norm.weight" in w else "Transformer/encoder_norm/scale"][3] = value
        told = refusal(written(tmp_path / name, w))
        assert "NaN or infinity, norm.weight" in told


def test_a_checkpoint_inside_of_itself_ends(tmp_path):
    content: dict = {}
    content["model"] = content
    torch.save(content, tmp_path / "own.pth")
    assert "wrappers inside of wrappers" in refusal(tmp_path / "own.pth")


GOOD = {"img_size": 40, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2}


@pytest.mark.parametrize(
    "args",
    [
        json.dumps({**GOOD, "checkpoint_path": "/etc/passwd"}),
        json.dumps({**GOOD, "pretrained": True}),
        json.dumps({**GOOD, "features_only": True}),
        json.dumps({**GOOD, "depth": 100_000}),
        json.dumps({**GOOD, "embed_dim": 1e300}),
        json.dumps({**GOOD, "patch_size": 0}),
        json.dumps({**GOOD, "patch_size": [0, 0]}),
        json.dumps({**GOOD, "patch_size": -8}),
        json.dumps({**GOOD, "num_heads": 0}),
        json.dumps({**GOOD, "act_layer": "nothing"}),
        json.dumps({**GOOD, "norm_layer": 7}),
        json.dumps({**GOOD, "img_size": "x"}),
        "[" * 100_000,
        "7",
    ],
)
def test_metadata_builds_a_vit_or_nothing(tmp_path, args, monkeypatch):
    import timm

    create = timm.create_model

    def watched(*given, **more):
        assert not {"checkpoint_path", "features_only"} & more.keys()
        assert not more.get("pretrained")
        return create(*given, **more)

    monkeypatch.setattr(timm, "create_model", watched)
    path = tmp_path / "s.safetensors"
    save_file(tiny_vit(num_classes=0).state_dict(), path, {"architecture": "vit_tiny_patch16_224", "model_args": args})
    assert refusal(path)


def test_an_unknown_architecture_is_said_and_kept(tmp_path):
    path = tmp_path / "s.safetensors"
    save_file(tiny_vit(num_classes=0).state_dict(), path, {"architecture": "vit_of_ours"})
    with pytest.warns(UserWarning, match=r"'vit_of_ours' that timm lacks: read as .* with 2 heads"):
        source = gta.load_source(path)
    assert "vit_of_ours" in source.info.notes[0]


def test_a_file_that_may_not_be_read_is_not_absent(tmp_path, monkeypatch):
    save_file(tiny_vit(num_classes=0).state_dict(), tmp_path / "s.safetensors")
    opened = Path.open

    def refusing(self, *given, **more):
        if self.name == "s.safetensors":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *given, **more)

    monkeypatch.setattr(Path, "open", refusing)
    assert "s.safetensors cannot be read: Permission denied" in refusal(tmp_path / "s.safetensors")
