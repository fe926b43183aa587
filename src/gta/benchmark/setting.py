"""Under what `gta bench` measures: the models and images that every row shares, and the machine."""

from __future__ import annotations

import copy
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import normalize

from gta.benchmark.options import Bench
from gta.devices import default_device
from gta.sources.info import source_info
from gta.sources.loading import new_target
from gta.training.fit import load_for_training
from gta.training.trainer import resolve_precision
from gta.vit.structure import resolve_layers, vit_info

CLASSES = 10


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
    """

    target: nn.Module
    source: nn.Module
    peers: tuple[nn.Module, nn.Module] | None
    images: Tensor
    labels: Tensor
    layers: tuple[int, ...]
    low: bool

    @classmethod
    def of(cls, options: Bench) -> Setting:
        device = default_device()
        source = load_for_training(options.source, options.image_size, options.heads).to(device)
        body = vit_info(source)
        generator = torch.Generator().manual_seed(0)
        target = _moved(new_target(source, CLASSES), generator).to(device)
        pictures = [picture(options.image_size, options.image_size, generator) for _ in range(options.batch_size)]
        info = source_info(source)
        return cls(
            target=target,
            source=source,
            peers=_peers(target, device),
            images=normalize(torch.stack(pictures), list(info.mean), list(info.std)).to(device),
            labels=torch.randint(CLASSES, (options.batch_size,), generator=generator).to(device),
            layers=resolve_layers(options.layers, body.depth),
            low="bf16" in resolve_precision(options.precision),
        )

    @property
    def device(self) -> torch.device:
        return self.images.device

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.low else nullcontext()

    def part(self, count: int) -> Setting:
        """The same with fewer images."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])


def picture(width: int, height: int, generator: torch.Generator) -> Tensor:
    """(3, height, width) in [0, 1]: noise at several scales, as much of it at each as photographs have."""
    pixels = torch.zeros(1, 3, height, width)
    for across in (3, 9, 27, 81):
        noise = torch.rand(1, 3, across, across, generator=generator) - 0.5
        pixels += F.interpolate(noise, (height, width), mode="bicubic", align_corners=False) / 2
    return (pixels[0] + 0.5).clamp(0, 1)


def _moved(model: nn.Module, generator: torch.Generator) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.std() * 0.02)
    return model


def _peers(target: nn.Module, device: torch.device) -> tuple[nn.Module, nn.Module] | None:
    """Target and source in transformers: DINOv2 where the target scales its layers' outputs, else ViT."""
    try:
        import transformers
    except ImportError:
        return None
    vit: Any = target
    block = vit.blocks[0]
    shape = {
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": len(vit.blocks),
        "num_attention_heads": vit_info(target).heads,
        "image_size": vit.patch_embed.img_size[0],
        "patch_size": vit.patch_embed.patch_size[0],
        "num_channels": vit_info(target).channels,
        "num_labels": CLASSES,
    }
    hidden = block.mlp.fc1.out_features if hasattr(block.mlp, "fc1") else 4 * vit.embed_dim
    ratio, registers = round(hidden / vit.embed_dim), vit_info(target).prefix_tokens - 1
    kind: Any
    if isinstance(getattr(block, "ls1", None), (nn.Identity, type(None))):
        kind = transformers.ViTForImageClassification
        config: Any = transformers.ViTConfig(**shape, intermediate_size=hidden)
    elif registers:
        kind = transformers.Dinov2WithRegistersForImageClassification
        config = transformers.Dinov2WithRegistersConfig(**shape, mlp_ratio=ratio, num_register_tokens=registers)
    else:
        kind = transformers.Dinov2ForImageClassification
        config = transformers.Dinov2Config(**shape, mlp_ratio=ratio)
    models = [kind._from_config(copy.deepcopy(config), attn_implementation="sdpa").to(device) for _ in range(2)]
    return models[0].train(), models[1].requires_grad_(False).eval()


def patch_of(model: nn.Module) -> int:
    return int(model.patch_embed.patch_size[0])  # type: ignore[union-attr,index,arg-type]


def patches_of(model: nn.Module) -> int:
    return int(model.patch_embed.num_patches)  # type: ignore[union-attr,arg-type]


def head_width(model: nn.Module) -> int:
    attention: Any = vit_info(model).attentions[0]
    return int(getattr(attention, "head_dim", None) or model.embed_dim // attention.num_heads)  # type: ignore[operator]


# --- where it is measured --------------------------------------------------------------------------------


def described(setting: Setting, options: Bench) -> dict[str, Any]:
    info, body = source_info(setting.source), vit_info(setting.source)
    path = Path(options.source)
    return {
        "source": path.name if path.exists() else options.source,
        "architecture": info.architecture,
        "depth": body.depth,
        "heads": body.heads,
        "width": int(setting.source.embed_dim),  # type: ignore[arg-type]
        "patches": patches_of(setting.source),
        "image_size": options.image_size,
        "batch_size": options.batch_size,
        "layers": list(setting.layers),
        "precision": "bf16" if setting.low else "32",
        "rounds": options.rounds,
        "device": torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else "CPU",
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "versions": _versions(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("gta-vit", "torch", "timm", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
