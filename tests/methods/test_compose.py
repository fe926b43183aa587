"""Methods at work: each changes training in the direction it promises, they compose, and their runs can be resumed."""

from __future__ import annotations

import copy
import csv
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import gta
from gta.cli import main
from gta.methods import METHODS, method_names
from gta.methods.base import Method
from gta.methods.compose import ComposedMethod, complete_settings, make_methods
from gta.methods.lp_ft import ProbeThenTune
from gta.training.optimiser import parameter_groups
from gta.training.options import TrainOptions
from gta.training.recorder import Recorder
from gta.vit.capture import run_and_capture
from gta.vit.structure import vit_info
from tests.conftest import TINY, spread, tiny_vit, write_photos

B, OLD = 6, 11
LABELS = torch.tensor([0, 1, 2, 1, 0, 2])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Photographs, and a source with drop-path and a classifier of its own."""
    root = tmp_path_factory.mktemp("world")
    data = write_photos(root / "photos", {"train": 5, "val": 2, "test": 3})
    metadata = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": json.dumps({**TINY, "img_size": 40, "drop_path_rate": 0.3}),
    }
    save_file(tiny_vit(num_classes=OLD).state_dict(), root / "source.safetensors", metadata)
    save_file(tiny_vit(num_classes=OLD).state_dict(), root / "still.safetensors")  # no drop-path
    return data, root / "source.safetensors", root / "still.safetensors"


@pytest.fixture
def source(world):
    return gta.load_source(world[2])


@pytest.fixture
def images():
    return torch.randn(B, 3, 40, 40, generator=torch.Generator().manual_seed(1))


def tune(
    parts: list[Method], source: nn.Module, images: torch.Tensor, steps: int = 12, lr: float = 1e-3
) -> ComposedMethod:
    torch.manual_seed(0)
    composed = ComposedMethod(gta.new_target(source, 3), source, parts)
    composed.prepare(lambda: [(images, LABELS)])
    optimizer = torch.optim.AdamW(composed.parameters(), lr=lr)
    for step in range(steps):
        composed.begin_step(step, steps)
        done = composed(images, LABELS)
        (done.loss + done.penalty).backward()
        optimizer.step()
        optimizer.zero_grad()
    composed.finish()
    return composed


STRENGTHS = {
    "l2_sp": {"alpha": 10.0, "beta": 10.0},
    "delta": {"alpha": 1.0},
    "bss": {"eta": 1.0, "k": 3},
    "lwf": {"weight": 10.0},
    "co_tuning": {"weight": 10.0},
    "feature_kd": {"weight": 100.0},
    "gta": {"weight": 30.0},
    "attention_distill": {"weight": 30.0},
    "label_smoothing": {"share": 0.5},
}


def test_every_penalty_has_its_direction_tested():
    assert {name for name in METHODS if METHODS[name].adds()} == set(STRENGTHS)


@pytest.mark.parametrize("name", STRENGTHS)
def test_what_a_method_penalises_is_less_after_training_with_it(name, source, images):
    strong = STRENGTHS[name]
    weak = {k: v if k == "k" else 1e-9 for k, v in strong.items()}

    def left(values: dict[str, float]) -> float:
        """What the strong penalty finds in a model trained with another."""
        trained = tune([METHODS[name](**values)], source, images)
        judge = METHODS[name](**strong)
        again = ComposedMethod(trained.model, source, [judge])
        again.prepare(lambda: [(images, LABELS)])
        for own, learnt in zip(again.own.values(), trained.own.values(), strict=True):
            own.load_state_dict(learnt.state_dict())
        return again(images, LABELS).penalty.item()

    least = 0.0 if name not in ("co_tuning", "attention_distill") else floor(name, source, images, strong)
    assert left(strong) - least < 0.6 * (left(weak) - least)


def floor(name: str, source: nn.Module, images: torch.Tensor, values: dict[str, float]) -> float:
    """A cross-entropy's least value: the entropy of what it is held to."""
    part = METHODS[name](**values)
    composed = ComposedMethod(gta.new_target(source, 3), source, [part])
    composed.prepare(lambda: [(images, LABELS)])
    if name == "attention_distill":
        (maps,) = run_and_capture(source, images, [part.capture(vit_info(source))])
        shares = [s.float().softmax(-1) for s in maps]
        entropies = [-(s * s.clamp(min=1e-30).log()).sum(-1).mean() for s in shares]
        return part.weight * torch.stack(entropies).mean().item()
    wanted = part.relationship[LABELS]
    return part.weight * -(wanted * wanted.log()).sum(-1).mean().item()


