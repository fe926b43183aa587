"""Pre-train the small ViT that the wheel carries (src/gta/worlds/butterflies.safetensors).

    pip install ".[pretraining]"
    python scripts/pretrain_butterflies.py --out src/gta/worlds/butterflies.safetensors

The wheel's is from a contrastive loss (SimCLR; the losses and heads of SimCLR and DINO are lightly's) between two
*photographs of one butterfly*, on different grounds, in different poses and light, with SimCLR's colour distortions.
No label enters, but whoever pairs photographs knows which show the same animal: more than plain self-supervision is
told, less than a label. `--pairs crops` gives plain SimCLR, two crops of one photograph.

`--loss dino`, `mae` and `supervised` see the same views and take the same steps of the same optimiser; the plan
`pretraining` fine-tunes them. docs/questions.md says how they look: in so few steps DINO collapses in every setting
that was tried, and MAE's [cls] tells no species.

Species are those of `gta.worlds.butterflies.PRETRAINING` only; the measures printed on the way are on species and
grounds that were not trained on.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import timm
import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from lightly.loss import DINOLoss, NTXentLoss
from lightly.models import utils
from lightly.models.modules.heads import DINOProjectionHead, SimCLRProjectionHead
from safetensors.torch import save_file
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from gta.attention.maps import logits_and_rows
from gta.attention.metrics import jaccard, object_mass, patch_attention
from gta.worlds.butterflies import DOWNSTREAM, PRETRAINING, render, scenes, species

ARCHITECTURE = "vit_tiny_patch16_224"
WIDTH, PATCH = 192, 8
MODEL_ARGS = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": 6, "num_heads": 6, "mlp_ratio": 2.0}
PROTOTYPES = 1024  # outputs of DINO's head
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Objective(nn.Module):
    """What a loss needs beside the body: forward in mixed precision, `loss` of what it returns in float32."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    @property
    def learnt(self) -> nn.Module:
        """The body that is measured and written."""
        return self.body

    def after_step(self) -> None:
        """After each step of the optimiser."""


class SimCLR(Objective):
    """Chen et al. 2020, arXiv 2002.05709, eq. 1: a view is told from all others by its other view."""

    def __init__(self, body: nn.Module, temperature: float) -> None:
        super().__init__(body)
        self.head = SimCLRProjectionHead(WIDTH, 512, 128)
        self.contrast = NTXentLoss(temperature=temperature)

    def forward(self, views: Tensor) -> Tensor:  # (2B, 3, S, S) -> (2B, 128)
        return self.head(self.body(views))

    def loss(self, seen: Tensor, labels: Tensor) -> Tensor:
        return self.contrast(*seen.float().chunk(2))


