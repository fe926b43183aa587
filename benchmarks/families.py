"""Which families of models can be guided, under which circumstances: the table of docs/families.md.

    python benchmarks/families.py > docs/families.md      # tiny models, random weights, CPU; about two minutes

A tick stands only where this program has just measured it. The reference is the library's own unfused attention:
the logits on their way into softmax, whole maps of them.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
import transformers
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import gta
from gta.vit.structure import vit_info


@dataclass(frozen=True)
class Family:
    """A tiny model of a family.

    Attributes:
        name: of the family, with its library.
        build: makes the model, random weights.
        size: height and width of its images in px.
        rows: what of it is guided.
        options: keywords for `guided(images, …)`.
        trained_bias: whether it adds trained numbers to its logits, for which torch has no fused kernel on the CPU.
    """

    name: str
    build: Callable[[], nn.Module]
    size: tuple[int, int]
    rows: str = "cls"
    options: dict[str, Any] = field(default_factory=dict)
    trained_bias: bool = False


def _timm(name: str, **more: Any) -> Callable[[], nn.Module]:
    shape = {"img_size": 48, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 5}
    return lambda: timm.create_model(name, **{**shape, **more})


def _hf(model: str, config: str, **more: Any) -> Callable[[], nn.Module]:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    shape |= {"image_size": 32, "patch_size": 8}

    def build() -> nn.Module:
        options = getattr(transformers, config)(**{**shape, **more})
        return getattr(transformers, model)._from_config(options, attn_implementation="sdpa")

    return build


def _hf_tower(model: str, config: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        options = getattr(transformers, config)(vision_config={**vision, "image_size": 32, "patch_size": 8})
        options.num_labels = 5
        return getattr(transformers, model)._from_config(options, attn_implementation="sdpa")

    return build


def _torchvision() -> nn.Module:
    shape = {"image_size": 48, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    return torchvision.models.VisionTransformer(**shape, num_classes=5)


_INTERPOLATE = {"interpolate_pos_encoding": True}
FAMILIES = [
    Family("timm ViT, DINO, MAE", _timm("vit_small_patch16_224"), (48, 48)),
    Family("timm ViT, any size", _timm("vit_small_patch16_224", dynamic_img_size=True), (64, 96)),
    Family("timm ViT, q/k normalised", _timm("vit_small_patch16_224", qk_norm=True), (48, 48)),
    Family('timm ViT, global_pool="avg"', _timm("vit_small_patch16_224", global_pool="avg"), (48, 48)),
    Family('timm ViT without [cls], rows="patches"', _timm("vit_medium_patch16_reg4_gap_256"), (48, 48), "patches"),
    Family("timm CLIP", _timm("vit_base_patch16_clip_224"), (48, 48)),
    Family("timm DeiT distilled", _timm("deit_tiny_distilled_patch16_224"), (48, 48)),
    Family("timm DeiT-III", _timm("deit3_small_patch16_224"), (48, 48)),
    Family("timm DINOv2", _timm("vit_small_patch14_dinov2", img_size=42), (42, 42)),
    Family("timm DINOv2, registers", _timm("vit_small_patch14_reg4_dinov2", img_size=42), (42, 42)),
    Family("timm DINOv3", _timm("vit_small_patch16_dinov3"), (48, 80)),
    Family("timm EVA", _timm("eva_large_patch14_196", img_size=42), (42, 42)),
    Family("timm EVA-02", _timm("eva02_tiny_patch14_224", img_size=42), (42, 42)),
    Family("timm BEiT", _timm("beit_base_patch16_224"), (48, 48), trained_bias=True),
    Family('timm SigLIP, rows="patches"', _timm("vit_base_patch16_siglip_224"), (48, 48), "patches"),
    Family('timm SigLIP, rows="pool"', _timm("vit_base_patch16_siglip_224"), (48, 48), "pool"),
    Family("torchvision vit_b_16 and kin", _torchvision, (48, 48)),
    Family("transformers ViT", _hf("ViTForImageClassification", "ViTConfig"), (32, 32)),
    Family("transformers ViT, any size", _hf("ViTForImageClassification", "ViTConfig"), (40, 64), options=_INTERPOLATE),
    Family("transformers DeiT", _hf("DeiTForImageClassification", "DeiTConfig"), (32, 32)),
    Family("transformers DINOv2", _hf("Dinov2ForImageClassification", "Dinov2Config"), (40, 56)),
    Family(
        "transformers DINOv2, registers",
        _hf("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig"),
        (40, 56),
    ),
    Family(
        "transformers DINOv3",
        _hf("DINOv3ViTModel", "DINOv3ViTConfig", num_register_tokens=4, pos_embed_rescale=None),
        (40, 56),
    ),
    Family(
        "transformers BEiT",
        _hf("BeitForImageClassification", "BeitConfig", use_relative_position_bias=True),
        (32, 32),
        trained_bias=True,
    ),
    Family(
        "transformers Data2Vec",
        _hf("Data2VecVisionForImageClassification", "Data2VecVisionConfig", use_relative_position_bias=True),
        (32, 32),
        trained_bias=True,
    ),
    Family("transformers CLIP tower", _hf("CLIPVisionModel", "CLIPVisionConfig"), (32, 32)),
    Family("transformers CLIP classifier", _hf_tower("CLIPForImageClassification", "CLIPConfig"), (32, 32)),
    Family(
        'transformers SigLIP tower, rows="patches"', _hf("SiglipVisionModel", "SiglipVisionConfig"), (32, 32), "patches"
    ),
    Family('transformers SigLIP tower, rows="pool"', _hf("SiglipVisionModel", "SiglipVisionConfig"), (32, 32), "pool"),
]


def pair(family: Family) -> tuple[nn.Module, nn.Module, Tensor]:
    """Target (train mode), source and two images; all weights moved a little, so that none is zero or constant."""
    torch.manual_seed(0)
    source = family.build()
    for model in (source, target := copy.deepcopy(source)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    for module in target.modules():  # the reference's pass and the guide's must see the same model
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return target.train(), source, torch.randn(2, 3, *family.size)


HEADER = """# Which models can be guided

