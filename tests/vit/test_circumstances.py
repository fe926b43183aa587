"""The guide under everything people do to a model while they train it; each test sees wrong, missing or dead rows."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest
import timm
import torch
import torch._dynamo
import torch.multiprocessing
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.checkpoint import checkpoint

import gta
from tests.conftest import reference_rows, spread, tiny_vit
from tests.vit import two_processes

WEIGHT = 3.0
LABELS = torch.tensor([0, 1, 2, 3])


@pytest.fixture
def images():
    return torch.randn(4, 3, 40, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def pair():
    source = tiny_vit()
    return spread(copy.deepcopy(source)).train(), source


def reference(target: nn.Module, source: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The penalty from unfused maps, with its gradient."""
    with torch.no_grad():
        s = torch.stack(reference_rows(source, images))
    return WEIGHT * (torch.stack(reference_rows(target, images)) - s).square().mean().float()


def gradients(loss: torch.Tensor, model: nn.Module) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor], rtol: float) -> None:
    """Every tensor equal up to `rtol` of its greatest number, and not all of them zero."""
    assert sum(t.abs().sum() for t in theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=rtol * b.abs().max().item() + 1e-7)


def loss_of(guided: nn.Module, images: torch.Tensor) -> torch.Tensor:
    logits, penalty = guided(images)
    return F.cross_entropy(logits.float(), LABELS) + penalty


@pytest.fixture
def expected(pair, images):
    """Penalty, and gradients of cross-entropy + penalty, without any of this package."""
    target, source = (copy.deepcopy(m) for m in pair)
    penalty = reference(target, source, images)
    return penalty.detach(), gradients(F.cross_entropy(target(images), LABELS) + penalty, target)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.06), (torch.float16, 0.01)])
def test_autocast_with_a_gradient_scaler(pair, images, expected, dtype, tolerance):
    target, source = pair
    guided = gta.guide(target, source, weight=WEIGHT)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    optimizer = torch.optim.SGD(target.parameters(), lr=0.0)
    with torch.autocast("cpu", dtype):
        logits, penalty = guided(images)
        loss = F.cross_entropy(logits, LABELS) + penalty
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert penalty.dtype == torch.float32
    torch.testing.assert_close(penalty, expected[0], rtol=tolerance, atol=0)
    assert_close([p.grad for p in target.parameters()], expected[1], 2 * tolerance)


def test_accumulated_gradients_are_those_of_the_whole_batch(pair, images, expected):
    target, source = pair
    guided = gta.guide(target, source, weight=WEIGHT)
    for half in (slice(0, 2), slice(2, 4)):
        logits, penalty = guided(images[half])
        ((F.cross_entropy(logits, LABELS[half]) + penalty) / 2).backward()
    assert_close([p.grad for p in target.parameters()], expected[1], 1e-4)


def test_checkpointing_without_reentrance_gives_the_same_gradients(pair, images, expected):
    target, source = pair
    target.set_grad_checkpointing()
    guided = gta.guide(target, source, weight=WEIGHT)
    assert_close(gradients(loss_of(guided, images), target), expected[1], 1e-4)


def test_reentrant_checkpointing_is_refused(pair, images):
    target, source = pair
    for block in target.blocks:
        block.forward = lambda x, inner=block.forward, **_: checkpoint(inner, x, use_reentrant=True)
    with pytest.raises(gta.GtaError, match="use_reentrant=False"):
        gta.guide(target, source)(images)


def test_checkpointing_inside_compile_is_refused(pair, images):
    target, source = pair
    target.set_grad_checkpointing()
    torch._dynamo.reset()
    with pytest.raises(gta.GtaError, match=r"checkpointing inside torch\.compile"):
        gta.guide(torch.compile(target, backend="aot_eager"), source)(images)


def whole(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="aot_eager", fullgraph=True)


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="aot_eager", fullgraph=True)
    return model


def by_blocks(model: nn.Module) -> nn.Module:
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    return model


WAYS = {
    "target": lambda t, s: gta.guide(whole(t), s, weight=WEIGHT),
    "source": lambda t, s: gta.guide(t, whole(s), weight=WEIGHT),
    "both": lambda t, s: gta.guide(whole(t), whole(s), weight=WEIGHT),
    "in place": lambda t, s: gta.guide(in_place(t), in_place(s), weight=WEIGHT),
    "by blocks": lambda t, s: gta.guide(by_blocks(t), by_blocks(s), weight=WEIGHT),
    "guided": lambda t, s: whole(gta.guide(t, s, weight=WEIGHT)),
}


