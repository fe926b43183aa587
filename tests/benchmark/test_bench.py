"""What `gta bench` counts, by hand; that rows do the same work; and the command. No time is asserted."""

from __future__ import annotations

import gc
import json
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from gta import GtaError
from gta.benchmark import bench as bench_file
from gta.benchmark import growth, meters, steps
from gta.benchmark.meters import MemoryTracker, compared, flops, interleaved, line_through, saved_bytes
from gta.benchmark.options import Bench
from gta.benchmark.rows import BOUNDED, ROWS, Row, unfused, unfused_rows
from gta.benchmark.setting import COUNTED, Setting, make_setting, transformers_peers
from gta.benchmark.steps import training_steps
from gta.benchmark.whole_maps import whole_maps
from gta.cli import main
from gta.report.benchmark import bounds
from gta.vit.structure import vit_info
from tests.conftest import HAS_COMPILER, reference_rows, tiny_vit

CPU = torch.device("cpu")
# the tiny ViT: width, patches, tokens, layers, heads, head width, values of a patch
C, N, T, L, H, D, P = 128, 25, 26, 3, 2, 64, 3 * 8 * 8


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(meters, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def options(source_file):
    return Bench(source=str(source_file), image_size=40, batch_size=3, rounds=2, precision="32", full_size=40)


@pytest.fixture
def setting(options):
    return make_setting(options)


# --- meters ---------------------------------------------------------------------------------------------------


def test_every_round_runs_each_work_once_and_begins_with_the_next():
    ran: list[str] = []
    seconds = interleaved({name: lambda name=name: ran.append(name) for name in "abc"}, 4, CPU)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 4, "b": 4, "c": 4}
    assert "".join(ran[-12:]) == "abcbcacababc"


def test_ratios_are_those_of_the_rounds():
    found = compared([2.0, 6.0, 3.0], [1.0, 2.0, 2.0])
    assert found == {"seconds": [2.0, 6.0, 3.0], "median_seconds": 3.0, "ratio": 2.0, "low": 1.5, "high": 3.0}


def test_tracked_bytes_by_hand():
    """100 floats are there before; 1000 and 500 live together, then 500 and 300."""
    there = torch.zeros(100)
    with MemoryTracker() as memory:
        large = torch.zeros(1000)
        view = large[10:].view(-1)  # no storage of its own
        small = there[:50].repeat(10)
        del large, view
        last = torch.zeros(300)
        there.add_(1)
    assert (memory.peak, memory.now) == (4 * 1500, 4 * 800)
    del small, last


def test_tracked_bytes_follow_the_backward_pass():
    """sum of exp: the result is saved (4 kB), its gradient is as large once more; the sum and its gradient are 4 B."""
    x = torch.zeros(1000, requires_grad=True)
    with MemoryTracker() as memory:
        x.exp().sum().backward()
    assert 8000 <= memory.peak <= 8016
    assert memory.now == 4000  # x.grad


def test_counting_what_is_saved_keeps_nothing_of_it():
    alive = []

    def forward():
        hidden = (torch.randn(3, 4, requires_grad=True) * 2).tanh()  # tanh saves its own output
        alive.append(weakref.ref(hidden))
        return hidden * 3

    gc.disable()
    try:
        saved_bytes(forward, [])
        assert alive[0]() is None
    finally:
        gc.enable()


def test_saved_bytes_by_hand():
    """A product keeps both its factors, tanh its result; the weight is a parameter, and nothing counts twice."""
    weight, x = nn.Parameter(torch.zeros(7, 7)), torch.zeros(5, 7)
    assert saved_bytes(lambda: (x @ weight).tanh() + x @ weight, [weight]) == 4 * (35 + 35)


def test_flops_count_attention_multiplied_out():
    """Two products forward, four backward, of 2·N·N·d each, though a fused kernel multiplies a fifth time backward."""
    q, k, v = (torch.randn(1, 2, 11, 16, requires_grad=True) for _ in range(3))

    def attend():
        nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()

    assert flops(attend) == 6 * 2 * 2 * 11 * 11 * 16


