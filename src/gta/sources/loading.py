"""Load the frozen source model from a hub name or a checkpoint file, and say what was found.

A source spec is `timm:NAME` (weights from timm's hub), `hf:NAME` or a folder (transformers), `gta:butterflies` (the
small one inside this package, for the demo and for tests) or the path of a checkpoint as its authors publish it, see
`gta.sources.checkpoints`. The architecture comes from the file's metadata (`architecture`, and `model_args` as JSON) or from
its keys and tensor shapes.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from gta.errors import GtaError
from gta.sources import transformers as huggingface
from gta.sources.checkpoints.files import read_checkpoint
from gta.sources.checkpoints.layout import Converted
from gta.sources.checkpoints.recognise import recognise, some
from gta.sources.checkpoints.shapes import infer_architecture

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EMBEDDED = {"gta:butterflies": Path(__file__).parents[1] / "worlds" / "butterflies.safetensors"}
MIN_COVERAGE = 0.95
_HEADS = ("head.", "head_dist.")


@dataclass(frozen=True)
class SourceInfo:
    """What `load_source` found; kept on the source as `source.info`.

    Attributes:
        spec: the spec that was loaded.
        architecture: timm entry point; `timm.create_model(architecture, **model_args)` builds the model.
        model_args: its arguments, image size included.
        mean, std: normalisation of the RGB channels in [0, 1].
        layout: the family of checkpoints that the file was recognised as; "timm" or "transformers" for weights from
            those libraries' hubs and folders.
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
    layout: str = "timm"

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
        spec: `timm:NAME`, `hf:NAME`, `gta:butterflies`, a checkpoint file, or a folder of timm's or transformers'.
        image_size: side of the images in px; position embeddings are resampled to it (bicubic, antialiased).
            None keeps the size the weights were trained at.
        heads: attention heads, where they are not width / 64 and the file does not say.

    Returns:
        A ViT of timm in float32; of transformers where the spec says so.

    Raises:
        GtaError: nothing there, not loadable without running code, not a plain ViT, a matrix or over 5 % of the
            model's keys not filled, weights that are not finite, or an image size the patches do not divide.
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
    from timm.models.eva import Eva  # DINOv3's, with rotary positions
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(model, (VisionTransformer, Eva)):
        raise GtaError(f"{spec} is a {type(model).__name__}, no plain Vision Transformer of timm.")


# --- file -------------------------------------------------------------------------------------------------


def _from_file(spec: str, path: Path, image_size: int | None, heads: int | None) -> nn.Module:
    import timm

    if heads is not None and heads < 1:
        raise GtaError(f"heads={heads} is no number of attention heads: write 1 or more.")
    raw, metadata = read_checkpoint(path)
    layout, found = recognise(raw, path)
    bad = [k for k, v in found.tensors.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise GtaError(f"{path}: {len(bad)} tensors hold NaN or infinity, {bad[0]} among them; the file is damaged.")
    name = metadata.get("architecture", "")
    if name and timm.is_model(name):
        architecture, args = name, _model_args(metadata, path)
    elif "img_size" in found.args:  # the layout says it all
        architecture, args = str(found.architecture), dict(found.args)
    else:
        architecture, args = infer_architecture(found.tensors, path, heads)
        architecture, args = found.architecture or architecture, args | dict(found.args)
        if found.guess:
            warnings.warn(f"{spec}: {found.guess}.", stacklevel=3)
    if heads is not None:
        args["num_heads"] = heads
    if image_size is None and "img_size" not in args:
        default: Any = build(architecture, {**args, "num_classes": 0})
        _check_vit(default, spec)
        image_size = default.patch_embed.img_size[0]
    args["img_size"] = image_size or args["img_size"]
    model: Any = build(architecture, {**args, "num_classes": 0})
    return _fill(model, found, layout.name, spec, architecture, args, metadata)


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
    found: Converted,
    layout: str,
    spec: str,
    architecture: str,
    args: dict[str, Any],
    metadata: Mapping[str, str],
) -> nn.Module:
    from timm.models.vision_transformer import checkpoint_filter_fn

    _check_vit(model, spec)
    wanted = {k: v.shape for k, v in model.state_dict().items() if not k.startswith(_HEADS)}
    try:
        converted = checkpoint_filter_fn(found.tensors, model)  # resamples the position embedding
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise GtaError(f"{spec}: its position or patch embedding does not fit {architecture}: {error}") from error
    fitting = {k: v for k, v in converted.items() if k in wanted and v.shape == wanted[k] and v.is_floating_point()}
    info = SourceInfo(
        spec=spec,
        architecture=architecture,
        model_args=args,
        mean=_channels(metadata, "mean", found.mean or IMAGENET_MEAN, spec),
        std=_channels(metadata, "std", found.std or IMAGENET_STD, spec),
        layout=layout,
        matched=tuple(k for k in wanted if k in fitting),
        missing=tuple(k for k in wanted if k not in fitting),
        unexpected=tuple(k for k in converted if k not in wanted),
    )
    matrices = tuple(k for k in info.missing if len(wanted[k]) > 1)
    missing = info.missing if info.coverage < MIN_COVERAGE else matrices
    if missing:
        raise GtaError(
            f"{spec}, read as {layout}, fills only {len(info.matched)} of {len(wanted)} keys ({info.coverage:.0%}) of "
            f"{architecture} {args}, where {MIN_COVERAGE:.0%} and every matrix are needed: the file is partial or of "
            f"another architecture. Missing: {some(missing)}. Not used: {some(info.unexpected)}."
        )
    if info.missing:
        warnings.warn(
            f"{spec} lacks {len(info.missing)} of {len(wanted)} keys of {architecture}; they keep random values: "
            f"{some(info.missing)}.",
            stacklevel=4,
        )
    model.load_state_dict(fitting, strict=False)
    model.info = info
    return model


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