@pytest.mark.parametrize("way", WAYS)
def test_compiled_without_graph_breaks_or_recompilation(pair, images, expected, way):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    target, source = pair
    guided = WAYS[way](target, source)
    logits, penalty = guided(images)
    torch.testing.assert_close(penalty, expected[0], rtol=1e-5, atol=0)
    assert_close(gradients(F.cross_entropy(logits, LABELS) + penalty, target), expected[1], 1e-4)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 0
    for _ in range(3):
        guided(images + 1)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.fixture(scope="module")
def trained_apart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meeting")
    torch.multiprocessing.spawn(two_processes.work, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("way", two_processes.WAYS)
def test_two_processes_end_with_the_weights_of_one(trained_apart, way):
    model, source = two_processes.pair()
    before = [p.detach().clone() for p in model.parameters()]
    two_processes.train(gta.guide(model, source, weight=two_processes.WEIGHT), model, *two_processes.batch())
    after = torch.load(trained_apart / f"{way}.pt")
    assert_close(
        [b - a for a, b in zip(after, before, strict=True)],
        [b - a.detach() for a, b in zip(model.parameters(), before, strict=True)],
        1e-3,
    )


def test_channels_last(pair, images, expected):
    target, source = (m.to(memory_format=torch.channels_last) for m in pair)
    guided = gta.guide(target, source, weight=WEIGHT)
    assert_close(gradients(loss_of(guided, images.to(memory_format=torch.channels_last)), target), expected[1], 1e-4)


def test_drop_path_and_dropout_are_the_targets_alone(images):
    source = tiny_vit(drop_path_rate=0.5, proj_drop_rate=0.3, attn_drop_rate=0.3)
    target = spread(copy.deepcopy(source)).train()
    guided = gta.guide(target, source, weight=WEIGHT)
    torch.manual_seed(4)
    _, penalty = guided(images)
    torch.manual_seed(4)
    dropped = reference(target, source.eval(), images)
    torch.testing.assert_close(penalty, dropped, rtol=1e-5, atol=0)
    assert not torch.isclose(penalty, reference(target.eval(), source, images), rtol=1e-2)


def test_a_moving_average_of_the_target_is_a_plain_model(pair, images):
    target, source = pair
    guided = gta.guide(target, source, weight=WEIGHT)
    average = ModelEmaV3(target, decay=0.5)
    optimizer = torch.optim.SGD(target.parameters(), lr=0.1)
    loss_of(guided, images).backward()
    optimizer.step()
    before = [p.clone() for p in average.module.parameters()]
    average.update(target)
    for mean, a, b in zip(average.module.parameters(), before, target.parameters(), strict=True):
        torch.testing.assert_close(mean, (a + b) / 2)
    assert set(average.module.state_dict()) == set(tiny_vit().state_dict())


def test_frozen_parts_get_no_gradient_and_the_others_the_right_one(pair, images):
    target, source = pair
    for name, parameter in target.named_parameters():
        parameter.requires_grad = name.startswith(("blocks.1", "blocks.2.norm1", "head"))
    twin = copy.deepcopy(target)
    _, penalty = gta.guide(target, source, weight=WEIGHT)(images)
    assert_close(gradients(penalty, target), gradients(reference(twin, source, images), twin), 1e-4)
    assert target.blocks[2].norm1.weight.grad.abs().sum() > 0
    assert target.blocks[0].attn.qkv.weight.grad is None


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_guides_itself(pair, images, copied):
    guided = gta.guide(*pair, weight=WEIGHT, layers=[0, 2])
    if copied == "deepcopy":
        twin = copy.deepcopy(guided)
    elif copied == "pickle":
        twin = pickle.loads(pickle.dumps(guided))
    else:
        file = io.BytesIO()
        torch.save(guided, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert twin.source is not guided.source
    assert torch.equal(twin(images)[1], guided(images)[1])
    twin(images)[1].backward()
    assert all(p.grad is None for p in guided.model.parameters())


def test_state_dict_goes_from_one_guided_to_another(pair, images):
    guided = gta.guide(*pair, weight=WEIGHT)
    other = gta.guide(tiny_vit(seed=8).train(), copy.deepcopy(pair[1]), weight=WEIGHT)
    other.load_state_dict(guided.state_dict())
    assert torch.equal(other(images)[1], guided(images)[1])


def test_two_guides_in_one_process_do_not_meet(pair, images):
    target, source = pair
    other = spread(copy.deepcopy(target))
    first, second = gta.guide(target, source, weight=WEIGHT), gta.guide(other, source, weight=WEIGHT, layers=[1])
    alone = first(images)[1], second(images)[1]
    torch.testing.assert_close(alone[0], reference(target, source, images), rtol=1e-5, atol=0)
    together = [None, None]

    def run(i: int) -> None:
        for _ in range(3):
            together[i] = (first, second)[i](images)[1]

    threads = [threading.Thread(target=run, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(together[0], alone[0])
    assert torch.equal(together[1], alone[1])


def test_two_guides_of_one_model(pair, images):
    """Two sources, two kinds of rows; one penalty does not see the other's calls."""
    target, source = pair
    first = gta.guide(target, source, weight=WEIGHT)
    second = gta.guide(target, tiny_vit(seed=9), weight=WEIGHT, rows="patches")
    alone = first(images)[1], second(images)[1]
    (_, inner), outer = first.observe(images, lambda: second(images))
    assert torch.equal(outer(None), alone[0])
    assert torch.equal(inner, alone[1])


def test_detach_leaves_the_model_as_it_was(images):
    model, plain = tiny_vit().train(), tiny_vit().train()
    was = (dict(vars(model)), [dict(vars(m)) for m in model.modules()], type(model), F.scaled_dot_product_attention)
    guided = gta.guide(model, tiny_vit(seed=3), weight=WEIGHT)
    guided(images)
    assert guided.detach() is model
    assert (vars(model), [vars(m) for m in model.modules()], type(model), F.scaled_dot_product_attention) == was
    assert torch.equal(model(images), plain(images))
    logits, penalty = guided(images)
    assert penalty == 0
    assert torch.equal(logits, plain(images))
    with pytest.raises(gta.GtaError, match="detached"):
        guided.measure(images)


def test_the_source_may_be_moved_and_the_guide_used_after_an_error(pair, images):
    guided = gta.guide(*pair, weight=WEIGHT)
    want = guided(images)[1]
    with pytest.raises(gta.GtaError, match="images"):
        guided(images[:, :1])
    hook = pair[0].blocks[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        guided(images)
    hook.remove()
    assert torch.equal(guided(images)[1], want)


def test_a_compiled_torchvision_source_gives_rows_in_eval_mode():
    """nn.MultiheadAttention has a native fast path without autograd, which calls no attention function."""
    from torchvision.models import VisionTransformer

    torch._dynamo.reset()
    torch.manual_seed(0)
    shape = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    source = spread(VisionTransformer(**shape))
    target = spread(copy.deepcopy(source)).train()
    images = torch.randn(2, 3, 32, 32)
    eager = gta.guide(target, source, weight=WEIGHT)
    compiled = gta.guide(whole(target), whole(copy.deepcopy(source)), weight=WEIGHT)
    torch.testing.assert_close(compiled(images)[1], eager(images)[1], rtol=1e-5, atol=0)
    assert eager.measure(images).min() > 0


def test_a_model_inside_a_users_own_module(pair, images, expected):
    class Mine(nn.Module):
        def __init__(self, backbone: nn.Module) -> None:
            super().__init__()
            self.head, self.backbone = nn.Linear(7, 4), backbone

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.backbone(x))

    target, source = pair
    logits, penalty = gta.guide(Mine(target).train(), source, weight=WEIGHT)(images)
    assert logits.shape == (4, 4)
    torch.testing.assert_close(penalty, expected[0], rtol=1e-5, atol=0)


def test_timm_entry_points_of_another_size_than_they_were_made_for(images):
    source = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=3)
    target = spread(copy.deepcopy(source)).train()
    guided = gta.guide(target, source)
    for model in (target, source):
        model.set_input_size((32, 48))
    assert guided(torch.randn(2, 3, 32, 48))[1] > 0
