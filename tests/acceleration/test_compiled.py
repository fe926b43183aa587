"""The source compiled: the same rows, again when anything that they depend on changes."""

from __future__ import annotations

import copy
import json

import pytest
import torch

import gta
import gta.acceleration.compiled as compiled_file
from gta import devices
from gta.acceleration import source_pass
from gta.acceleration.compiled import traced
from gta.cli import main as cli
from gta.methods.compose import ComposedMethod
from gta.methods.gta import GTA
from gta.vit.capture import run_and_capture
from tests.conftest import HAS_COMPILER, spread, tiny_vit

pytestmark = pytest.mark.skipif(
    not HAS_COMPILER, reason="torch.compile needs a C++ compiler on CPUs, and there is none"
)


@pytest.fixture
def images():
    torch.manual_seed(5)
    return torch.randn(4, 3, 40, 40)


@pytest.fixture
def traces(monkeypatch):
    """The shapes that a pass was traced for; graphs run as they are, which takes no compiler and no time."""
    shapes: list[torch.Size] = []

    def trace(run, images):
        shapes.append(images.shape)
        return traced(run, images)

    monkeypatch.setattr(compiled_file, "traced", trace)
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    return shapes


def pair(**options):
    source = tiny_vit(num_classes=0)
    return gta.guide(spread(copy.deepcopy(source), 0.02), source, **options)


def plain(guided, images):
    """The source's rows, nothing compiled or cast."""
    return run_and_capture(guided.source, images, [guided.guidance.capture(guided.guidance.source)])[0]


def close(ours, wanted, **tolerance):
    return all(torch.allclose(a.float(), b.float(), **tolerance) for a, b in zip(ours, wanted, strict=True))


@pytest.mark.parametrize("rows", ["cls", "patches"])
def test_compiled_rows_are_the_source_s(images, rows):
    guided = pair(source_compile=True, rows=rows)
    wanted = plain(guided, images)
    ours = guided.capture_source(images)
    assert [r.shape for r in ours] == [r.shape for r in wanted]
    assert not any(r.requires_grad for r in ours)
    assert close(ours, wanted, rtol=1e-4, atol=1e-5)
    penalty, same = (float(g(images)[1].detach()) for g in (guided, gta.guide(guided.model, guided.source, rows=rows)))
    assert penalty == pytest.approx(same, rel=1e-4)
    assert penalty > 0


def test_under_autocast_they_are_as_close_to_float32_as_those_of_eager_passes(images):
    guided, eager = pair(source_compile=True), pair()
    exact = plain(guided, images)
    with torch.autocast("cpu", torch.bfloat16):
        ours, wanted = guided.capture_source(images), eager.capture_source(images)

    def error(rows):
        return float(sum((a.float() - b.float()).square().sum() for a, b in zip(rows, exact, strict=True)))

    assert 0 < error(ours) < 2 * error(wanted)


