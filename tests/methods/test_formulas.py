"""The formula of every method: solved by hand, against an independent implementation, its gradient by differences."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import gta
from gta.auto_weight import auto_weight
from gta.distances import DISTANCES
from gta.guidance import QUANTITIES
from gta.methods import METHODS
from gta.methods.attention_distill import AttentionDistill
from gta.methods.base import Method, Step
from gta.methods.bss import BSS
from gta.methods.co_tuning import CoTuning
from gta.methods.compose import ComposedMethod
from gta.methods.cutmix import CutMix
from gta.methods.delta import Delta
from gta.methods.feature_kd import FeatureKD
from gta.methods.gta import GTA
from gta.methods.l2_sp import L2SP
from gta.methods.label_smoothing import LabelSmoothing
from gta.methods.lora import LoRA
from gta.methods.lwf import LwF
from gta.methods.mixup import Mixup
from gta.methods.transmix import TransMix, random_box
from gta.methods.wise_ft import WiseFT
from gta.vit.capture import run_and_capture
from gta.vit.structure import vit_info
from tests.conftest import reference_rows, spread, tiny_vit

B, OLD = 4, 11  # images, classes of the source's own classifier
LABELS = torch.tensor([0, 1, 2, 1])
PENALTIES = [name for name in METHODS if METHODS[name].adds()]
STEP = Step(torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(()))  # for parts that read nothing of it


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A source with a classifier of 11 classes in its file."""
    path = tmp_path_factory.mktemp("source") / "source.safetensors"
    save_file(tiny_vit(num_classes=OLD).state_dict(), path)
    return gta.load_source(path)


@pytest.fixture
def target(source):
    torch.manual_seed(2)
    return spread(gta.new_target(source, 3))


@pytest.fixture
def images():
    return torch.randn(B, 3, 40, 40, generator=torch.Generator().manual_seed(1))


def penalty(part: Method, target: nn.Module, source: nn.Module, images: torch.Tensor) -> torch.Tensor:
    composed = ComposedMethod(target, source, [part])
    composed.prepare(lambda: [(images, LABELS)])
    return composed(images, LABELS).penalty


class Toy(nn.Module):
    """One block that multiplies the tokens by a factor, and a classifier of weight 2 without bias."""

    cls_token, num_prefix_tokens, dynamic_img_size = True, 1, True

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Module()])
        self.blocks[0].attn = nn.Module()
        self.blocks[0].attn.num_heads = 1
        self.blocks[0].factor = nn.Parameter(torch.tensor(factor))
        self.blocks[0].forward = lambda x: x * self.blocks[0].factor
        self.patch_embed = nn.Module()
        self.patch_embed.patch_size, self.patch_embed.dynamic_img_pad = (1, 1), True
        self.head = nn.Linear(1, 2, bias=False)
        nn.init.constant_(self.head.weight, 2.0)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks[0](images)[:, 0])


# --- solved by hand -------------------------------------------------------------------------------------------


def test_l2_sp_by_hand():
    model, start = Toy(4.0), Toy(1.0)
    part = L2SP(alpha=3.0, beta=5.0)
    part.attach(model, start)
    value = part.penalty(None, None, STEP)
    assert value.item() == pytest.approx(3 / 2 * 9 + 5 / 2 * (4 + 4))
    value.backward()
    assert model.blocks[0].factor.grad.item() == pytest.approx(3 * 3)
    assert model.head.weight.grad.flatten().tolist() == [10.0, 10.0]


def test_delta_by_hand():
    model, start = Toy(4.0), Toy(1.0)
    part = Delta(alpha=2.0, beta=0.0)
    part.attach(model, start)
    tokens = torch.tensor([[[1.0], [3.0]]])  # 2 tokens of 1 channel: they differ by 3 and 9
    read = [run_and_capture(m, tokens, [part.capture(vit_info(m))])[0] for m in (model, start)]
    assert part.penalty(*read, STEP).item() == pytest.approx(2 / 2 * (9 + 81) / 2)


def test_bss_by_hand():
    features = torch.tensor([[3.0, 0.0], [0.0, 4.0]], requires_grad=True)  # singular values 4 and 3
    for k, expected, slope in ((1, 9.0, [6.0, 0.0, 0.0, 0.0]), (2, 25.0, [6.0, 0.0, 0.0, 8.0])):
        value = BSS(eta=1.0, k=k).penalty(features, None, STEP)
        assert value.item() == pytest.approx(expected)
        (grad,) = torch.autograd.grad(value, features)
        assert grad.flatten().tolist() == pytest.approx(slope, abs=1e-5)
    with pytest.raises(gta.GtaError, match=r"bss\.k 3"):
        BSS(k=3).penalty(features, None, STEP)


