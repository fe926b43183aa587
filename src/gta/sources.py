"""Load the frozen source model from a hub name or a checkpoint file, and say what was found.

A source spec is `timm:NAME` (weights from timm's hub), `hf:NAME` or a folder (transformers), `gta:butterflies` (the
small one inside this package, for the demo and for tests) or the path of a `.safetensors`, `.pth` or `.pt` file holding
a plain ViT in timm's or the DINO/DeiT/DINOv2 authors' layout. The architecture comes from the file's metadata
(`architecture`, and `model_args` as JSON) or from its tensor shapes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gta import huggingface
from gta.errors import GtaError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EMBEDDED = {"gta:butterflies": Path(__file__).parent / "worlds" / "butterflies.safetensors"}
MIN_COVERAGE = 0.95
HEAD_WIDTH = 64  # of every ViT-Ti/S/B/L/g published by DeiT, DINO, iBOT, MAE and DINOv2
_WRAPPERS = ("teacher", "student", "model_ema", "model", "state_dict")  # the first that is there wins
_HEADS = ("head.", "head_dist.")


@dataclass(frozen=True)
class SourceInfo:
    """What `load_source` found; kept on the source as `source.info`.

    Attributes:
        spec: the spec that was loaded.
        architecture: timm entry point; `timm.create_model(architecture, **model_args)` builds the model.
        model_args: its arguments, image size included.
        mean, std: normalisation of the RGB channels in [0, 1].
        matched, missing, unexpected: keys of the model (its classifier left out) that the file filled, that
            it did not fill (absent, or of another shape), and keys of the file that the model has no use for.
    """

    spec: str
    architecture: str
    model_args: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    @property
    def coverage(self) -> float:
        """Share of the model's keys that were filled, 0 to 1."""
        return len(self.matched) / max(1, len(self.matched) + len(self.missing))

    @property
    def image_size(self) -> int:
        size = self.model_args["img_size"]
        return int(size if isinstance(size, int) else size[0])


def load_source(spec: str | Path, image_size: int | None = None, *, heads: int | None = None) -> nn.Module:
    """Load a source: frozen, in eval mode, without classifier, its `SourceInfo` at `.info`.

    Args:
        spec: `timm:NAME`, `hf:NAME`, a folder written by transformers' `save_pretrained`, `gta:butterflies`, or a
            checkpoint file.
        image_size: side of the images in px; position embeddings are resampled to it (bicubic, antialiased).
            None keeps the size the weights were trained at.
        heads: attention heads, where they are not width / 64 and the file does not say.

    Returns:
        A ViT of timm in float32; of transformers where the spec says so.

    Raises:
        GtaError: nothing there, not loadable without running code, not a plain ViT, less than 95 % of the
            model's keys filled, weights that are not finite, or an image size the patches do not divide.
    """
    spec = str(spec)
    if image_size is not None and image_size < 1:
        raise GtaError(f"image_size={image_size} is not a size in px: write a positive number.")
    if spec.startswith("hf:") or huggingface.is_folder(spec):
        return huggingface.load(spec, image_size).requires_grad_(False).eval()
    if spec.startswith("timm:"):
        source = _from_hub(spec, image_size)
    else:
        source = _from_file(spec, EMBEDDED.get(spec, Path(spec)), image_size, heads)
    return source.requires_grad_(False).eval()


def new_target(source: nn.Module, num_classes: int) -> nn.Module:
    """A trainable copy of a source from `load_source`, with a fresh classifier (from torch's global RNG).

    Returns:
        A plain timm model in train mode, its `.pretrained_cfg` carrying the source's mean and std; of a source from
        transformers, its image classifier.
    """
    info = source_info(source)
    if hasattr(source, "config"):
        return huggingface.new_target(source, num_classes)
    target = build(info.architecture, {**info.model_args, "num_classes": num_classes})
    weights = {k: v for k, v in source.state_dict().items() if not k.startswith(_HEADS)}
    left = target.load_state_dict(weights, strict=False)
    if left.unexpected_keys or any(not k.startswith(_HEADS) for k in left.missing_keys):
        raise GtaError(f"{info.spec}: {info.architecture} could not be rebuilt from its own arguments: {left}")
    target.pretrained_cfg = {**target.pretrained_cfg, "mean": info.mean, "std": info.std}  # type: ignore[dict-item,assignment]
    return target.train()