Printed by `python benchmarks/families.py`: tiny models of each family with random weights, torch {torch}, timm {timm},
transformers {transformers}, CPU. A tick stands where the program has just measured it, two images at a time:

- **penalty = unfused reference**: to 1e-4, against the logits the library itself hands to softmax when its attention
  is not fused
- **fused kernel**: attention of target and source ran in torch's fused kernel, beside the reading of the rows. Where a
  family adds a trained position bias to its logits, torch has none on the CPU, with or without the guide
- **compile**: `torch.compile(…, fullgraph=True)` of target and source gives the same penalty and gradients, and the
  second step compiles nothing
- **checkpointing**: without reentrance, the same gradients
- **DDP**: two processes with an image each have the penalty and gradients of one process with both
"""

# --- the reference ----------------------------------------------------------------------------------------


class _Softmax(TorchFunctionMode):
    """Collects what a model hands to softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.logits: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.softmax, torch.softmax, Tensor.softmax):
            self.logits.append(args[0])
        return func(*args, **(kwargs or {}))


def unfused(model: nn.Module) -> nn.Module:
    """A copy in eval mode that multiplies q and k out, as its library does where no fused kernel is at hand."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
        if getattr(getattr(module, "config", None), "_attn_implementation", None) is not None:
            module.config._attn_implementation = "eager"
        if type(module).__name__ == "Data2VecVisionSdpaSelfAttention":
            module.__class__ = type(module).__mro__[1]
    return model


def reference_rows(family: Family, model: nn.Module, images: Tensor) -> list[Tensor]:
    """The rows of every layer of an `unfused` model, (B, H, …, N), with autograd."""
    prefix = vit_info(family.build()).prefix_tokens
    if "torchvision" in family.name:
        maps = _of_multi_head_attention([layer.self_attention for layer in model.encoder.layers], model, images)
    elif family.rows == "pool" and "transformers" in family.name:
        maps = _of_multi_head_attention([model.head.attention], model, images)
    else:
        with _Softmax() as seen:
            model(images, **family.options)
        maps = [x.unflatten(0, (len(images), -1)) if x.ndim == 3 else x for x in seen.logits]
    if family.rows == "pool":
        return [x.squeeze(-2)[..., prefix:] for x in maps if x.shape[-2] == 1]
    maps = [x[..., prefix:] for x in maps if x.shape[-2] > 1]
    return [x[:, :, 0] if family.rows == "cls" else x[:, :, prefix:] for x in maps]


def _of_multi_head_attention(attentions: list[nn.Module], model: nn.Module, images: Tensor) -> list[Tensor]:
    """The maps (B, H, Q, N) of nn.MultiheadAttention modules, from their inputs."""
    maps = []

    def hook(attention: nn.MultiheadAttention, inputs: tuple[Tensor, ...], _: object) -> None:
        heads, (wq, wk, _), (bq, bk, _) = (
            attention.num_heads,
            attention.in_proj_weight.chunk(3),
            attention.in_proj_bias.chunk(3),
        )
        q, k = F.linear(inputs[0], wq, bq), F.linear(inputs[1], wk, bk)
        q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
        maps.append(q @ k.mT / q.shape[-1] ** 0.5)

    for attention in attentions:
        attention.register_forward_hook(hook)
    model(images)
    return maps


def reference_penalty(family: Family, target: nn.Module, source: nn.Module, images: Tensor) -> Tensor:
    """Of two `unfused` models."""
    with torch.no_grad():
        frozen = reference_rows(family, source, images)
    pairs = zip(reference_rows(family, target, images), frozen, strict=True)
    return torch.stack([(t - s).square().mean() for t, s in pairs]).mean()


# --- the columns ------------------------------------------------------------------------------------------


def gradients(family: Family, guided: nn.Module, target: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The penalty, and the gradients of it and of what the model gives."""
    target.zero_grad()
    output, penalty = guided(images, **family.options)
    output = output if isinstance(output, Tensor) else output.pooler_output
    (output.square().mean() + penalty).backward()
    return penalty.detach(), [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in target.parameters()]


