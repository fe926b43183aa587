"""Pre-train the small ViT that the wheel carries (src/gta/worlds/butterflies.safetensors).

    pip install ".[pretraining]"
    python scripts/pretrain_butterflies.py --out src/gta/worlds/butterflies.safetensors

A contrastive loss (SimCLR, Chen et al. 2020, arXiv 2002.05709, eq. 1; the loss and head are lightly's) between two
*photographs of one butterfly*, on different grounds, in different poses and light, with SimCLR's colour distortions.
No label enters, but whoever pairs photographs knows which show the same animal: more than plain self-supervision is
told, less than a label. `--pairs crops` gives plain SimCLR, two crops of one photograph. DINO's loss on the same
pairs was tried for 100 steps, in which nothing moved where the contrast had begun to learn; it got no more time.

Species are those of `gta.worlds.butterflies.PRETRAINING` only; the measures printed on the way are on species and
grounds that were not trained on.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Literal

import timm
import torch
from jsonargparse import auto_cli
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from safetensors.torch import save_file
from torch import Tensor, nn

from gta.attention.maps import logits_and_rows
from gta.attention.metrics import jaccard, object_mass, patch_attention
from gta.worlds.butterflies import DOWNSTREAM, PRETRAINING, render, scenes, species

ARCHITECTURE = "vit_tiny_patch16_224"
MODEL_ARGS = {"patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 6, "mlp_ratio": 2.0}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main(
    out: str,
    sizes: list[int] = [64, 96],  # noqa: B006
    steps: list[int] = [700, 60],  # noqa: B006
    batch: int = 128,
    kinds: int = 1024,
    lr: float = 1e-3,
    temperature: float = 0.1,
    pairs: Literal["photographs", "crops"] = "photographs",
    seed: int = 0,
    report_every: int = 100,
) -> None:
    """Pre-train and write a safetensors file in half precision.

    Args:
        out: File to write.
        sizes: Side of the global views in px, one per phase; position embeddings are resampled in between.
        steps: Steps per phase.
        batch: Butterflies per step.
        kinds: Pre-training species.
        lr: Peak learning rate; warm-up, then cosine over all phases.
        temperature: Of the contrast.
        pairs: What the global views are.
        seed: Of everything.
        report_every: Steps between measurements.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    world = species(kinds, PRETRAINING).to(device)
    model = _model(sizes[-1]).to(device)
    loss_of = NTXentLoss(temperature=temperature)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], weight_decay=0.05)
    total, done, started = sum(steps), 0, time.perf_counter()
    for size, count in zip(sizes, steps, strict=True):
        for _ in range(count):
            rate = lr * min(1.0, (done + 1) / (0.1 * total)) * 0.5 * (1 + math.cos(math.pi * done / total))
            for group in optimizer.param_groups:
                group["lr"] = rate
            views = _views(world, batch, size, seed * 10**7 + done, pairs)
            with torch.autocast(device.type, torch.bfloat16):
                seen = model["head"](model["body"](torch.cat(views)))
            loss = loss_of(*seen.float().chunk(2))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            done += 1
            if done % report_every == 0 or done == total:
                spent = time.perf_counter() - started
                found = measure(model["body"], size)
                seen_so = ", ".join(f"{k} {v:.3f}" for k, v in found.items())
                print(f"step {done}, {spent:.0f} s: loss {loss:.3f}, {seen_so}", flush=True)
                _save(model["body"], out, sizes[-1], {**found, "steps": done, "seconds": spent, "pairs": pairs})


def _model(size: int) -> nn.ModuleDict:
    # dynamic: timm resamples the positions for views of other sizes
    body = timm.create_model(ARCHITECTURE, num_classes=0, img_size=size, dynamic_img_size=True, **MODEL_ARGS)
    _fuse(body, False)
    return nn.ModuleDict({"body": body, "head": SimCLRProjectionHead(192, 512, 128)})


def _fuse(body: nn.Module, fused: bool) -> None:
    """Fused attention's backward pass is ten times slower than the written-out one on a CPU at this size."""
    for block in body.blocks:  # type: ignore[union-attr]
        block.attn.fused_attn = fused