@pytest.mark.parametrize("guide", ["attention", "msa", "block"])
def test_each_guide_holds_what_it_guides(guide, source, images):
    kind = METHODS["gta"]
    left = {}
    for weight in (1e-9, 1e4 if guide == "attention" else 10.0):
        trained = tune([kind(weight=weight, guide=guide)], source, images)
        left[weight] = ComposedMethod(trained.model, source, [kind(weight=1.0, guide=guide)])(
            images, LABELS
        ).penalty.item()
    weak, strong = left.values()
    assert strong < 0.6 * weak


def test_auto_keeps_the_drift_within_its_budget_whatever_the_learning_rate(source, images):
    guided = gta.guide(gta.new_target(source, 3), source)
    rows = guided.capture_source(images)
    units = guided.guidance.distances([row.roll(1, 0) for row in rows], rows)
    for lr in (1e-4, 1e-3):
        drift = {}
        for name, parts in (("plain", [METHODS["plain"]()]), ("auto", [METHODS["gta"](weight="auto")])):
            trained = tune(parts, source, images, steps=30, lr=lr)
            drift[name] = (gta.guide(trained.model, source).measure(images) / units).mean().item()
        assert drift["auto"] < 0.1 < drift["plain"]


TRAINED = {
    "linear_probe": r"head\.",
    "attention_only": r"head\.|blocks\.\d\.attn\.",
    "bitfit": r"head\.|.*\.bias$",
    "lora": r"head\.|blocks\.\d\.attn\.(qkv|proj)\.weight",
}


@pytest.mark.parametrize("name", TRAINED)
def test_frozen_parameters_stay_bit_identical_and_the_others_move(name, source, images):
    if name == "lora":
        pytest.importorskip("peft")
    torch.manual_seed(0)
    start = gta.new_target(source, 3).state_dict()
    end = tune([METHODS[name]()], source, images, steps=3).model.state_dict()
    assert start.keys() == end.keys()
    for key in start:
        assert torch.equal(start[key], end[key]) is (re.match(TRAINED[name], key) is None), key


def test_lp_ft_probes_and_then_tunes(source, images):
    composed = ComposedMethod(gta.new_target(source, 3), source, [ProbeThenTune(probe=0.3)])
    assert composed.restarts == [0.3]
    trains = []
    for step in range(10):
        composed.begin_step(step, 10)
        composed(images, LABELS).loss.backward()
        trains.append(composed.model.blocks[0].mlp.fc1.weight.grad is not None)
        composed.zero_grad()
    assert trains == [False] * 3 + [True] * 7


def test_wise_ft_ends_between_source_and_plain(source, images):
    plain = tune([METHODS["plain"]()], source, images, steps=3).model.state_dict()
    averaged = tune([METHODS["wise_ft"](alpha=0.25)], source, images, steps=3).model.state_dict()
    start = source.state_dict()
    for key in start:
        torch.testing.assert_close(averaged[key], 0.75 * start[key] + 0.25 * plain[key], rtol=1e-4, atol=1e-6)
    assert torch.equal(averaged["head.weight"], plain["head.weight"])