def same(ours: tuple[Tensor, list[Tensor]], theirs: tuple[Tensor, list[Tensor]]) -> bool:
    """Penalty and every gradient, up to 1e-4 of the greatest number."""
    both = zip([ours[0], *ours[1]], [theirs[0], *theirs[1]], strict=True)
    return all((a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-6 for a, b in both)


def equals_reference(family: Family) -> bool:
    target, source, images = pair(family)
    penalty = gta.guide(target, source, weight=1.0, rows=family.rows)(images, **family.options)[1]
    wanted = reference_penalty(family, unfused(target), unfused(source), images)
    return bool((penalty - wanted).abs() <= 1e-4 * wanted)


class _Kernels(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.fused = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.fused += "scaled_dot_product_flash" in func.name()
        return func(*args, **(kwargs or {}))


def is_fused(family: Family) -> bool:
    target, source, images = pair(family)
    guided = gta.guide(target, source, rows=family.rows)
    with _Kernels() as plain:
        target(images, **family.options)
    with _Kernels() as seen:
        guided(images, **family.options)
    depth = vit_info(target).depth
    return plain.fused >= depth and seen.fused >= 2 * depth - 1  # the source leaves before its last layer's


def compiles(family: Family) -> bool:
    target, source, images = pair(family)
    wanted = gradients(family, gta.guide(target, source, rows=family.rows), target, images)
    torch._dynamo.reset()
    whole = [torch.compile(m, backend="aot_eager", fullgraph=True) for m in (target, source)]
    guided = gta.guide(*whole, rows=family.rows)
    first = gradients(family, guided, target, images)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    second = gradients(family, guided, target, images)
    recompiled = torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs
    return same(first, wanted) and same(second, wanted) and not recompiled


def checkpoints(family: Family) -> bool:
    target, source, images = pair(family)
    guided = gta.guide(target, source, rows=family.rows)
    wanted = gradients(family, guided, target, images)
    if hasattr(target, "set_grad_checkpointing"):
        target.set_grad_checkpointing()
    elif hasattr(target, "gradient_checkpointing_enable"):
        target.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        for layer in target.encoder.layers:
            layer.forward = lambda x, inner=layer.forward: checkpoint(inner, x, use_reentrant=False)
    return same(gradients(family, guided, target, images), wanted)


def in_two_processes(families: list[Family]) -> dict[str, bool]:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_half, (folder, [f.name for f in families]), nprocs=2)
        return torch.load(Path(folder, "ticks.pt"))


def _half(rank: int, folder: str, names: list[str]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    ticks = {}
    for family in (f for f in FAMILIES if f.name in names):
        target, source, images = pair(family)
        wanted = gradients(family, gta.guide(target, source, rows=family.rows), target, images)
        wrapped = DistributedDataParallel(target, find_unused_parameters=True)
        guided = gta.guide(wrapped, source, rows=family.rows)
        penalty, found = gradients(family, guided, target, images[rank : rank + 1])
        dist.all_reduce(penalty)
        ticks[family.name] = same((penalty / 2, found), wanted)
    if rank == 0:
        torch.save(ticks, Path(folder, "ticks.pt"))
    dist.destroy_process_group()


COLUMNS = {
    "penalty = unfused reference": equals_reference,
    "fused kernel": is_fused,
    "compile": compiles,
    "checkpointing": checkpoints,
}


def measured(column: Callable[[Family], bool], family: Family) -> bool:
    try:
        return column(family)
    except Exception as error:  # a missing tick, with its reason on the way
        warnings.warn(f"{family.name}: {column.__name__}: {type(error).__name__}: {str(error)[:200]}", stacklevel=1)
        return False


def main(only: str = "") -> None:
    """Print the table, of the families whose name has ONLY in it."""
    families = [family for family in FAMILIES if only in family.name]
    print(HEADER.format(torch=torch.__version__, timm=timm.__version__, transformers=transformers.__version__))
    print(f"| family | {' | '.join(COLUMNS)} | DDP |\n|---|{'---|' * (len(COLUMNS) + 1)}")
    together = in_two_processes(families)
    for family in families:
        ticks = [measured(column, family) for column in COLUMNS.values()] + [together[family.name]]
        print(f"| {family.name} | {' | '.join('✓' if tick else '–' for tick in ticks)} |", flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
