"""The embedded source, and the demo from world to page."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import gta
from gta.attention.maps import logits_and_rows
from gta.attention.metrics import object_mass, patch_attention
from gta.cli import main
from gta.demo import run as demo
from gta.folders import mark
from gta.sources.info import source_info
from gta.sources.loading import EMBEDDED
from gta.worlds.butterflies import DOWNSTREAM, render, scenes, species


def test_the_embedded_source_is_small_and_looks_at_butterflies_it_never_saw():
    assert EMBEDDED["gta:butterflies"].stat().st_size < 4e6
    source = gta.load_source("gta:butterflies")
    info = source_info(source)
    assert (info.coverage, info.missing, info.image_size) == (1.0, (), 96)
    labels = torch.arange(12).repeat(4)
    images, masks = render(species(12, DOWNSTREAM + 77), labels, scenes(48, 77), torch.arange(48), 96, 5)
    mean, std = (torch.tensor(values)[:, None, None] for values in (info.mean, info.std))
    _, rows = logits_and_rows(source, (images / 255 - mean) / std)
    mass = object_mass(patch_attention(rows[-1], 1), masks.float(), (12, 12)).mean()
    assert mass > 2 * masks.float().mean()


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "WORLD", replace(demo.WORLD, classes=3, train=2, val=1, test=2))
    monkeypatch.setattr(demo, "COMMON", replace(demo.COMMON, batch_size=3))
    chosen = {name: {**choice, "epochs": 1, "lr": 1e-5} for name, choice in demo.CHOSEN.items()}
    monkeypatch.setattr(demo, "CHOSEN", chosen)


@pytest.mark.usefixtures("small")
def test_the_demo_from_world_to_page_and_on_to_more_seeds(tmp_path, capsys):
    out = tmp_path / "gta-demo"
    assert main(["demo", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("source", "plain", "gta", "object mass", "Jaccard", "drift", "report.html"))
    page = (out / "report.html").read_text()
    assert "The task" in page
    assert page.count('<img src="data:image/webp;base64,') == 2
    assert 'src="http' not in page
    assert "One try" not in page
    assert "gta demo --seeds 5" in page

    first = (out / "runs" / "gta-seed0" / "model.safetensors").stat().st_mtime_ns
    assert main(["demo", "--out", str(out), "--seeds", "2"]) == 0
    assert "95 % interval" in capsys.readouterr().out
    assert (out / "runs" / "gta-seed0" / "model.safetensors").stat().st_mtime_ns == first  # kept
    found = json.loads((out / "demo.json").read_text())
    accuracies = [[r["test_top1"] for r in found[m]] for m in ("gta", "plain")]
    assert found["test"]["difference"] == pytest.approx((sum(accuracies[0]) - sum(accuracies[1])) / 2)
    # both methods of a seed had the same images; the seeds had different ones
    digests = [[r["data_digest"] for r in found[m]] for m in ("gta", "plain")]
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[0][1]
    page = (out / "report.html").read_text()
    assert "<circle" in page


def test_the_difference_is_gtas_minus_plains_and_each_world_seeds_its_training(tmp_path, monkeypatch):
    accuracies = {"plain": [30.0, 50.0, 40.0], "gta": [40.0, 45.0, 60.0]}
    ran: list[tuple[str, int, str]] = []

    def fake(options, *, resume):
        ran.append((options.method, options.seed, options.data[-5:]))
        measures = dict.fromkeys(("source_object_mass", "source_jaccard"), 0.1)
        return {"test_top1": accuracies[options.method][options.seed], **measures}

    monkeypatch.setattr(demo, "train", fake)
    for name in ("draw_pictures", "write_report", "write_world"):
        monkeypatch.setattr(demo, name, lambda *_: None)
    found = demo.run_demo(str(tmp_path / "demo"), 3)
    assert found["test"]["difference"] == pytest.approx((10 - 5 + 20) / 3)
    assert ran == [(m, seed, f"seed{seed}") for seed in range(3) for m in ("plain", "gta")]


@pytest.mark.usefixtures("small")
def test_the_demo_refuses_what_it_must(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["demo", "--out", str(tmp_path), "--overwrite"]) == 2
    assert "no demo" in capsys.readouterr().err
    for name in ("data", "runs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.png").write_text("mine")
    for marked in (False, True):
        if marked:
            mark(tmp_path, demo.DEMO)
        assert main(["demo", "--out", str(tmp_path), "--overwrite"]) == 2
    assert "holds what gta did not write: data/mine.png, mine.txt, runs/mine.png" in capsys.readouterr().err
    assert all((tmp_path / name).exists() for name in ("mine.txt", "data/mine.png", "runs/mine.png"))
    assert main(["demo", "--out", str(tmp_path / "new"), "--seeds", "0"]) == 2