def test_a_line_by_hand():
    """Through (0, 1), (1, 2), (2, 6): slope 5/2, intercept 1/2, residuals 1/2, -1, 1/2; mean 3, variation 14."""
    line = line_through([0, 1, 2], [1, 2, 6])
    assert line == pytest.approx({"intercept": 0.5, "slope": 2.5, "r2": 1 - 1.5 / 14, "residual": 0.5**0.5 / 3})


# --- rows -----------------------------------------------------------------------------------------------------


def test_unfused_rows_are_the_textbooks_and_the_model_is_left_as_it_was():
    model, images = tiny_vit().eval(), torch.randn(2, 3, 40, 40)
    logits, rows = unfused_rows(unfused(model), images, [0, 2])
    wanted = reference_rows(model, images)
    for row, layer in zip(rows, (0, 2), strict=True):
        torch.testing.assert_close(row, wanted[layer].float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-5)
    assert all(block.attn.fused_attn for block in model.blocks)
    assert {id(p) for p in unfused(model).parameters()} == {id(p) for p in model.parameters()}


def test_every_row_is_measured_and_those_that_must_compute_the_same_do(setting):
    pytest.importorskip("transformers")
    found = training_steps(setting, rounds=2)
    rows = found["rows"]
    assert list(rows) == [name for name in ROWS if name != "gta compiled" or HAS_COMPILER]
    off = {name: r["penalty_off"] for name, r in rows.items() if r["penalty_off"]}
    assert set(off) == {"gta", "gta compiled", "gta reuse", "unfused hooks"} & set(rows)
    # the source may run in lower precision, and is stored in half
    assert all(list(of) == ["float32"] for of in off.values())
    assert all(of["float32"] < (1e-4 if name == "unfused hooks" else 0.01) for name, of in off.items())
    assert all(len(r["seconds"]) == 2 for r in rows.values())
    saved = {name: r["saved_bytes"] for name, r in rows.items()}
    assert saved["plain"] < min(saved["gta"], saved["unfused hooks"])
    assert all(r["peak_bytes"] > 0 for r in rows.values())
    weights = sum(p.numel() for p in setting.source.parameters()) * 4
    assert rows["plain"]["source_bytes"] == 0
    assert weights <= rows["gta"]["source_bytes"] < 2 * weights
    assert rows["output_attentions"]["against"] == "transformers plain"
    for name in ("unfused plain", "transformers plain"):  # the same products
        assert rows[name]["flops_ratio"] == pytest.approx(1)
    if HAS_COMPILER:
        assert rows["gta compiled"]["flops_ratio"] == rows["gta"]["flops_ratio"]


def test_flops_and_their_floor_by_hand(setting):
    """A block: q, k, v, their attention, its projection, an MLP four times as wide. Backward is twice forward, but
    for the patches' projection: nothing flows to the pixels."""
    found = training_steps(replace(setting, peers=None), rounds=2)
    stem, block, classifier = 2 * N * P * C, 24 * T * C * C + 4 * T * T * C, 2 * C * 10
    plain = 2 * stem + 3 * (L * block + classifier)
    source = stem + (L - 1) * block + 2 * C * C * (1 + N)  # q of [cls], k of the patches
    rows = 4 * L * H * 2 * N * D  # of the source, of the target, backward to q and to k
    floor = found["floor"]
    assert (floor["plain_flops"], floor["source_flops"], floor["rows_flops"]) == (plain, source, rows)
    assert floor["ratio"] == pytest.approx((plain + source + rows) / plain)
    ours, hooks = (found["rows"][name]["flops_ratio"] for name in ("gta", "unfused hooks"))
    assert floor["ratio"] <= ours < hooks == pytest.approx((plain + stem + L * block) / plain)