def test_feature_kd_by_hand():
    model, start = Toy(4.0), Toy(1.0)
    part = FeatureKD(weight=2.0)
    part.attach(model, start)
    tokens = torch.tensor([[[1.0], [3.0]], [[2.0], [0.0]]])  # features: the first token, times the factor
    read = [run_and_capture(m, tokens, [part.capture(vit_info(m))])[0] for m in (model, start)]
    assert part.penalty(*read, STEP).item() == pytest.approx(2 * (9 + 36) / 2)


def test_label_smoothing_by_hand():
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True), torch.tensor([0])
    loss = F.cross_entropy(logits, labels)
    logs = logits.log_softmax(-1)[0]
    expected = -(0.8 * logs[0] + 0.2 * logs.mean())
    added = LabelSmoothing(share=0.2).penalty(None, None, Step(torch.zeros(1), labels, logits, loss))
    assert (loss + added).item() == pytest.approx(expected.item())


def test_wise_ft_by_hand():
    model = Toy(4.0)
    part = WiseFT(alpha=0.25)
    part.attach(model, Toy(1.0))
    part.finish(model)
    assert model.blocks[0].factor.item() == pytest.approx(0.75 * 1 + 0.25 * 4)
    assert model.head.weight.flatten().tolist() == [2.0, 2.0]


def test_co_tuning_learns_the_mean_answer_of_each_class(source, target, images):
    part = CoTuning()
    head = part.attach(target, source)
    part.prepare(lambda: [(images[:3], LABELS[:3]), (images[3:], LABELS[3:])])
    with torch.no_grad():
        answers = head(source(images)).softmax(-1)
    torch.testing.assert_close(part.relationship, torch.stack([answers[0], (answers[1] + answers[3]) / 2, answers[2]]))


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_mixing_by_hand(kind, monkeypatch):
    """torchvision's are the papers': each image with its neighbour in the batch."""
    method, model = kind(), Toy(1.0)
    model.num_classes = 2
    method.attach(model, model)
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda *_: torch.tensor(0.75))
    monkeypatch.setattr(torch, "randint", lambda high, size: torch.full(size, 4))  # the centre of 8
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    mixed, targets = method.mix(images, torch.tensor([0, 1]))
    assert targets.tolist() == [[0.75, 0.25], [0.25, 0.75]]
    if kind is Mixup:
        assert mixed[0].unique().tolist() == [0.25]
        assert mixed[1].unique().tolist() == [0.75]
    else:  # a box of half the side, from 2 to 6
        assert mixed[0, 0, 2:6, 2:6].unique().tolist() == [1.0]
        assert mixed.sum((1, 2, 3)).tolist() == [3 * 16, 3 * 48]


def test_a_box_at_the_edge_counts_what_lies_inside(monkeypatch):
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda *_: torch.tensor(0.75))
    monkeypatch.setattr(torch, "randint", lambda high, size: torch.tensor(0))
    mask = random_box(torch.zeros(1, 3, 8, 12), 1.0)
    assert mask.shape == (8, 12)
    assert (mask.sum().item(), mask[:2, :3].sum().item()) == (6, 6)


# --- against independent implementations ------------------------------------------------------------------------


def test_l2_sp_is_that_of_transfer_learning_library(source, target, images):
    held = dict(source.named_parameters())
    backbone = sum(0.5 * torch.norm(p - held[n]) ** 2 for n, p in target.named_parameters() if n in held)
    head = sum(0.5 * torch.norm(p) ** 2 for p in target.head.parameters())
    torch.testing.assert_close(penalty(L2SP(0.3, 0.7), target, source, images), 0.3 * backbone + 0.7 * head)


def outputs_of(model: nn.Module, images: torch.Tensor, part: str) -> list[torch.Tensor]:
    """By the model's own pieces, without hooks."""
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    found = []
    for block in model.blocks:
        after = block.attn(block.norm1(x))
        x = block(x)
        found.append(after if part == "msa" else x)
    return found


def test_delta_is_that_of_transfer_learning_library(source, target, images):
    total = 0.0
    for t, s in zip(outputs_of(target, images, "block"), outputs_of(source, images, "block"), strict=True):
        t, s = t.mT, s.mT  # (B, channels, tokens)
        channels, tokens = t.shape[1:]
        distance = torch.norm(t - s, 2, 2) ** 2
        total = total + 0.5 * torch.sum(channels * (1 / channels) * distance / tokens)
    torch.testing.assert_close(penalty(Delta(0.3, 0.0, blocks=9), target, source, images), 0.3 * total)