def _views(world: Tensor, batch: int, size: int, seed: int, pairs: str) -> tuple[Tensor, Tensor]:
    """Two global views of `batch` butterflies, each (B, 3, size, size), normalised."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(world), (batch,), generator=generator).to(world.device)
    grounds = scenes(2 * batch, seed).to(world.device)
    places = torch.arange(batch, device=world.device)
    if pairs == "photographs":
        both, _ = render(world, labels.repeat(2), grounds, torch.cat([places, places + batch]), size, seed)
        first, second = both.chunk(2)
    else:
        one, _ = render(world, labels, grounds, places, size * 3 // 2, seed)
        first, second = _crop(one, size), _crop(one, size)
    return _normalised(_jitter(first)), _normalised(_jitter(second))


def _crop(images: Tensor, side: int) -> Tensor:
    """One random window of side px per image."""
    b, _, height, width = images.shape
    top = torch.randint(height - side + 1, (b, 1, 1, 1), device=images.device)
    left = torch.randint(width - side + 1, (b, 1, 1, 1), device=images.device)
    line = torch.arange(side, device=images.device)
    which = torch.arange(b, device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return images[which, channel, top + line[:, None], left + line]


def _jitter(images: Tensor) -> Tensor:
    """SimCLR's colour distortions (its appendix A, half strength), each image with its own; uint8 in, [0, 1] out."""
    b, device = len(images), images.device

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, 1, 1, 1, device=device)

    image = images.float() / 255
    image = torch.where(between(0, 1) < 0.5, image.flip(-1), image)
    luma = torch.tensor([0.299, 0.587, 0.114], device=device)[:, None, None]
    image = image * between(0.6, 1.4)
    image = (image - 0.5) * between(0.6, 1.4) + 0.5
    grey = (image * luma).sum(1, keepdim=True)
    image = grey + (image - grey) * between(0.6, 1.4) * (between(0, 1) > 0.2)  # one in five without colour
    turn = between(-0.1, 0.1)[:, 0, 0, 0] * 2 * math.pi  # hue, as a rotation around grey
    cos, rest, sin = turn.cos(), (1 - turn.cos()) / 3, turn.sin() / math.sqrt(3)
    same, before, after = cos + rest, rest - sin, rest + sin
    rotation = torch.stack([same, before, after, after, same, before, before, after, same], 1).view(b, 3, 3)
    return torch.einsum("bij,bjhw->bihw", rotation, image).clamp(0, 1)


def _normalised(image: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, device=image.device)[:, None, None] for values in (MEAN, STD))
    return (image - mean) / std


@torch.no_grad()
def measure(model: nn.Module, size: int) -> dict[str, float]:
    """Attention on the object and nearest-neighbour accuracy, on species and grounds that were not trained on."""
    device = next(model.parameters()).device
    kinds = species(16, DOWNSTREAM + 999_000).to(device)
    labels = torch.arange(16, device=device).repeat(24)
    grounds = scenes(len(labels), DOWNSTREAM + 999_000).to(device)
    images, masks = render(kinds, labels, grounds, torch.arange(len(labels), device=device), size, 1)
    model.eval()
    _fuse(model, True)  # the rows are read from fused attention
    features, rows = logits_and_rows(model, _normalised(images.float() / 255))
    _fuse(model, False)
    model.train()
    attention = patch_attention(rows[-1], 1)
    grid = (size // 8, size // 8)
    mask = masks.float()
    features = torch.nn.functional.normalize(features, dim=-1)
    near = (features @ features.T).fill_diagonal_(-2).argmax(-1)
    mass, uniform = float(object_mass(attention, mask, grid).mean()), float(mask.mean())
    return {
        "object_mass": mass,
        "uniform": uniform,
        "times": mass / uniform,
        "jaccard": float(jaccard(attention, mask, grid).mean()),
        "nearest": float((labels[near] == labels).float().mean()),
    }


def _save(model: nn.Module, out: str, size: int, story: dict[str, object]) -> None:
    weights = {k: v.half().cpu().contiguous() for k, v in model.state_dict().items()}
    told = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in story.items()}
    metadata = {
        "format": "pt",
        "architecture": ARCHITECTURE,
        "model_args": json.dumps({**MODEL_ARGS, "img_size": size}),
        "mean": ",".join(map(str, MEAN)),
        "std": ",".join(map(str, STD)),
        "pretraining": json.dumps(told),
    }
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, out, metadata)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
