"""Vision transformers as their authors arrange them, computed from their own keys in plain torch: the references.

Nothing of timm or gta is used, so that a wrong rename, transposition or number of heads shows in the numbers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH, DEPTH, HEADS, PATCH, GRID = 128, 3, 2, 8, 5  # a ViT for 40 px images; heads of 64 channels
SIZE = PATCH * GRID
Tensors = dict[str, Tensor]


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    """Weights of a size that keeps activations near one."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        fan = math.prod(shape[1:]) if len(shape) > 1 else 25
        out[name] = values * (fan**-0.5 if "weight" in name or "kernel" in name else 0.2)
    return out


def images(seed: int = 1) -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def plain_shapes(
    width: int = WIDTH, positions: int = GRID * GRID + 1, scaled: bool = False
) -> dict[str, tuple[int, ...]]:
    """The tensors of DINO, iBOT, MAE, MoCo v3 and DeiT; with `scaled` those of DINOv2."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, positions, width),
        "patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (width,),
    }
    for i in range(DEPTH):
        for name, shape in (
            ("norm1.weight", (width,)), ("norm1.bias", (width,)),
            ("attn.qkv.weight", (3 * width, width)), ("attn.qkv.bias", (3 * width,)),
            ("attn.proj.weight", (width, width)), ("attn.proj.bias", (width,)),
            ("norm2.weight", (width,)), ("norm2.bias", (width,)),
            ("mlp.fc1.weight", (4 * width, width)), ("mlp.fc1.bias", (4 * width,)),
            ("mlp.fc2.weight", (width, 4 * width)), ("mlp.fc2.bias", (width,)),
        ):  # fmt: skip
            shapes[f"blocks.{i}.{name}"] = shape
        if scaled:
            shapes |= {f"blocks.{i}.ls{k}.gamma": (width,) for k in (1, 2)}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def linear(w: Tensors, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(()))


def norm(w: Tensors, name: str, x: Tensor, eps: float = 1e-6) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, H, N, D) each -> (B, N, H·D)."""
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def patches(w: Tensors, name: str, x: Tensor) -> Tensor:
    """Patch embedding as a linear map of unfolded patches, (B, N, width)."""
    kernel = w[f"{name}.weight"]
    out = F.unfold(x, kernel.shape[-1], stride=kernel.shape[-1]).transpose(1, 2) @ kernel.flatten(1).T
    return out + w.get(f"{name}.bias", torch.zeros(()))


def plain_tokens(w: Tensors, x: Tensor, heads: int = HEADS, eps: float = 1e-6, final: str = "norm") -> Tensor:
    """The normalised tokens of a plain ViT, (B, 1 + registers + N, width)."""
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), patches(w, "patch_embed.proj", x)], 1) + w["pos_embed"]
    if "register_tokens" in w:  # after the positions were added
        x = torch.cat([x[:, :1], w["register_tokens"].expand(len(x), -1, -1), x[:, 1:]], 1)
    for i in range(DEPTH):
        at = f"blocks.{i}"
        scale = [w.get(f"{at}.ls{k}.gamma", w.get(f"{at}.gamma_{k}", torch.ones(()))) for k in (1, 2)]
        h = norm(w, f"{at}.norm1", x, eps)
        qkv = h @ w[f"{at}.attn.qkv.weight"].T
        if f"{at}.attn.q_bias" in w:  # BEiT: k has none
            q_bias, v_bias = w[f"{at}.attn.q_bias"], w[f"{at}.attn.v_bias"]
            qkv = qkv + torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
        else:
            qkv = qkv + w[f"{at}.attn.qkv.bias"]
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + scale[0] * linear(w, f"{at}.attn.proj", attend(q, k, v))
        x = x + scale[1] * mlp(w, f"{at}.mlp", norm(w, f"{at}.norm2", x, eps))
    return norm(w, final, x, eps)