def test_delta_holds_evenly_spaced_blocks(source, target):
    part = Delta(blocks=2)
    part.attach(target, source)
    assert list(part.capture(vit_info(target))._modules) == [1, 2]


def test_bss_is_that_of_transfer_learning_library(source, target, images):
    _, s, _ = torch.svd(target.forward_head(target.forward_features(images), pre_logits=True).t())
    expected = sum(s[s.size(0) - 1 - i] ** 2 for i in range(2))
    torch.testing.assert_close(penalty(BSS(0.5, k=2), target, source, images), 0.5 * expected)


def test_lwf_is_distillation(source, target, images):
    part = LwF(weight=0.5, temperature=3.0)
    composed = ComposedMethod(target, source, [part])
    spread(composed.own["lwf"])
    answers = composed.own["lwf"](target.forward_head(target.forward_features(images), pre_logits=True))
    old = part._old(source(images))
    expected = F.kl_div((answers / 3).log_softmax(-1), (old / 3).softmax(-1), reduction="batchmean") * 9
    torch.testing.assert_close(composed(images, LABELS).penalty, 0.5 * expected)


def test_co_tuning_is_cross_entropy_with_the_relationship(source, target, images):
    part = CoTuning(weight=2.0)
    composed = ComposedMethod(target, source, [part])
    composed.prepare(lambda: [(images, LABELS)])
    answers = composed.own["co_tuning"](target.forward_head(target.forward_features(images), pre_logits=True))
    expected = 2 * F.cross_entropy(answers, part.relationship[LABELS])
    torch.testing.assert_close(composed(images, LABELS).penalty, expected)
    soft = torch.tensor([[0.25, 0.75, 0.0]]).expand(B, 3)
    features = target.forward_head(target.forward_features(images), pre_logits=True)
    mixed = part.penalty(features, None, Step(images, soft, answers, torch.zeros(())))
    expected = 2 * F.cross_entropy(answers, 0.25 * part.relationship[0] + 0.75 * part.relationship[1].expand(B, -1))
    torch.testing.assert_close(mixed, expected)


def test_feature_kd_is_the_mean_square(source, target, images):
    features = target.forward_head(target.forward_features(images), pre_logits=True)
    torch.testing.assert_close(
        penalty(FeatureKD(3.0), target, source, images), 3 * F.mse_loss(features, source(images))
    )