def test_lines_keeps_more_of_the_change_the_deeper_the_layer(source, images):
    plain = tune([METHODS["plain"]()], source, images, steps=3).model.state_dict()
    scaled = tune([METHODS["lines"](first=0.25)], source, images, steps=3).model.state_dict()
    start, depth = source.state_dict(), len(source.blocks)
    for key in start:
        layer = int(key.split(".")[1]) if key.startswith("blocks.") else depth - 1 if key.startswith("norm.") else 0
        share = 0.25 + 0.75 * layer / (depth - 1)
        expected = start[key] + share * (plain[key] - start[key])
        torch.testing.assert_close(scaled[key], expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(scaled["head.weight"], plain["head.weight"])


def test_ema_is_the_mean_that_its_formula_says(source, images):
    seen: list[torch.Tensor] = []

    class Spy(METHODS["plain"]):
        def begin_step(self, done, steps):
            seen.append(composed_head())

        def attach(self, target, source):
            nonlocal composed_head
            composed_head = lambda: target.head.weight.detach().clone()  # noqa: E731

        def finish(self, target):
            seen.append(composed_head())

    composed_head = lambda: torch.zeros(())  # noqa: E731
    averaged = tune([Spy(), METHODS["ema"](share=0.5)], source, images, steps=4)
    expected = seen[0]
    for weights in seen[1:]:
        expected = expected + (weights - expected) / (0.5 * 4)
    torch.testing.assert_close(averaged.model.head.weight.detach(), expected)
    assert not torch.equal(averaged.model.head.weight, seen[-1])


def test_drop_path_rises_linearly_and_acts_in_training_only(source, images):
    composed = ComposedMethod(gta.new_target(source, 3), source, [METHODS["drop_path"](rate=0.6)])
    blocks = composed.model.blocks
    rates = [(b.drop_path1.drop_prob, b.drop_path2.drop_prob) for b in blocks]
    assert rates == [pytest.approx((0.6 * i / (len(blocks) - 1),) * 2) for i in range(len(blocks))]
    assert composed.state_dict().keys() == ComposedMethod(gta.new_target(source, 3), source, []).state_dict().keys()
    composed.train()
    assert not torch.equal(composed.model(images), composed.model(images))
    composed.model.eval()
    assert torch.equal(composed.model(images), composed.model(images))


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].mixes()])
def test_mixed_batches_reach_the_source_and_keep_their_labels_sums(name, source, images):
    seen = []
    source.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    composed = ComposedMethod(spread(gta.new_target(source, 3)), source, [METHODS["gta"](), METHODS[name]()])
    composed.model.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(7)
    done = composed(images, LABELS)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], images)
    assert torch.equal(done.images, seen[0])
    torch.testing.assert_close(done.targets.sum(-1), torch.ones(B))
    assert done.penalty > 0
    done.loss.backward()
    assert composed.model.head.weight.grad.any()


def test_several_mixers_take_turns(source, images):
    composed = ComposedMethod(
        gta.new_target(source, 3), source, [METHODS[n]() for n in ("mixup", "cutmix", "transmix")]
    )
    torch.manual_seed(0)
    assert {type(composed._mixer()).__name__ for _ in range(30)} == {"Mixup", "CutMix", "TransMix"}


def test_a_schedule_at_zero_runs_no_source(source, images):
    composed = ComposedMethod(gta.new_target(source, 3), source, [METHODS["gta"](), METHODS["delta"]()], "release", 0.5)
    source.patch_embed.register_forward_hook(lambda *_: ran.append(1))
    for step, runs in ((0, 1), (3, 1), (5, 0), (9, 0)):
        ran: list[int] = []
        composed.begin_step(step, 10)
        penalty = composed(images, LABELS).penalty
        assert (len(ran), bool(penalty > 0)) == (runs, runs > 0)
        assert composed.current_weight() == (10.0 if runs else 0.0)


def test_composed_penalties_add_up(source, images):
    target = spread(gta.new_target(source, 3))
    alone = [ComposedMethod(target, source, [METHODS[n]()])(images, LABELS).penalty for n in ("gta", "l2_sp", "delta")]
    together = ComposedMethod(target, source, [METHODS[n]() for n in ("gta", "l2_sp", "delta")])(images, LABELS).penalty
    torch.testing.assert_close(together, sum(alone))
    halved = ComposedMethod(target, source, [METHODS[n]() for n in ("gta", "l2_sp", "delta")], "linear")
    halved.begin_step(5, 10)
    torch.testing.assert_close(halved(images, LABELS).penalty, together / 2)


def test_the_state_dict_has_no_trace_of_parts(source):
    composed = ComposedMethod(gta.new_target(source, 3), source, [METHODS[n]() for n in ("gta", "l2_sp", "lwf")])
    keys = {f"model.{k}" for k in composed.model.state_dict()} | {
        "own.lwf.weight",
        "own.lwf.bias",
    }
    assert set(composed.state_dict()) == keys
    assert composed.source is source
    twin = copy.deepcopy(source)
    composed.to(torch.float64)
    assert source.cls_token.dtype == torch.float64 != twin.cls_token.dtype