def test_a_new_row_is_a_function(setting, monkeypatch):
    """It multiplies a matrix more."""
    weight = torch.randn(13, 13)

    def one_more(setting: Setting) -> Row:
        plain = ROWS["plain"](setting)

        def forward(images, labels):
            _ = weight @ weight
            return plain.forward(images, labels)

        return Row("plain with something more", setting.target, forward)

    def too_large(setting: Setting) -> Row:
        def forward(images, labels):
            if len(images) > COUNTED:
                raise torch.cuda.OutOfMemoryError("20 GB more")
            return ROWS["plain"](setting).forward(images, labels)

        return Row("whole maps", setting.target, forward)

    few = {"plain": ROWS["plain"], "gta": ROWS["gta"], "more": one_more, "not here": lambda setting: None}
    monkeypatch.setattr(steps, "ROWS", {**few, "large": too_large})
    found = training_steps(replace(setting, peers=None), rounds=2)
    rows = found["rows"]
    assert list(rows) == ["plain", "gta", "more"]
    assert found["notes"][-1] == "large: left out, it does not fit into the GPU's memory"
    extra = rows["more"]["flops_per_image"] - rows["plain"]["flops_per_image"]
    assert extra == pytest.approx(2 * 13**3 / COUNTED)


def test_a_source_without_weights_is_measured_too(options):
    name = "random:vit_tiny_patch16_224"
    setting = make_setting(replace(options, source=name, image_size=48))
    assert setting.source.info.architecture == "vit_tiny_patch16_224"
    assert setting.images.shape == (3, 3, 48, 48)
    assert not any(p.requires_grad for p in setting.source.parameters())


@pytest.mark.parametrize(
    ("more", "kind", "prefix"),
    [
        ({}, "ViTForImageClassification", 1),
        ({"init_values": 1e-5}, "Dinov2ForImageClassification", 1),
        ({"init_values": 1e-5, "reg_tokens": 4}, "Dinov2WithRegistersForImageClassification", 5),
    ],
)
def test_transformers_models_have_the_targets_shape(more, kind, prefix):
    pytest.importorskip("transformers")
    model = tiny_vit(**more)
    target, source = transformers_peers(model, CPU)
    assert type(target).__name__ == type(source).__name__ == kind
    ours, theirs = vit_info(model), vit_info(target)
    assert (theirs.depth, theirs.heads, theirs.prefix_tokens) == (ours.depth, ours.heads, prefix)
    assert target(torch.randn(2, 3, 40, 40)).logits.shape == (2, 10)
    assert target.training
    assert not any(p.requires_grad for p in source.parameters())