def full_maps(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Attention after softmax of all tokens over all tokens, (B, H, T, T) per layer, from the modules' inputs."""
    maps, x = [], model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    for block in model.blocks:
        tokens, attn = block.norm1(x), block.attn
        b, n, _ = tokens.shape
        q, k, _ = attn.qkv(tokens).reshape(b, n, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        maps.append((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1))
        x = block(x)
    return maps


def test_attention_distillation_is_cross_entropy_of_full_maps(source, target, images):
    pairs = zip(full_maps(target, images), full_maps(source, images), strict=True)
    expected = torch.stack([F.cross_entropy(t.log().flatten(0, 2), s.flatten(0, 2)) for t, s in pairs]).mean()
    torch.testing.assert_close(penalty(AttentionDistill(2.0), target, source, images), 2 * expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("guide", ["logits", "attention", "msa", "block"])
def test_guides_hold_what_they_say(guide, source, target, images):
    if guide == "logits":
        t, s = (torch.stack(reference_rows(m, images)) for m in (target, source))
    elif guide == "attention":
        t, s = (torch.stack(full_maps(m, images))[..., 0, 1:] for m in (target, source))
    else:
        t, s = (torch.stack(outputs_of(m, images, guide)) for m in (target, source))
    found = penalty(GTA(weight=3.0, guide=guide), target, source, images)
    torch.testing.assert_close(found.double(), 3 * (t - s).square().mean().double(), rtol=1e-4, atol=0)
    found = penalty(GTA(weight=3.0, guide=guide, layers=[0, 2], layer_weights=[0.5, 2.0]), target, source, images)
    each = (t - s).square().flatten(1).mean(1).double()
    torch.testing.assert_close(found.double(), 3 * (0.5 * each[0] + 2 * each[2]) / 2, rtol=1e-4, atol=0)


@pytest.mark.parametrize("weight", [3.0, "auto"])
def test_free_heads_move_at_no_cost(weight, source, target, images):
    part = GTA(weight=weight, free_heads="0.1,-1.0", layers=[0, 2])
    done = ComposedMethod(target, source, [part])(images, LABELS)
    with torch.no_grad():
        t, s = (torch.stack(reference_rows(m, images))[[0, 2]] for m in (target, source))
    each = (t - s).square().mean((1, 3))  # (layers, heads)
    each[0, 1] = each[1, 0] = torch.nan
    weighed = each.nanmean().double() * torch.as_tensor(part.current_weight()).double()
    torch.testing.assert_close(done.penalty.double(), weighed, rtol=1e-4, atol=0)


@pytest.mark.parametrize("allowed", [0.05, 20.0])
def test_auto_sets_the_weight_from_loss_and_distances(allowed, source, target, images):
    part = GTA(weight="auto", weight_budget=allowed)
    done = ComposedMethod(target, source, [part])(images, LABELS)
    with torch.no_grad():
        t, s = (torch.stack(reference_rows(m, images)) for m in (target, source))
        each, units = ((t - s).square().mean((1, 3)), (s.roll(1, 1) - s).square().mean((1, 3)))  # (layers, heads)
        distance, drift = each.mean(), (each / units).mean() / allowed
        weight = F.cross_entropy(target(images), LABELS) / distance * drift * min(1.0, drift.item())
    assert (drift > 1) == (allowed < 1)  # both sides of the budget
    torch.testing.assert_close(part.current_weight().double(), weight, rtol=1e-4, atol=0)
    torch.testing.assert_close(done.penalty.double(), weight * distance, rtol=1e-4, atol=0)
    (slope,) = torch.autograd.grad(done.penalty, target.blocks[0].attn.qkv.weight)
    fixed = penalty(GTA(weight=weight.item()), target, source, images)  # neither loss nor distance pass a gradient
    (expected,) = torch.autograd.grad(fixed, target.blocks[0].attn.qkv.weight)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-6)


def test_a_head_that_looks_the_same_in_every_image_does_not_decide_alone():
    each, units = torch.full((2, 2), 0.5), torch.tensor([[0.0, 5.0], [5.0, 10.0]])
    weight = auto_weight(torch.tensor(0.2), each, units, 0.1)
    drift = (0.5 / 5e-3 + 0.1 + 0.1 + 0.05) / 4 / 0.1  # a thousandth of the mean unit instead of 0
    torch.testing.assert_close(weight, torch.tensor(0.2 * drift / 0.5))


@pytest.mark.parametrize(
    "options",
    [
        *({"distance": name} for name in DISTANCES),
        *({"guide": name} for name in QUANTITIES),
        {"rows": "all"},
        {"layers": [2]},
    ],
    ids=str,
)
def test_auto_weighs_whatever_is_held_as_much_as_the_loss_at_its_budget(options, source, target, images):
    part = GTA(weight="auto", weight_budget=1.0, **options)
    found = ComposedMethod(target, source, [part])(images, LABELS)
    share = (found.penalty / found.loss).item()  # r · min(1, r)
    part = GTA(weight="auto", weight_budget=max(share, share**0.5), **options)
    found = ComposedMethod(target, source, [part])(images, LABELS)
    torch.testing.assert_close(found.penalty, found.loss, rtol=1e-3, atol=0)


def test_auto_needs_two_images_and_survives_equal_ones(source, target, images):
    done = ComposedMethod(target, source, [GTA(weight="auto")])(images[:1].expand(B, -1, -1, -1), LABELS)
    assert done.penalty.isfinite()
    with pytest.raises(gta.GtaError, match="at least 2"):
        ComposedMethod(target, source, [GTA(weight="auto")])(images[:1], LABELS[:1])


def test_transmix_labels_follow_the_attention(target, images):
    part = TransMix()
    torch.manual_seed(5)
    labels = torch.arange(B)
    target.num_classes = B
    part.attach(target, target)
    mixed, targets = part.mix(images, labels)
    found = part.relabel(targets, *run_and_capture(target, mixed, [part.capture(vit_info(target))]))
    attention = full_maps(target, mixed)[-1][:, :, 0, 1:].mean(1)  # the authors' code, written out
    mask = F.interpolate(part._mask[None, None], size=5).int().view(1, -1).repeat(B, 1)
    w1, w2 = ((1 - mask) * attention).sum(1), (mask * attention).sum(1)
    share = (part._mask.sum() / part._mask.numel() + w2 / (w1 + w2)) / 2
    expected = torch.eye(B) * (1 - share[:, None]) + torch.eye(B)[part._partner] * share[:, None]
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    inside = part._mask > 0
    assert torch.equal(mixed[:, :, inside], images[part._partner][:, :, inside])
    assert torch.equal(mixed[:, :, ~inside], images[:, :, ~inside])


def test_lora_merges_into_a_plain_model_that_computes_the_same(source, target, images):
    pytest.importorskip("peft")
    before = copy.deepcopy(target).eval()
    part = LoRA(rank=2, alpha=6.0)
    part.attach(target, source)
    target.eval()
    assert torch.equal(target(images), before(images))  # B is zero at the start
    layer = target.blocks[1].attn.qkv
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    nn.init.normal_(b)
    expected = before.blocks[1].attn.qkv.weight + 6 / 2 * b @ a
    logits = target(images)
    part.finish(target)
    assert target.state_dict().keys() == before.state_dict().keys()
    torch.testing.assert_close(target.blocks[1].attn.qkv.weight, expected)
    torch.testing.assert_close(target(images), logits)


# --- gradients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PENALTIES)
def test_the_gradient_is_the_slope_and_reaches_the_target_only(name, source, target, images):
    """Along a random direction through all weights, against central differences in float64."""
    held, model = copy.deepcopy(source).double(), target.double()
    held.info = source.info
    composed = ComposedMethod(model, held, [METHODS[name]()]).double()
    composed.prepare(lambda: [(images.double(), LABELS)])

    def value() -> torch.Tensor:
        return composed(images.double(), LABELS).penalty.double()

    value().backward()
    parameters = [p for p in composed.parameters() if p.requires_grad]
    torch.manual_seed(3)
    direction = [p.grad / p.grad.norm() if p.grad is not None and p.grad.any() else p * 0 for p in parameters]
    direction = [d * torch.rand(()) for d in direction]
    expected = sum((p.grad * d).sum() for p, d in zip(parameters, direction, strict=True) if p.grad is not None)
    step, ends = 1e-3, []
    with torch.no_grad():
        for sign in (1, -2, 1):  # forth, back past the start, and home
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * step * d)
            ends.append(value())
    assert expected > 0
    assert ((ends[0] - ends[1]) / (2 * step)).item() == pytest.approx(expected.item(), rel=5e-3)
    assert all(p.grad is None for p in held.parameters())
    assert model.blocks[0].attn.qkv.weight.grad.any()


def test_every_penalty_is_zero_or_minimal_where_target_and_source_agree(source, images):
    target = gta.new_target(source, 3)
    nn.init.zeros_(target.head.weight)
    for name in ("l2_sp", "delta", "feature_kd", "gta"):
        assert penalty(METHODS[name](), target, source, images).item() == 0.0
    assert penalty(LwF(), target, source, images).item() == pytest.approx(0, abs=1e-6)


# --- what is refused ------------------------------------------------------------------------------------------


def test_a_source_without_classifier_is_told(tmp_path, images):
    save_file(tiny_vit(num_classes=0).state_dict(), tmp_path / "s.safetensors")
    source = gta.load_source(tmp_path / "s.safetensors")
    for part in (LwF(), CoTuning()):
        with pytest.raises(gta.GtaError, match="feature_kd"):
            ComposedMethod(gta.new_target(source, 3), source, [part])


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (lambda: L2SP(alpha=-1), "l2_sp.alpha -1"),
        (lambda: BSS(k=0), "bss.k 0"),
        (lambda: WiseFT(alpha=1.5), "up to 1"),
        (lambda: LwF(temperature=0), "lwf.temperature 0"),
        (lambda: Mixup(alpha=float("nan")), "mixup.alpha nan"),
    ],
)
def test_options_out_of_range_are_refused(part, words):
    with pytest.raises(gta.GtaError) as refusal:
        part()
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"guide": "mlp"}, "block"),
        ({"guide": "msa", "distance": "kl"}, "--guide logits"),
        ({"distance": "l2", "temperature": 2.0}, "softmax"),
        ({"layer_weights": [1.0]}, "3 guided layers"),
        ({"layer_weights": [1.0, -1.0, 1.0]}, "≥ 0"),
        ({"free_heads": "7.0"}, "guided layers (0, 1, 2)"),
        ({"free_heads": "1.x"}, "layer.head"),
        ({"free_heads": "1.0", "layers": [0]}, "guided layers (0)"),
        ({"free_heads": [(0, -1)]}, "0 to 1"),
        ({"free_heads": "0.0", "guide": "msa"}, "no heads"),
    ],
)
def test_guides_that_cannot_be_used_are_refused(options, words, source, target):
    with pytest.raises(gta.GtaError) as refusal:
        ComposedMethod(target, source, [GTA(**options)])
    assert words in str(refusal.value)