# --- options --------------------------------------------------------------------------------------------------


def options(**more: object) -> TrainOptions:
    return TrainOptions(data="x", out="y", **more)


def test_layer_decay_scales_each_block(source):
    model = gta.new_target(source, 3)
    plain = parameter_groups(model, options(lr=1e-3))
    assert [(g["lr"], g["weight_decay"]) for g in plain] == [(1e-3, 0.0), (1e-3, 0.05), (1e-2, 0.0), (1e-2, 0.05)]
    groups = parameter_groups(model, options(lr=1e-3, layer_decay=0.5))
    rates = {id(p): g["lr"] / 1e-3 for g in groups for p in g["params"]}
    expected = {"head.weight": 10, "norm.weight": 1, "blocks.2.mlp.fc1.weight": 0.5, "blocks.0.norm1.bias": 0.125,
                "cls_token": 0.0625, "patch_embed.proj.weight": 0.0625}  # fmt: skip
    for name, parameter in model.named_parameters():
        if name in expected:
            assert rates[id(parameter)] == pytest.approx(expected[name]), name
    assert len(rates) == len(list(model.parameters()))
    assert groups[0]["lr"] == 1e-3  # the recorder writes the first group's


@pytest.mark.parametrize(
    ("method", "words"),
    [("magic", "'magic' is not known"), ("gta+gta", "twice"), ("plain+gta", "write gta"), ("gta+", "'' is not known")],
)
def test_names_that_are_no_method_are_refused(method, words):
    with pytest.raises(gta.GtaError, match=re.escape(words)):
        method_names(method)
    with pytest.raises(gta.GtaError):
        options(method=method)


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("gta", {"l2_sp": {"alpha": 1}}, "--l2_sp.alpha: --method gta does not have l2_sp"),
        ("l2_sp", {"l2_sp": {"gamma": 1}}, "it has alpha, beta"),
        ("l2_sp", {"l2_sp": {"alpha": "much"}}, "write a number, such as 0.01"),
        ("bss", {"bss": {"k": 1.5}}, "write a whole number"),
        ("gta", {"gta": {"weight": 1}}, "it has none"),
        ("gta", {"magic": {"weight": 1}}, "not an option of the method 'magic'"),
    ],
)
def test_options_that_a_method_does_not_take_are_refused(method, settings, words):
    with pytest.raises(gta.GtaError) as refusal:
        complete_settings(method, settings)
    assert words in str(refusal.value)


def test_options_are_completed_with_their_defaults():
    assert complete_settings("gta+l2_sp", {"l2_sp": {"alpha": "1e-3"}}) == {"l2_sp": {"alpha": 0.001, "beta": 0.01}}
    parts = make_methods(options(method="gta+bss", weight=3.0, guide="msa", settings={"bss": {"k": 2}}))
    assert [repr(p) for p in parts][1] == "BSS(eta=0.001, k=2)"
    assert (parts[0].weight, parts[0].guide) == (3.0, "msa")
    with pytest.raises(gta.GtaError, match="nothing to act on"):
        make_methods(options(method="plain", weight_schedule="linear"))


@pytest.mark.parametrize("order", [("wise_ft", "lora"), ("lora", "wise_ft")])
def test_lora_is_merged_before_weights_are_averaged(order, source, images):
    pytest.importorskip("peft")
    torch.manual_seed(0)
    start = gta.new_target(source, 3).blocks[0].attn.qkv.weight.detach()
    alone = tune([METHODS["lora"]()], source, images, steps=3).model.blocks[0].attn.qkv.weight
    averaged = tune([METHODS[n]() for n in order], source, images, steps=3).model.blocks[0].attn.qkv.weight
    torch.testing.assert_close(averaged, (start + alone) / 2)
    with pytest.raises(gta.GtaError, match="nothing to pull"):
        ComposedMethod(gta.new_target(source, 3), source, [METHODS["l2_sp"](), METHODS["lora"]()])