def source_info(source: nn.Module) -> SourceInfo:
    """What `load_source` found when it loaded this source."""
    info = getattr(source, "info", None)
    if not isinstance(info, SourceInfo):
        raise GtaError(f"this {type(source).__name__} did not come from gta.load_source: load it with that.")
    return info


def build(architecture: str, model_args: Mapping[str, Any]) -> nn.Module:
    """`timm.create_model` with random weights and a message a user can act on."""
    import timm

    size, patch = model_args.get("img_size"), model_args.get("patch_size")
    try:
        model = timm.create_model(architecture, pretrained=False, **model_args)
    except (RuntimeError, TypeError, AssertionError, ValueError) as error:
        raise GtaError(f"timm cannot build {architecture!r} with {dict(model_args)}: {error}") from error
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", patch)
    if isinstance(size, int) and isinstance(patch, Sequence) and any(size % p for p in patch):
        p = max(patch)
        low = max(p, size // p * p)
        raise GtaError(
            f"image size {size} is not a multiple of {architecture}'s {p} px patches: use {low} or {low + p}."
        )
    return model


def digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes and float32 values of the state dict, as 64 hex digits."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(f"{name}{tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return sha.hexdigest()


# --- hub --------------------------------------------------------------------------------------------------


def _from_hub(spec: str, image_size: int | None) -> nn.Module:
    import timm

    name = spec.removeprefix("timm:")
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('.')[0]}*")[:5]
        hint = f" Did you mean one of {', '.join(close)}?" if close else " `timm.list_models()` lists them."
        raise GtaError(f"timm has no model called {name!r}.{hint}")
    args: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    build(name, {**args, "num_classes": 0})  # a bad size is told before the download
    try:
        model: Any = timm.create_model(name, pretrained=True, num_classes=0, **args)
    except Exception as error:  # hub clients raise errors of many packages
        raise GtaError(
            f"the weights of {spec!r} could not be fetched ({type(error).__name__}: {str(error)[:200]}). Check the "
            "network, or download the checkpoint elsewhere and give its file: --source FILE.safetensors"
        ) from error
    _check_vit(model, spec)
    config = model.pretrained_cfg
    model.info = SourceInfo(
        spec=spec,
        architecture=name,
        model_args={"img_size": int(model.patch_embed.img_size[0])},
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        matched=tuple(k for k in model.state_dict() if not k.startswith(_HEADS)),
    )
    return model


def _check_vit(model: nn.Module, spec: str) -> None:
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(model, VisionTransformer):
        raise GtaError(f"{spec} is a {type(model).__name__}, no plain Vision Transformer of timm.")


# --- file -------------------------------------------------------------------------------------------------


def _from_file(spec: str, path: Path, image_size: int | None, heads: int | None) -> nn.Module:
    import timm

    if heads is not None and heads < 1:
        raise GtaError(f"heads={heads} is no number of attention heads: write 1 or more.")
    tensors, metadata = read_checkpoint(path)
    tensors = _timm_names(_strip_prefix(tensors, path))
    bad = [k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise GtaError(f"{path}: {len(bad)} tensors hold NaN or infinity, {bad[0]} among them; the file is damaged.")
    name = metadata.get("architecture", "")
    if name and timm.is_model(name):
        architecture, args = name, _model_args(metadata, path)
        if heads is not None:
            args["num_heads"] = heads
    else:
        architecture, args = infer_architecture(tensors, path, heads)
    if image_size is None and "img_size" not in args:
        default: Any = build(architecture, {**args, "num_classes": 0})
        _check_vit(default, spec)
        image_size = default.patch_embed.img_size[0]
    args["img_size"] = image_size or args["img_size"]
    model: Any = build(architecture, {**args, "num_classes": 0})
    return _fill(model, tensors, spec, architecture, args, metadata)


def _model_args(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    text = metadata.get("model_args", "{}")
    try:
        args = json.loads(text)
    except ValueError:
        args = None
    if not isinstance(args, dict):
        raise GtaError(f"{path}: its metadata's model_args is no JSON object: {text[:80]!r}.")
    args.pop("num_classes", None)
    return args


def _fill(
    model: Any,
    tensors: dict[str, Tensor],
    spec: str,
    architecture: str,
    args: dict[str, Any],
    metadata: Mapping[str, str],
) -> nn.Module:
    from timm.models.vision_transformer import checkpoint_filter_fn

    _check_vit(model, spec)
    wanted = {k: v.shape for k, v in model.state_dict().items() if not k.startswith(_HEADS)}
    try:
        converted = checkpoint_filter_fn(tensors, model)  # resamples the position embedding
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise GtaError(f"{spec}: its position or patch embedding does not fit {architecture}: {error}") from error
    fitting = {k: v for k, v in converted.items() if k in wanted and v.shape == wanted[k]}
    info = SourceInfo(
        spec=spec,
        architecture=architecture,
        model_args=args,
        mean=_channels(metadata, "mean", IMAGENET_MEAN, spec),
        std=_channels(metadata, "std", IMAGENET_STD, spec),
        matched=tuple(k for k in wanted if k in fitting),
        missing=tuple(k for k in wanted if k not in fitting),
        unexpected=tuple(k for k in converted if k not in wanted),
    )
    if info.coverage < MIN_COVERAGE:
        raise GtaError(
            f"{spec} fills only {len(info.matched)} of {len(wanted)} keys ({info.coverage:.0%}) of {architecture} "
            f"{args}, where {MIN_COVERAGE:.0%} are needed: the file is partial or of another architecture. "
            f"Missing: {_some(info.missing)}. Not used: {_some(info.unexpected)}."
        )
    if info.missing:
        warnings.warn(
            f"{spec} lacks {len(info.missing)} of {len(wanted)} keys of {architecture}; they keep random values: "
            f"{_some(info.missing)}.",
            stacklevel=4,
        )
    model.load_state_dict(fitting, strict=False)
    model.info = info
    return model


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a checkpoint file; pickles are read with `weights_only=True` only.

    Raises:
        GtaError: no such file, another ending, a damaged file, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise GtaError(
            f"source {str(path)!r} is no file. Write a .safetensors, .pth or .pt file, timm:NAME for weights "
            "from timm's hub, such as timm:vit_small_patch14_dinov2.lvd142m, or gta:butterflies."
        )
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                return {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise GtaError(f"{path} is no readable safetensors file ({error}); fetch it again.") from error
    if path.suffix in (".pth", ".pt"):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and torch raise errors of many kinds on damaged files
            raise GtaError(
                f"{path} cannot be read as plain tensors ({type(error).__name__}: {_first_line(error)})."
                " It is damaged or holds Python objects, which are never run here: save its state_dict as "
                ".safetensors where you trust it."
            ) from error
        return _unwrap(content, path), {}
    raise GtaError(f"source {str(path)!r} ends in {path.suffix!r}; .safetensors, .pth and .pt files are read.")


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[w] for w in _WRAPPERS if isinstance(content.get(w), Mapping)), None)
        if inner is None:
            return {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        content = inner
    raise GtaError(f"{path} holds a {type(content).__name__}, not a state dict of named tensors.")


def _strip_prefix(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Drop `module.`, `backbone.`, `encoder.` and the like: whatever stands before the patch embedding."""
    landmark = "patch_embed.proj.weight"
    prefixes = [k.removesuffix(landmark) for k in tensors if k.endswith(landmark)]
    if not prefixes:
        raise GtaError(
            f"{path} holds no plain ViT in timm's layout: none of its {len(tensors)} tensors is called "
            f"…{landmark}. It has {_some(tuple(tensors))}."
        )
    prefix = min(prefixes, key=lambda p: ("teacher" not in p, len(p)))
    others = {k: v for k, v in tensors.items() if not k.startswith(prefix)}
    return others | {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _timm_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the DeiT-III and DINOv2 authors' tensors to timm's."""
    renamed = {
        "reg_token"
        if k == "register_tokens"
        else k.replace(".gamma_1", ".ls1.gamma").replace(".gamma_2", ".ls2.gamma"): v
        for k, v in tensors.items()
    }
    if "register_tokens" in tensors and {"pos_embed", "cls_token"} <= renamed.keys():
        # The authors add the [cls] position before inserting registers; timm keeps it inside cls_token.
        position = renamed["pos_embed"]
        renamed["cls_token"] = renamed["cls_token"] + position[:, :1]
        renamed["pos_embed"] = position[:, 1:]
    if "reg_token" in renamed or "cls_token" in renamed:
        renamed.pop("mask_token", None)  # used in pre-training only
    return renamed


def infer_architecture(
    tensors: Mapping[str, Tensor], path: Path, heads: int | None = None
) -> tuple[str, dict[str, Any]]:
    """timm entry point and arguments of the plain ViT whose tensors these are."""
    shape = tensors["patch_embed.proj.weight"].shape
    if len(shape) != 4 or shape[2] != shape[3]:
        raise GtaError(
            f"{path}: its patch embedding has shape {tuple(shape)}, where (width, channels, patch, patch) is that of "
            "a plain ViT for images."
        )
    width, channels, patch, _ = shape
    for name in ("cls_token", "dist_token", "reg_token", "pos_embed"):
        if name in tensors and tensors[name].ndim != 3:
            raise GtaError(f"{path}: {name} has shape {tuple(tensors[name].shape)}, where (1, tokens, width) is usual.")
    blocks = [int(k.split(".")[1]) for k in tensors if k.startswith("blocks.") and k.split(".")[1].isdigit()]
    if not blocks or "blocks.0.attn.qkv.weight" not in tensors or "blocks.0.mlp.fc1.weight" not in tensors:
        raise GtaError(
            f"{path} has a patch embedding but no blocks.N.attn.qkv and blocks.N.mlp.fc1: not a plain ViT. "
            f"It has {_some(tuple(tensors))}."
        )
    if heads is None:
        if width % HEAD_WIDTH:
            raise GtaError(
                f"{path}: width {width} is not a multiple of {HEAD_WIDTH}, so the number of heads cannot be told "
                "from the shapes: give it with heads=N (--heads N)."
            )
        heads = width // HEAD_WIDTH
    distilled = "dist_token" in tensors
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    prefix = int("cls_token" in tensors) + int(distilled) + registers
    args: dict[str, Any] = {
        "patch_size": patch,
        "embed_dim": width,
        "depth": max(blocks) + 1,
        "num_heads": heads,
        "mlp_ratio": tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
    }
    optional: dict[str, Any] = {
        "in_chans": channels if channels != 3 else None,
        "qk_norm": "blocks.0.attn.q_norm.weight" in tensors or None,
        "init_values": 1e-5 if "blocks.0.ls1.gamma" in tensors else None,
        "reg_tokens": registers or None,
        "pre_norm": "norm_pre.weight" in tensors or None,
        "global_pool": "avg" if "fc_norm.weight" in tensors and "norm.weight" not in tensors else None,
    }
    if "cls_token" not in tensors:
        optional["class_token"] = False
        optional["global_pool"] = "avg"
    args |= {k: v for k, v in optional.items() if v is not None}
    if "pos_embed" not in tensors:
        raise GtaError(f"{path} has no pos_embed: ViTs without learned positions cannot be rebuilt from shapes.")
    length = tensors["pos_embed"].shape[1]
    for positions in dict.fromkeys((prefix, 0)):
        side = math.isqrt(max(0, length - positions))
        if side > 0 and side * side == length - positions:
            args["img_size"] = side * patch
            if positions != prefix:
                args["no_embed_class"] = True
            break
    else:
        raise GtaError(f"{path}: {length} positions are no square grid (with or without {prefix} prefix tokens).")
    return "deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_224", args


def _channels(metadata: Mapping[str, str], key: str, default: tuple[float, ...], spec: str) -> tuple[float, ...]:
    """Mean or standard deviation of the colour channels."""
    if key not in metadata:
        return default
    try:
        values = tuple(float(x) for x in metadata[key].split(","))
    except ValueError:
        values = ()
    if not values or not all(map(math.isfinite, values)) or (key == "std" and min(values) <= 0):
        raise GtaError(f"{spec}: its metadata's {key} is {metadata[key]!r}; write numbers such as 0.5,0.5,0.5.")
    return values


def _first_line(error: Exception) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().partition("\n")[0][:160] or "no more is known"


def _some(keys: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(_shortened(keys[:most]))
    return f"{shown}, … ({len(keys)} in all)" if len(keys) > most else shown or "none"


def _shortened(keys: Sequence[str]) -> Iterator[str]:
    return (k if len(k) <= 60 else f"{k[:57]}…" for k in keys)