def test_without_transformers_its_rows_are_left_out(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert make_setting(options).peers is None


# --- maps, growth, command ------------------------------------------------------------------------------------


def test_whole_maps_agree_and_take_less_memory(setting):
    found = whole_maps(setting, size=184, batch=2, rounds=2)
    assert found["tokens"] == 23 * 23
    assert found["less_memory"] > 2
    assert found["rows"]["naive"]["peak_bytes"] > 2 * H * (23 * 23) ** 2 * 4
    assert all(0 < error < 1e-4 for row in found["rows"].values() for error in row["off"].values())


def test_an_odd_size_is_refused_before_anything_is_measured(options):
    with pytest.raises(GtaError, match=r"--full-size 45 .* 8 px patches: write 40 or 48"):
        bench_file.bench(replace(options, full_size=45), say=pytest.fail)


def test_the_flops_of_rows_are_proportional_to_layers_and_to_tokens(setting, options):
    layers, tokens = growth.by_layers(setting, 2), growth.by_tokens(setting, options)
    assert layers["x"] == [1, 2, 3]
    assert [layers["rows"][f"rows {x}"]["flops_per_image"] for x in layers["x"]] == [
        4 * 2 * H * N * D * count for count in layers["x"]
    ]
    assert tokens["x"] == sorted(tokens["x"])
    assert N in tokens["x"]
    assert [tokens["rows"][f"rows {x}"]["flops_per_image"] for x in tokens["x"]] == [
        4 * 2 * H * n * D * L for n in tokens["x"]
    ]
    assert all(share < 1 / 3 for share in tokens["shares"])


def test_what_is_quick_measures_what_the_bounds_are_of(options, monkeypatch):
    asked = []
    monkeypatch.setattr(bench_file, "training_steps", lambda *given: asked.append(given[2]))
    for part in ("around_the_step", "whole_maps"):
        monkeypatch.setattr(bench_file, part, lambda *given: None)
    found = bench_file.bench(replace(options, quick=True), say=lambda what: None)
    assert list(found) == ["setting", "steps", "loop", "whole_maps"]
    assert asked == [BOUNDED]


def test_bounds_by_hand():
    seconds = {
        "plain": [3.0, 2.0], "plain as it comes": [9.0, 9.0], "unfused plain": [2.0, 2.0], "gta": [3.0, 2.4],
        "gta reuse": [3.0, 2.0], "unfused hooks": [4.0, 2.0],
    }  # fmt: skip
    steps = {name: {"seconds": times, "median_seconds": sum(times) / 2} for name, times in seconds.items()}
    steps["gta"]["penalty_off"] = {"float32": 1e-6, "bf16": 0.1}
    found = {
        "steps": {"rows": steps}, "loop": {"rows": {"gta train": {"waiting": 0.02}}},
        "whole_maps": {"rows": {"naive": {"ratio": 8.0}}, "less_memory": 40.0},
    }  # fmt: skip
    told = [(row["here"], row["met"]) for row in bounds(found)]
    assert told == [
        ("1.250", "NO"), ("1.100", "yes"), ("0.975", "yes"), ("1.000", "yes"), ("0.100", "NO"), ("0.020", "yes"),
        ("0.125", "NO"), ("0.025", "yes"),
    ]  # fmt: skip
    del steps["unfused hooks"]  # it did not fit into a GPU's memory
    assert len(list(bounds(found))) == len(told) - 1


def test_the_command_prints_tables_and_writes_them_with_a_picture(source_file, tmp_path, capsys):
    out = tmp_path / "deep" / "cost"
    words = f"--source {source_file} --image-size 40 --batch-size 2 --rounds 2 --full-size 40 --layers 0,-1"
    assert main(["bench", *words.split(), "--precision", "bf16", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("plain", "unfused hooks", "Floor", "Whole maps", "Growth with", "layers 0, 2"))
    text = (out / "bench.json").read_text()
    assert str(tmp_path) not in text  # a file's name, not where it lies
    found = json.loads(text)
    assert found["setting"]["layers"] == [0, 2]
    assert found["setting"]["precision"] == "bf16"
    ours, by_hand = (found["loop"]["rows"][name] for name in ("gta train", "by hand"))
    assert ours["ratio"] == compared(ours["seconds"], by_hand["seconds"])["ratio"]
    assert all(0 < row["waiting"] < 1 for row in (ours, by_hand))
    off = found["steps"]["rows"]["gta"]["penalty_off"]
    assert off["float32"] < 1e-4 < off["bf16"]
    page = (out / "bench.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Training step", "## The loop around the step", "## Whole maps", "## Growth with guided layers",
        "## Growth with patches", "## Bounds",
    ]  # fmt: skip
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")
    html = (out / "bench.html").read_text()
    assert all(f">{line[3:]}</h2>" in html for line in page.splitlines() if line.startswith("## "))
    assert len(list(out.iterdir())) == 4


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch_size": 1}, "--batch-size 1 .* 2 or more"),
        ({"rounds": 1}, "--rounds 1 .* 2 or more"),
        ({"precision": "16"}, "--precision 16 .* auto, 32 or bf16"),
        ({"layers": "some"}, "--layers some"),
    ],
)
def test_options_that_cannot_be_used_are_refused(wrong, words):
    with pytest.raises(GtaError, match=words):
        Bench(source="x", **wrong)