def mlp(w: Tensors, at: str, x: Tensor) -> Tensor:
    if f"{at}.w12.weight" in w:  # DINOv2 ViT-g
        gate, value = linear(w, f"{at}.w12", x).chunk(2, -1)
        return linear(w, f"{at}.w3", F.silu(gate) * value)
    if f"{at}.w1.weight" in w:  # DINOv3 S+ and H+
        return linear(w, f"{at}.w3", F.silu(linear(w, f"{at}.w1", x)) * linear(w, f"{at}.w2", x))
    return linear(w, f"{at}.fc2", F.gelu(linear(w, f"{at}.fc1", x)))


def mae_positions(width: int = WIDTH, side: int = GRID) -> Tensor:
    """MAE's util/pos_embed.py, written out per patch and channel."""
    out = torch.zeros(1, side * side + 1, width)
    quarter = width // 4
    for y in range(side):
        for x in range(side):
            for i in range(quarter):
                rate = 1 / 10000 ** (i / quarter)
                values = (math.sin(x * rate), math.cos(x * rate), math.sin(y * rate), math.cos(y * rate))
                for part, value in enumerate(values):
                    out[0, 1 + y * side + x, part * quarter + i] = value
    return out


def moco_positions(width: int, side: int = GRID) -> Tensor:
    """MoCo v3's build_2d_sincos_position_embedding; its meshgrid runs over columns first."""
    grid_w, grid_h = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    rate = 1 / 10000 ** (torch.arange(width // 4) / (width // 4))
    out_w, out_h = grid_w.flatten()[:, None] * rate, grid_h.flatten()[:, None] * rate
    grid = torch.cat([out_w.sin(), out_w.cos(), out_h.sin(), out_h.cos()], 1)
    return torch.cat([torch.zeros(1, width), grid])[None]


def dinov3_tokens(w: Tensors, x: Tensor, heads: int = HEADS) -> Tensor:
    """DINOv3: storage tokens, rotary positions of the patches' centres in [-1, 1], biases masked, eps 1e-5."""
    grid = patches(w, "patch_embed.proj", x)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), w["storage_tokens"].expand(len(x), -1, -1), grid], 1)
    prefix = x.shape[1] - grid.shape[1]
    side, width = math.isqrt(grid.shape[1]), x.shape[-1] // heads
    centre = 2 * (torch.arange(side) + 0.5) / side - 1
    coords = torch.stack(torch.meshgrid(centre, centre, indexing="ij"), -1).reshape(-1, 2)
    periods = 100 ** (2 * torch.arange(width // 4) / (width // 2))
    angles = (2 * math.pi * coords[:, :, None] / periods).flatten(1).tile(2)

    def turned(t: Tensor) -> Tensor:
        first, second = t[:, :, prefix:].chunk(2, -1)
        turn = t[:, :, prefix:] * angles.cos() + torch.cat([-second, first], -1) * angles.sin()
        return torch.cat([t[:, :, :prefix], turn], 2)

    for i in range(DEPTH):
        at = f"blocks.{i}"
        h = norm(w, f"{at}.norm1", x, 1e-5) @ w[f"{at}.attn.qkv.weight"].T
        h = h + w[f"{at}.attn.qkv.bias"] * w[f"{at}.attn.qkv.bias_mask"]
        q, k, v = h.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + w[f"{at}.ls1.gamma"] * linear(w, f"{at}.attn.proj", attend(turned(q), turned(k), v))
        x = x + w[f"{at}.ls2.gamma"] * mlp(w, f"{at}.mlp", norm(w, f"{at}.norm2", x, 1e-5))
    return norm(w, "norm", x, 1e-5)


def clip_shapes() -> dict[str, tuple[int, ...]]:
    d = WIDTH
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (d,), "visual.positional_embedding": (GRID * GRID + 1, d),
        "visual.conv1.weight": (d, 3, PATCH, PATCH), "visual.ln_pre.weight": (d,), "visual.ln_pre.bias": (d,),
        "visual.ln_post.weight": (d,), "visual.ln_post.bias": (d,), "visual.proj": (d, 96),
        "token_embedding.weight": (11, 64), "transformer.resblocks.0.ln_1.weight": (64,),
    }  # fmt: skip
    for i in range(DEPTH):
        for name, shape in (
            ("ln_1.weight", (d,)), ("ln_1.bias", (d,)), ("ln_2.weight", (d,)), ("ln_2.bias", (d,)),
            ("attn.in_proj_weight", (3 * d, d)), ("attn.in_proj_bias", (3 * d,)),
            ("attn.out_proj.weight", (d, d)), ("attn.out_proj.bias", (d,)),
            ("mlp.c_fc.weight", (4 * d, d)), ("mlp.c_fc.bias", (4 * d,)),
            ("mlp.c_proj.weight", (d, 4 * d)), ("mlp.c_proj.bias", (d,)),
        ):  # fmt: skip
            shapes[f"visual.transformer.resblocks.{i}.{name}"] = shape
    return shapes


def clip_tokens(w: Tensors, x: Tensor, quick: bool, heads: int = HEADS) -> Tensor:
    """CLIP's model.py, attention by nn.MultiheadAttention's own function."""
    w = {k.removeprefix("visual."): v for k, v in w.items() if k.startswith("visual.")}
    x = torch.cat([w["class_embedding"].expand(len(x), 1, -1), patches(w, "conv1", x)], 1) + w["positional_embedding"]
    x = norm(w, "ln_pre", x, 1e-5)
    for i in range(DEPTH):
        at = f"transformer.resblocks.{i}"
        h = norm(w, f"{at}.ln_1", x, 1e-5).transpose(0, 1)
        out, _ = F.multi_head_attention_forward(
            h, h, h, h.shape[-1], heads, w[f"{at}.attn.in_proj_weight"], w[f"{at}.attn.in_proj_bias"], None, None,
            False, 0.0, w[f"{at}.attn.out_proj.weight"], w[f"{at}.attn.out_proj.bias"], need_weights=False,
        )  # fmt: skip
        x = x + out.transpose(0, 1)
        h = linear(w, f"{at}.mlp.c_fc", norm(w, f"{at}.ln_2", x, 1e-5))
        x = x + linear(w, f"{at}.mlp.c_proj", h * torch.sigmoid(1.702 * h) if quick else F.gelu(h))
    return norm(w, "ln_post", x, 1e-5)


def jax_shapes(
    cls: bool = True, big: bool = False, pooled: bool = False, heads: int = HEADS
) -> dict[str, tuple[int, ...]]:
    """AugReg's names; with `big` those of big_vision, with `pooled` SigLIP's head by attention."""
    d, width = WIDTH, WIDTH // heads
    position = "pos_embedding" if big else "Transformer/posembed_input/pos_embedding"
    names = ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0") if big else (
        "LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")  # fmt: skip

    def attention(at: str) -> dict[str, tuple[int, ...]]:
        parts = {
            f"{at}/{p}/{k}": s
            for p in ("query", "key", "value")
            for k, s in (("kernel", (d, heads, width)), ("bias", (heads, width)))
        }
        return parts | {f"{at}/out/kernel": (heads, width, d), f"{at}/out/bias": (d,)}

    def feed(at: str) -> dict[str, tuple[int, ...]]:
        return {f"{at}/Dense_0/kernel": (d, 4 * d), f"{at}/Dense_0/bias": (4 * d,),
                f"{at}/Dense_1/kernel": (4 * d, d), f"{at}/Dense_1/bias": (d,)}  # fmt: skip

    def scale(at: str) -> dict[str, tuple[int, ...]]:
        return {f"{at}/scale": (d,), f"{at}/bias": (d,)}

    shapes: dict[str, tuple[int, ...]] = {
        "embedding/kernel": (PATCH, PATCH, 3, d), "embedding/bias": (d,), position: (1, GRID * GRID + cls, d),
        **scale("Transformer/encoder_norm"), "head/kernel": (d, 7), "head/bias": (7,),
    }  # fmt: skip
    if cls:
        shapes["cls"] = (1, 1, d)
    for i in range(DEPTH):
        at = f"Transformer/encoderblock_{i}/"
        shapes |= scale(at + names[0]) | attention(at + names[1]) | scale(at + names[2]) | feed(at + names[3])
    if pooled:
        at = "MAPHead_0/"
        shapes |= (
            {at + "probe": (1, 1, d)} | attention(at + "MultiHeadDotProductAttention_0") | scale(at + "LayerNorm_0")
        )
        shapes |= feed(at + "MlpBlock_0")
    return shapes