@pytest.mark.parametrize("name", ["attention_distill", "transmix", "gta"])
def test_attention_that_is_not_fused_is_refused(name, source, images):
    composed = ComposedMethod(gta.new_target(source, 3), source, [METHODS[name]()])
    for block in composed.model.blocks:
        block.attn.fused_attn = False
    with pytest.raises(gta.GtaError, match="fused"):
        composed(images, LABELS)


def test_lora_and_other_choices_are_refused_together(source):
    with pytest.raises(gta.GtaError, match="lora and bitfit"):
        ComposedMethod(gta.new_target(source, 3), source, [METHODS["lora"](), METHODS["bitfit"]()])


def test_every_method_says_what_it_is(capsys):
    assert main(["methods", "--json"]) == 0
    listed = {row["method"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(METHODS)
    for name, row in listed.items():
        assert row["description"].endswith(".")
        assert row["paper"] or name in ("auto", "plain", "linear_probe")
    assert listed["l2_sp"]["options"] == {"--l2_sp.alpha": 0.01, "--l2_sp.beta": 0.01}
    assert main(["methods"]) == 0
    assert "a+b composes" in capsys.readouterr().out


# --- runs -----------------------------------------------------------------------------------------------------


def words(world: tuple[Path, ...], out: Path, *more: str) -> list[str]:
    return ["train", "--data", str(world[0]), "--source", str(world[1]), "--out", str(out), "--image-size", "40",
            "--epochs", "3", "--batch-size", "5", "--lr", "1e-3", *more]  # fmt: skip


def test_methods_own_options_reach_the_run_and_its_config(world, tmp_path):
    assert main(words(world, tmp_path / "run", "--method", "l2_sp+mixup", "--l2_sp.alpha", "0.5")) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["method"], results["l2_sp.alpha"], results["l2_sp.beta"]) == ("l2_sp+mixup", 0.5, 0.01)
    assert results["mixup.alpha"] == 0.8
    assert [results[k] for k in ("weight", "guide", "layers")] == [None] * 3
    config = str(tmp_path / "run" / "config.yaml")
    assert main(["train", "--config", config, "--l2-sp.beta", "0", "--out", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert (again["l2_sp.alpha"], again["l2_sp.beta"]) == (0.5, 0.0)


def test_options_of_another_method_leave_nothing(world, tmp_path, capsys):
    assert main(words(world, tmp_path / "run", "--method", "gta", "--l2_sp.alpha", "0.5")) == 2
    assert "gta+l2_sp" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "method",
    [
        ("gta+lp_ft+transmix+lwf", "--weight", "auto", "--weight-schedule", "cosine", "--lp_ft.probe", "0.5"),
        ("co_tuning+lora+mixup+cutmix", "--weight-schedule", "warmup"),
    ],
    ids=["auto", "co_tuning"],
)
def test_a_stopped_run_ends_with_the_same_weights(method, world, tmp_path, monkeypatch):
    if "lora" in method[0]:
        pytest.importorskip("peft")
    more = ("--method", *method)
    assert main(words(world, tmp_path / "whole", *more)) == 0
    save = Recorder.on_train_epoch_end

    def stop(self, trainer, pl_module):
        save(self, trainer, pl_module)
        raise KeyboardInterrupt

    for _ in range(2):
        monkeypatch.setattr(Recorder, "on_train_epoch_end", stop)
        assert main(words(world, tmp_path / "stopped", *more, "--resume")) == 130
    monkeypatch.undo()
    assert main(["train", "--out", str(tmp_path / "stopped"), "--resume"]) == 0
    whole, stopped = (load_file(tmp_path / f / "model.safetensors") for f in ("whole", "stopped"))
    assert all(torch.equal(whole[k], stopped[k]) for k in whole)
    rows = [list(csv.DictReader((tmp_path / f / "metrics.csv").open())) for f in ("whole", "stopped")]
    assert [r["loss"] + r["penalty"] + r["weight"] for r in rows[0]] == [
        r["loss"] + r["penalty"] + r["weight"] for r in rows[1]
    ]
    if "gta" in method[0]:
        weights = [float(r["weight"]) for r in rows[0]]
        assert len(set(weights)) == len(weights) > 3  # a new one in each step
        final = json.loads((tmp_path / "stopped" / "results.json").read_text())["final_weight"]
        assert final == weights[-1]
