"""Under what `gta bench` measures: the models and images that every row shares, and the machine."""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import normalize

from gta.acceleration.attention import QuickAttention
from gta.benchmark.options import Bench
from gta.devices import cpu_name, default_device
from gta.sources.info import SourceInfo, source_info
from gta.sources.loading import build, new_target
from gta.training.fit import load_for_training
from gta.training.results import versions
from gta.training.trainer import resolve_precision
from gta.vit.structure import resolve_layers, vit_info

CLASSES = 10
COUNTED = 2  # images that FLOPs are counted on and penalties compared on; per image both are the same for any number
RANDOM = "random:"


@dataclass(frozen=True)
class Setting:
    """What every row shares.

    Attributes:
        target, source: of timm. The target's weights are moved a little away from the source's, so that there is a
            penalty.
        peers: target and source of the same shape from transformers, random weights; None where it is not installed.
        images: (B, 3, height, width), normalised pictures of noise at several scales.
        labels: (B,).
        layers: guided layers, ascending.
        low: whether training is in bf16 autocast.
        attention: of the rows that train as `gta train` does.
    """

    target: nn.Module
    source: nn.Module
    peers: tuple[nn.Module, nn.Module] | None
    images: Tensor
    labels: Tensor
    layers: tuple[int, ...]
    low: bool
    attention: QuickAttention = field(default_factory=QuickAttention)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.low else nullcontext()


def make_setting(options: Bench) -> Setting:
    device, generator = default_device(), torch.Generator().manual_seed(0)
    source = load(options, options.image_size).to(device)
    target = new_target(source, CLASSES)
    with torch.no_grad():
        for parameter in target.parameters():
            if parameter.numel() > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.std() * 0.02)
    pictures = [picture(options.image_size, options.image_size, generator) for _ in range(options.batch_size)]
    info = source_info(source)
    return Setting(
        target=target.to(device),
        source=source,
        peers=transformers_peers(target, device),
        images=normalize(torch.stack(pictures), list(info.mean), list(info.std)).to(device),
        labels=torch.randint(CLASSES, (options.batch_size,), generator=generator).to(device),
        layers=resolve_layers(options.layers, vit_info(source).depth),
        low="bf16" in resolve_precision(options.precision),
    )


def load(options: Bench, size: int) -> nn.Module:
    """The source for images of that side; `random:NAME` is an architecture of timm's without its weights."""
    if not options.source.startswith(RANDOM):
        return load_for_training(options.source, size, options.heads)
    name = options.source.removeprefix(RANDOM)
    model: nn.Module = build(name, {"img_size": size, "num_classes": 0})
    model.info = SourceInfo(options.source, name, {"img_size": size})  # type: ignore[assignment]
    return model.requires_grad_(False).eval()


def picture(width: int, height: int, generator: torch.Generator) -> Tensor:
    """(3, height, width) in [0, 1]: noise at several scales, as much of it at each as photographs have."""
    pixels = torch.zeros(1, 3, height, width)
    for across in (3, 9, 27, 81):
        noise = torch.rand(1, 3, across, across, generator=generator) - 0.5
        pixels += F.interpolate(noise, (height, width), mode="bicubic", align_corners=False) / 2
    return (pixels[0] + 0.5).clamp(0, 1)


def transformers_peers(target: Any, device: torch.device) -> tuple[nn.Module, nn.Module] | None:
    """Target and source in transformers: DINOv2 where the target scales its layers' outputs, else ViT."""
    try:
        import transformers
    except ImportError:
        return None
    block, registers = target.blocks[0], vit_info(target).prefix_tokens - 1
    hidden = block.mlp.fc1.out_features if hasattr(block.mlp, "fc1") else 4 * target.embed_dim
    more: dict[str, Any] = {"mlp_ratio": round(hidden / target.embed_dim)}
    if isinstance(getattr(block, "ls1", None), (nn.Identity, type(None))):
        kind, more = "ViT", {"intermediate_size": hidden}
    elif registers:
        kind, more = "Dinov2WithRegisters", {**more, "num_register_tokens": registers}
    else:
        kind = "Dinov2"
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=target.embed_dim,
        num_hidden_layers=len(target.blocks),
        num_attention_heads=vit_info(target).heads,
        image_size=target.patch_embed.img_size[0],
        patch_size=target.patch_embed.patch_size[0],
        num_channels=vit_info(target).channels,
        num_labels=CLASSES,
        **more,
    )
    classifier = getattr(transformers, f"{kind}ForImageClassification")
    models = [classifier._from_config(copy.deepcopy(config), attn_implementation="sdpa").to(device) for _ in range(2)]
    return models[0].train(), models[1].requires_grad_(False).eval()


class Shape(NamedTuple):
    """Of a model of timm: side of a patch in px, patches of an image, heads and their width."""

    patch: int
    patches: int
    heads: int
    head_width: int


def shape_of(model: Any) -> Shape:
    heads, embed = vit_info(model).heads, model.patch_embed
    return Shape(int(embed.patch_size[0]), int(embed.num_patches), heads, int(model.embed_dim) // heads)


def rows_flops(shape: Shape, layers: int) -> int:
    """Per image, of the rows of both models and of the target's backward to q and to k.

    They are products of elements and sums, which torch's counter leaves out.
    """
    return 4 * 2 * shape.heads * shape.head_width * shape.patches * layers


def queries_and_keys(setting: Setting, batch: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Random q and k, (B, H, N, d), side by side in memory as the source's one projection leaves them."""
    shape = shape_of(setting.source)
    both = torch.randn(batch, tokens, 2, shape.heads, shape.head_width, device=setting.device)
    q, k = both.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k


def described(setting: Setting, options: Bench) -> dict[str, Any]:
    path, vit = Path(options.source), vit_info(setting.source)
    return {
        "source": path.name if path.exists() else options.source,
        "architecture": source_info(setting.source).architecture,
        "depth": vit.depth,
        "heads": vit.heads,
        "width": int(setting.source.embed_dim),  # type: ignore[arg-type]
        "patches": shape_of(setting.source).patches,
        "image_size": options.image_size,
        "batch_size": options.batch_size,
        "layers": list(setting.layers),
        "precision": "bf16" if setting.low else "32",
        "rounds": options.rounds,
        "device": torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else "CPU",
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