def jax_tokens(w: Tensors, x: Tensor) -> Tensor:
    """Flax's modules as einsums over (in, heads, head width) kernels; AugReg's or big_vision's names."""

    def ln(at: str, x: Tensor) -> Tensor:
        return norm({"n.weight": w[f"{at}/scale"], "n.bias": w[f"{at}/bias"]}, "n", x)

    kernel = w["embedding/kernel"]
    x = torch.einsum("bchpwq,pqcd->bhwd", x.unflatten(3, (GRID, PATCH)).unflatten(2, (GRID, PATCH)), kernel)
    x = (x + w["embedding/bias"]).flatten(1, 2)
    if "cls" in w:
        x = torch.cat([w["cls"].expand(len(x), -1, -1), x], 1)
    x = x + w.get("pos_embedding", w.get("Transformer/posembed_input/pos_embedding"))
    for i in range(DEPTH):
        at = f"Transformer/encoderblock_{i}/"
        block = {k.removeprefix(at).split("/")[0] for k in w if k.startswith(at)}
        first, second = sorted(n for n in block if n.startswith("LayerNorm"))
        attention = at + next(n for n in block if n.startswith("Multi"))
        feed = at + next(n for n in block if n.startswith("Mlp"))
        x = x + jax_attention(w, attention, ln(at + first, x), ln(at + first, x))
        h = ln(at + second, x) @ w[f"{feed}/Dense_0/kernel"] + w[f"{feed}/Dense_0/bias"]
        x = x + F.gelu(h) @ w[f"{feed}/Dense_1/kernel"] + w[f"{feed}/Dense_1/bias"]
    return ln("Transformer/encoder_norm", x)