class DINO(Objective):
    """Caron et al. 2021, arXiv 2104.14294: a view, or a crop of one, is told what a slow copy says of another view."""

    def __init__(self, body: nn.Module, teacher_temperature: float, momentum: float) -> None:
        super().__init__(body)
        self.head = DINOProjectionHead(WIDTH, 512, 128, PROTOTYPES)
        teacher_head = DINOProjectionHead(WIDTH, 512, 128, PROTOTYPES)
        teacher_head.load_state_dict(self.head.state_dict())  # its weight norm cannot be deep-copied
        self.teacher = nn.Sequential(copy.deepcopy(body), teacher_head).requires_grad_(False)
        self.self_distillation = DINOLoss(PROTOTYPES, teacher_temp=teacher_temperature)
        self.momentum = momentum

    @property
    def learnt(self) -> nn.Module:
        return self.teacher[0]  # what the paper evaluates

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:  # (2B, 3, S, S) -> (2B and 6B, PROTOTYPES)
        local = torch.cat([_crop(views, views.shape[-1] // 2) for _ in range(2)])
        seen = torch.cat([self.body(views), self.body(local)])
        return self.teacher(views), self.head(seen)

    def loss(self, seen: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        b = len(labels)
        return self.self_distillation(*(out.float().split(b) for out in seen))

    def after_step(self) -> None:
        utils.update_momentum(nn.Sequential(self.body, self.head), self.teacher, self.momentum)


class MAE(Objective):
    """He et al. 2022, arXiv 2111.06377: the pixels of three patches in four from those of the fourth."""

    def __init__(self, body: nn.Module, width: int = 96, depth: int = 2) -> None:
        super().__init__(body)
        self.narrow = nn.Linear(WIDTH, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, 3, 2.0, qkv_bias=True) for _ in range(depth)))
        self.pixels = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * PATCH**2))
        _fuse(self, False)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:  # (2B, 3, S, S) -> (2B, hidden patches, 192) twice
        tokens = self.body._pos_embed(self.body.patch_embed(views))  # (2B, 1 + N, WIDTH), [cls] first
        keep, hidden = utils.random_token_mask(tokens.shape[:2], 0.75, device=tokens.device)
        kept = self.narrow(self.body.norm(self.body.blocks(utils.get_at_index(tokens, keep))))
        empty = self.mask_token.to(kept.dtype).repeat(*tokens.shape[:2], 1)
        places = utils.get_2d_sine_cosine_positional_embedding(empty.shape[-1], views.shape[-1] // PATCH)
        whole = utils.set_at_index(empty, keep, kept) + torch.as_tensor(places, dtype=kept.dtype, device=kept.device)
        wanted = utils.normalize_mean_var(utils.patchify(views, PATCH))
        return utils.get_at_index(self.pixels(self.blocks(whole)), hidden), utils.get_at_index(wanted, hidden - 1)

    def loss(self, seen: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        return F.mse_loss(seen[0].float(), seen[1])


class Supervised(Objective):
    """Cross-entropy over the pre-training species."""

    def __init__(self, body: nn.Module, kinds: int) -> None:
        super().__init__(body)
        self.head = nn.Linear(WIDTH, kinds)

    def forward(self, views: Tensor) -> Tensor:  # (2B, 3, S, S) -> (2B, kinds)
        return self.head(self.body(views))

    def loss(self, seen: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(seen.float(), labels.repeat(2))


def main(
    out: str,
    loss: Literal["simclr", "dino", "mae", "supervised"] = "simclr",
    sizes: list[int] = [64, 96],  # noqa: B006
    steps: list[int] = [700, 60],  # noqa: B006
    batch: int = 128,
    kinds: int = 1024,
    lr: float = 1e-3,
    temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    momentum: float = 0.99,
    pairs: Literal["photographs", "crops"] = "photographs",
    seed: int = 0,
    report_every: int = 100,
) -> None:
    """Pre-train and write a safetensors file in half precision.

    Args:
        out: File to write.
        loss: What is learnt.
        sizes: Side of the global views in px, one per phase; position embeddings are resampled in between.
        steps: Steps per phase.
        batch: Butterflies per step.
        kinds: Pre-training species.
        lr: Peak learning rate; warm-up, then cosine over all phases.
        temperature: Of SimCLR's contrast.
        teacher_temperature: Of DINO's teacher.
        momentum: Of DINO's teacher: the share of it that a step keeps.
        pairs: What the global views are.
        seed: Of everything.
        report_every: Steps between measurements.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    world = species(kinds, PRETRAINING).to(device)
    body = _body(sizes[-1])
    losses: dict[str, Callable[[], Objective]] = {
        "simclr": lambda: SimCLR(body, temperature),
        "dino": lambda: DINO(body, teacher_temperature, momentum),
        "mae": lambda: MAE(body),
        "supervised": lambda: Supervised(body, kinds),
    }
    model = losses[loss]().to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    vectors = [p for p in trained if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], weight_decay=0.05)
    total, done, started = sum(steps), 0, time.perf_counter()
    for size, count in zip(sizes, steps, strict=True):
        for _ in range(count):
            rate = lr * min(1.0, (done + 1) / (0.1 * total)) * 0.5 * (1 + math.cos(math.pi * done / total))
            for group in optimizer.param_groups:
                group["lr"] = rate
            views, labels = _views(world, batch, size, seed * 10**7 + done, pairs)
            with torch.autocast(device.type, torch.bfloat16):
                seen = model(views)
            value = model.loss(seen, labels)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            model.after_step()
            done += 1
            if done % report_every == 0 or done == total:
                spent = time.perf_counter() - started
                found = measure(model.learnt, size)
                seen_so = ", ".join(f"{k} {v:.3f}" for k, v in found.items())
                print(f"{loss}, step {done}, {spent:.0f} s: loss {value:.3f}, {seen_so}", flush=True)
                story = {**found, "loss": loss, "steps": done, "batch": batch, "seconds": spent, "pairs": pairs}
                _save(model.learnt, out, sizes[-1], story)


def _body(size: int) -> nn.Module:
    # dynamic: timm resamples the positions for views of other sizes
    body = timm.create_model(ARCHITECTURE, num_classes=0, img_size=size, dynamic_img_size=True, **MODEL_ARGS)
    _fuse(body, False)
    return body


def _fuse(body: nn.Module, fused: bool) -> None:
    """Fused attention's backward pass is ten times slower than the written-out one on a CPU at this size."""
    for block in body.blocks:  # type: ignore[union-attr]
        block.attn.fused_attn = fused


def _views(world: Tensor, batch: int, size: int, seed: int, pairs: str) -> tuple[Tensor, Tensor]:
    """Two views of `batch` butterflies, (2B, 3, size, size), normalised, first views first; and the species, (B,)."""
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
    return _normalised(torch.cat([_jitter(first), _jitter(second)])), labels


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
    grid = (size // PATCH, size // PATCH)
    mask = masks.float()
    features = F.normalize(features, dim=-1)
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