def test_weights_are_constants_that_products_take_packed(images):
    """Where torch.compile does not take them so it casts them in every pass, and no product has a GELU in it."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no products in bf16")
    guided = pair(source_compile=True)
    with torch.autocast("cpu", torch.bfloat16):
        guided.capture_source(images)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            guided.capture_source(images)
    names = {event.key for event in seen.key_averages()}
    assert "mkldnn::_linear_pointwise" in names
    assert not names & {"aten::addmm", "aten::gelu", "aten::copy_"}


def test_the_graph_ends_at_the_last_guided_row(images):
    seen = []
    for layers in ("all", [0]):
        guided = pair(layers=layers)
        graph = traced(lambda images, guided=guided: plain(guided, images), images)
        seen.append(sum("addmm" in str(node.target) for node in graph.graph.nodes))
    depth = len(guided.source.blocks)
    assert seen == [4 * (depth - 1) + 1, 1]  # q, k and v; projection; two of the MLP


def test_a_pass_is_traced_once_and_anew_for_other_shapes_autocast_and_weights(images, traces):
    guided = pair(source_compile=True, source_precision="same")
    for _ in range(3):
        guided(images)
    assert len(traces) == 1
    assert close(guided.capture_source(images[:2]), plain(guided, images[:2]), rtol=1e-5, atol=1e-6)
    assert len(traces) == 2
    with torch.autocast("cpu", torch.bfloat16):
        guided(images)
    assert len(traces) == 3
    spread(guided.source, 0.05)
    assert close(guided.capture_source(images), plain(guided, images), rtol=1e-5, atol=1e-6)
    assert len(traces) == 4


def test_lowered_layers_are_compiled_apart_and_checked(images, traces, monkeypatch):
    monkeypatch.setattr(devices, "has_fast_bf16", lambda device: True)
    guided = pair(source_compile=True, source_precision="auto")
    exact = [float(guided(images)[1].detach()) for _ in range(5)]  # the fifth runs both ways
    assert len(traces) == 2
    assert guided.guidance.source_pass.lowered
    low = float(guided(images)[1].detach())
    assert low != exact[-1]
    assert low == pytest.approx(exact[-1], rel=0.01)
    assert len(traces) == 2


@pytest.mark.parametrize("guide", ["attention", "msa", "block"])
def test_the_ablations_compile_too(images, traces, guide, source_file):
    source = gta.load_source(source_file, image_size=40)
    target = spread(gta.new_target(source, 3), 0.02)
    penalties = []
    for compiled in (False, True):
        composed = ComposedMethod(target, source, [GTA(guide=guide, source_compile=compiled)])
        for step in range(2):
            composed.begin_step(step, 2)
            penalties.append(float(composed(images, torch.tensor([0, 1, 2, 0])).penalty))
    assert len(traces) == 1
    assert penalties == pytest.approx([penalties[0]] * 4, rel=1e-5)


def test_copies_compile_their_own_and_detached_guides_hold_nothing(images, traces):
    guided = pair(source_compile=True)
    guided(images)
    copied = copy.deepcopy(guided)
    assert guided.guidance.source_pass.copied_bytes() > 0
    assert copied.guidance.source_pass.copied_bytes() == 0  # no graphs with weights
    spread(copied.source, 0.02)
    assert close(copied.capture_source(images), plain(copied, images), rtol=1e-5, atol=1e-6)
    assert close(guided.capture_source(images), plain(guided, images), rtol=1e-5, atol=1e-6)
    assert len(traces) == 2
    guided.detach()
    assert float(guided(images)[1]) == 0


def test_what_cannot_be_compiled_is_refused(images, monkeypatch):
    guided = pair(source_compile=True)
    with pytest.raises(gta.GtaError, match="keywords of the forward"):
        guided(images, interpolate=True)
    with pytest.raises(gta.GtaError, match="compiled already"):
        gta.guide(guided.model, torch.compile(guided.source), source_compile=True)

    def broken(images):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(torch, "compile", lambda graph, **options: broken)
    with pytest.raises(gta.GtaError, match=r"RuntimeError no compiler\): leave --source-compile"):
        guided(images)


def test_training_compiles_where_it_is_told_to(photos, source_file, tmp_path, traces):
    words = ["train", "--method", "gta", "--data", str(photos), "--source", str(source_file), "--image-size", "40",
             "--epochs", "2", "--precision", "32", "--batch-size", "4", "--source-precision", "same"]  # fmt: skip
    assert cli([*words, "--out", str(tmp_path / "eager")]) == 0
    assert not traces
    assert cli([*words, "--out", str(tmp_path / "compiled"), "--source-compile"]) == 0
    assert len(traces) == 1
    losses = [json.loads((tmp_path / run / "results.json").read_text())["penalty"] for run in ("eager", "compiled")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[0] > 0
    assert cli([*words, "--out", str(tmp_path / "both"), "--source-compile", "--reuse"]) == 2


@pytest.fixture
def seconds(monkeypatch, tmp_path):
    """What each pass of a source takes, as far as anybody measures it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def take(value):
        monkeypatch.setattr(source_pass, "_seconds", lambda read, images: (read(images), value))

    return take


def steps_of(composed, images, steps):
    for step in range(2):
        composed.begin_step(step, steps)
        composed(images, torch.tensor([0, 1, 2, 0]))
    return composed.methods[0]


def test_auto_compiles_where_what_the_steps_save_is_more_than_compiling_takes(images, traces, seconds, source_file):
    source = gta.load_source(source_file, image_size=40)
    target = spread(gta.new_target(source, 3), 0.02)
    seconds(1.0)
    for steps, compiled in ((75, False), (76, True)):  # a fifth of a second each, against 15
        composed = ComposedMethod(target, source, [GTA(source_compile="auto")])
        assert steps_of(composed, images, steps).describe()["source_compiled"] is compiled
    assert len(traces) == 1
    seconds(0.0)  # what was measured before decides again
    again = ComposedMethod(target, source, [GTA(source_compile="auto")])
    assert steps_of(again, images, 76).describe()["source_compiled"] is True
    resumed = ComposedMethod(target, source, [GTA(source_compile="auto")])
    resumed.load_state_dict(composed.state_dict())
    resumed.begin_step(75, 76)  # too late to pay, but it goes on as it began
    resumed(images, torch.tensor([0, 1, 2, 0]))
    assert len(traces) == 3


def test_auto_in_a_loop_of_unknown_length_compiles_once_that_would_have_paid(images, traces, seconds):
    guided = pair(source_compile="auto")
    seconds(25.0)
    for compiled in (0, 0, 0, 1, 1):  # after 75 s
        guided(images)
        assert len(traces) == compiled
    known = pair(source_compile="auto", steps=2)
    known(images)
    assert len(traces) == 1


def test_auto_without_a_compiler_goes_on_as_it_is(images, seconds, monkeypatch):
    def fails(*given):
        raise gta.GtaError("the source could not be compiled")

    seconds(100.0)
    guided = pair(source_compile="auto", steps=100)
    monkeypatch.setattr(compiled_file.CompiledSource, "rows", fails)
    assert float(guided(images)[1].detach()) > 0
    assert guided.guidance.source_pass.compiles is False
    compiled = gta.guide(guided.model, torch.compile(guided.source), source_compile="auto")
    assert compiled.guidance.source_pass.compiles is False