def jax_attention(w: Tensors, at: str, queries: Tensor, x: Tensor) -> Tensor:
    q = torch.einsum("bnd,dhk->bhnk", queries, w[f"{at}/query/kernel"]) + w[f"{at}/query/bias"][:, None]
    k, v = (
        torch.einsum("bnd,dhk->bhnk", x, w[f"{at}/{p}/kernel"]) + w[f"{at}/{p}/bias"][:, None] for p in ("key", "value")
    )
    weights = (torch.einsum("bhnk,bhmk->bhnm", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
    mixed = torch.einsum("bhnm,bhmk->bnhk", weights, v)
    return torch.einsum("bnhk,hkd->bnd", mixed, w[f"{at}/out/kernel"]) + w[f"{at}/out/bias"]


def jax_pooled(w: Tensors, tokens: Tensor) -> Tensor:
    """SigLIP's MAPHead."""
    at = "MAPHead_0/"
    x = jax_attention(w, at + "MultiHeadDotProductAttention_0", w[at + "probe"].expand(len(tokens), -1, -1), tokens)
    h = norm({"n.weight": w[at + "LayerNorm_0/scale"], "n.bias": w[at + "LayerNorm_0/bias"]}, "n", x)
    h = F.gelu(h @ w[at + "MlpBlock_0/Dense_0/kernel"] + w[at + "MlpBlock_0/Dense_0/bias"])
    return (x + h @ w[at + "MlpBlock_0/Dense_1/kernel"] + w[at + "MlpBlock_0/Dense_1/bias"])[:, 0]
