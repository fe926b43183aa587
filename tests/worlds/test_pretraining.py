"""scripts/pretrain_butterflies.py: every loss writes a source, and learns what it says."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from gta.sources.loading import load_source
from gta.studies.plan import PLANS, header, read_plan

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain_butterflies.py"
LOSSES = re.search(r"loss: Literal\[(.*?)\]", SCRIPT.read_text(encoding="utf-8")).group(1).replace('"', "").split(", ")
TINY = {"sizes": [32], "batch": 2, "kinds": 8}


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("lightly")
    spec = importlib.util.spec_from_file_location("pretrain_butterflies", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plan_has_a_source_of_every_loss_and_says_how_it_is_made():
    data = read_plan("pretraining").data
    assert [*data] == LOSSES
    made = [loss for loss in LOSSES if loss != "simclr"]  # whose source the package carries
    files = {loss: f"runs/sources/{loss}.safetensors" for loss in made}
    assert {of: data[of].options["source"] for of in data} == {"simclr": "gta:butterflies", **files}
    text = header(PLANS["pretraining"])
    assert f"for loss in {' '.join(made)};" in text
    flags = re.findall(r"--(\w+)", text.partition("pretrain_butterflies.py")[2].partition("\n")[0])
    assert {"loss", "out"} <= {*flags} <= {*re.findall(r"^    (\w+): ", SCRIPT.read_text(encoding="utf-8"), re.M)}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_the_body_and_writes_a_source(loss, script, tmp_path, capsys):
    out = tmp_path / "source.safetensors"
    script.main(str(out), loss, steps=[2], momentum=0.5, **TINY)
    torch.manual_seed(0)
    untrained = script._body(32).state_dict()
    trained = load_source(str(out)).state_dict()
    assert all(not torch.equal(trained[key].half(), untrained[key].half()) for key in untrained if "qkv.weight" in key)
    with safe_open(out, "pt") as file:
        told = json.loads(file.metadata()["pretraining"])
    assert (told["loss"], told["steps"], told["batch"]) == (loss, "2", "2")
    assert {"seconds", "object_mass", "nearest"} <= {*told}
    assert f"{loss}, step 2" in capsys.readouterr().out


def test_dinos_teacher_follows_by_the_momentum_and_gets_no_gradient(script):
    torch.manual_seed(0)
    model = script.DINO(script._body(32), teacher_temperature=0.04, momentum=0.75)
    before = model.learnt.pos_embed.clone()
    assert torch.equal(before, model.body.pos_embed)
    with torch.no_grad():
        model.body.pos_embed += 1
    model.after_step()
    torch.testing.assert_close(model.learnt.pos_embed, before + 0.25)
    model.loss(model(torch.rand(4, 3, 32, 32)), torch.zeros(2)).backward()
    assert model.body.pos_embed.grad is not None
    assert all(p.grad is None for p in model.teacher.parameters())


def test_mae_sees_a_quarter_of_the_patches_and_is_asked_for_the_rest(script):
    torch.manual_seed(0)
    model = script.MAE(script._body(32))
    lengths = []
    model.body.blocks[0].register_forward_hook(lambda _, given, out: lengths.append(given[0].shape[1]))
    given, wanted = model(torch.rand(2, 3, 32, 32))
    assert lengths == [1 + 4]  # of 16 patches
    assert given.shape == wanted.shape == (2, 12, 192)
    torch.testing.assert_close(wanted.mean(-1), torch.zeros(2, 12), atol=1e-5, rtol=0)
    torch.testing.assert_close(wanted.var(-1), torch.ones(2, 12), atol=1e-3, rtol=0)


def test_supervision_and_contrast_pair_the_two_views_of_a_butterfly(script):
    torch.manual_seed(0)
    labels = torch.tensor([2, 0])
    right = 50 * torch.eye(3)[labels].repeat(2, 1)
    supervised = script.Supervised(script._body(32), 3)
    assert supervised.loss(right, labels) < 1e-6 < supervised.loss(right, labels.flip(0))
    contrast = script.SimCLR(script._body(32), temperature=0.1)
    assert contrast.loss(right, labels) < 1e-3 < contrast.loss(right[[0, 2, 1, 3]], labels)
