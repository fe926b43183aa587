"""Load the frozen source model from a hub name or a checkpoint file, and say what was found.

A source spec is `timm:NAME` (weights from timm's hub), `hf:NAME` or a folder (transformers), `gta:butterflies` (the
small one inside this package, for the demo and for tests) or the path of a checkpoint as its authors publish it, see
`gta.sources.checkpoints`. The architecture comes from the file's metadata (`architecture`, and `model_args` as JSON) or
from its keys and tensor shapes.
"""

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn

from gta.errors import GtaError
from gta.sources import transformers as huggingface
from gta.sources.checkpoint_files import read_checkpoint
from gta.sources.info import IMAGENET_MEAN, IMAGENET_STD, SourceInfo, source_info
from gta.sources.layout import MAX_DEPTH, Tensors
from gta.sources.recognition import recognise, some
from gta.sources.shapes import infer_architecture

EMBEDDED = {"gta:butterflies": Path(__file__).parents[1] / "worlds" / "butterflies.safetensors"}
MIN_COVERAGE = 0.95
_HEADS = ("head.", "head_dist.")


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
    for name, value in (("image_size", image_size), ("heads", heads)):
        if value is not None and value < 1:
            raise GtaError(f"{name} must be 1 or more, got {name}={value}.")
    if spec.startswith("hf:") or huggingface.is_folder(spec):
        source = huggingface.load(spec, image_size)
    elif spec.startswith("timm:"):
        source = _from_hub(spec, image_size)
    else:
        source = _from_file(spec, image_size, heads)
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
    target.pretrained_cfg = {**target.pretrained_cfg, "mean": info.mean, "std": info.std}
    return target.train()


def build(architecture: str, model_args: Mapping[str, Any]) -> Any:
    """`timm.create_model` with random weights and a message a user can act on.

    Raises:
        GtaError: timm refuses these arguments, it is not a plain ViT, or the patches do not divide the image size.
    """
    import timm
    from timm.models.eva import Eva  # DINOv3's, with rotary positions
    from timm.models.vision_transformer import VisionTransformer

    _check_args(model_args)
    try:
        if model_args.get("patch_size") == 0:
            raise ValueError("patches of 0 px")
        model = timm.create_model(architecture, pretrained=False, **model_args)
    except Exception as error:  # arguments from a file make timm and torch raise errors of many kinds
        said = f"{type(error).__name__}: {str(error)[:300]}"
        raise GtaError(f"timm cannot build {architecture!r} with {some_args(model_args)} ({said}).") from error
    if not isinstance(model, (VisionTransformer, Eva)):
        raise GtaError(f"{architecture} must be a plain Vision Transformer of timm, got a {type(model).__name__}.")
    size, patch = model_args.get("img_size"), max(model.patch_embed.patch_size)
    if isinstance(size, int) and size % patch:
        low = max(patch, size // patch * patch)
        raise GtaError(
            f"image size {size} is not a multiple of {architecture}'s {patch} px patches: use {low} or {low + patch}."
        )
    return model


def _from_hub(spec: str, image_size: int | None) -> nn.Module:
    import timm

    name = spec.removeprefix("timm:")
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('.')[0]}*")[:5]
        hint = f" Did you mean one of {', '.join(close)}?" if close else " `timm.list_models()` lists them."
        raise GtaError(f"timm has no model called {name!r}.{hint}")
    args: dict[str, Any] = {"num_classes": 0} | ({} if image_size is None else {"img_size": image_size})
    build(name, args)  # a bad size is told before the download
    try:
        model: Any = timm.create_model(name, pretrained=True, **args)
    except Exception as error:  # hub clients raise errors of many packages
        raise GtaError(
            f"the weights of {spec!r} could not be fetched ({type(error).__name__}: {str(error)[:200]}). Check the "
            "network, or download the checkpoint elsewhere and give its file: --source FILE.safetensors"
        ) from error
    model.info = SourceInfo(
        spec=spec,
        architecture=name,
        model_args={"img_size": int(model.patch_embed.img_size[0])},
        mean=tuple(model.pretrained_cfg["mean"]),
        std=tuple(model.pretrained_cfg["std"]),
        matched=tuple(k for k in model.state_dict() if not k.startswith(_HEADS)),
    )
    return model


def _from_file(spec: str, image_size: int | None, heads: int | None) -> nn.Module:
    import timm

    path = EMBEDDED.get(spec, Path(spec))
    raw, metadata = read_checkpoint(path)
    try:
        layout, found, others = recognise(raw)
        bad = [k for k, v in (others | found.tensors).items() if v.is_floating_point() and not v.isfinite().all()]
        if bad:
            raise GtaError(f"{len(bad)} tensors hold NaN or infinity, {bad[0]} among them; the file is damaged.")
        mean = _channels(metadata, "mean", found.mean or IMAGENET_MEAN)
        std = _channels(metadata, "std", found.std or IMAGENET_STD)
        named, notes = metadata.get("architecture", ""), []
        architecture = named
        if named and timm.is_model(named):
            args = _model_args(metadata)
        elif "img_size" in found.args:  # the layout says it all
            architecture, args = str(found.architecture), dict(found.args)
        else:
            architecture, args = infer_architecture(found.tensors, heads)
            architecture, args = found.architecture or architecture, args | dict(found.args)
            if found.guess:
                notes.append(f"{spec}: {found.guess}.")
            if named:
                told = "" if heads else f" with {args['num_heads']} heads, which --heads N (heads=N) would set"
                notes.append(
                    f"{spec} names an architecture {named[:60]!r} that timm lacks: read as {architecture}{told}."
                )
    except GtaError as error:
        raise GtaError(f"{path}: {error}") from error.__cause__
    for note in notes:
        warnings.warn(note, stacklevel=3)
    if heads is not None:
        args["num_heads"] = heads
    if image_size is None and "img_size" not in args:
        image_size = build(architecture, {**args, "num_classes": 0}).patch_embed.img_size[0]
    args["img_size"] = image_size or args["img_size"]
    model = build(architecture, {**args, "num_classes": 0})
    return _fill(
        model,
        found.tensors,
        others,
        SourceInfo(spec, architecture, args, mean, std, layout=layout.name, notes=tuple(notes)),
    )


def _fill(model: Any, tensors: Tensors, others: Tensors, info: SourceInfo) -> nn.Module:
    """Load the tensors, their position and patch embeddings resampled by timm, and put what was found at `.info`."""
    from timm.models import eva, vision_transformer

    wanted = {k: v.shape for k, v in model.state_dict().items() if not k.startswith(_HEADS)}
    try:
        if isinstance(model, eva.Eva):
            converted = eva.checkpoint_filter_fn(tensors, model)
        else:
            converted = vision_transformer.checkpoint_filter_fn(tensors, model, adapt_layer_scale=True)
    except Exception as error:  # shapes that nobody expected
        raise GtaError(
            f"{info.spec}: its position or patch embedding does not fit {info.architecture}: {error}"
        ) from error
    fitting = {k: v for k, v in converted.items() if k in wanted and v.shape == wanted[k] and v.is_floating_point()}
    model.info = info = replace(
        info,
        matched=tuple(k for k in wanted if k in fitting),
        missing=tuple(k for k in wanted if k not in fitting),
        unexpected=tuple(k for k in (*others, *converted) if k not in wanted),
    )
    missing = info.missing if info.coverage < MIN_COVERAGE else [k for k in info.missing if len(wanted[k]) > 1]
    if missing:
        raise GtaError(
            f"{info.spec}, read as {info.layout}, fills only {len(info.matched)} of {len(wanted)} keys "
            f"({info.coverage:.0%}) of {info.architecture} {info.model_args}, where {MIN_COVERAGE:.0%} and every "
            "matrix are needed: the file is partial or of another architecture. "
            f"Missing: {some(missing)}. Not used: {some(info.unexpected)}."
        )
    if info.missing:
        note = (
            f"{info.spec} lacks {len(info.missing)} of {len(wanted)} keys of {info.architecture}; they keep random "
            f"values: {some(info.missing)}."
        )
        model.info = replace(info, notes=(*info.notes, note))
        warnings.warn(note, stacklevel=4)
    model.load_state_dict(fitting, strict=False)
    return model


def _model_args(metadata: Mapping[str, str]) -> dict[str, Any]:
    text = metadata.get("model_args", "{}")
    try:
        args = json.loads(text)
    except (ValueError, RecursionError):
        args = None
    if not isinstance(args, dict):
        raise GtaError(f"its metadata's model_args must be a JSON object, got {text[:80]!r}.")
    return {k: v for k, v in args.items() if k != "num_classes"}


def _check_args(args: Mapping[str, Any]) -> None:
    """Raise GtaError unless a model's arguments say what its ViT is like and nothing else, such as a path to open."""
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    known = {name for kind in (VisionTransformer, Eva) for name in signature(kind.__init__).parameters} - {"self"}
    for key, value in args.items():
        if key not in known:
            raise GtaError(f"model_args have {key[:60]!r}, which is no argument of a ViT: remove it from the file.")
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(n, (int, float)) and not abs(n) <= _LARGEST.get(key, 1 << 16) for n in numbers):
            raise GtaError(f"model_args have {key}={str(value)[:60]}: no ViT has that.")


_LARGEST = {"depth": MAX_DEPTH}


def some_args(args: Mapping[str, Any]) -> str:
    """Arguments for a message."""
    text = str(dict(args))
    return text if len(text) < 300 else f"{text[:300]}…"


def _channels(metadata: Mapping[str, str], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """Mean or standard deviation of the colour channels."""
    try:
        values = tuple(float(x) for x in metadata[key].split(",")) if key in metadata else default
    except ValueError:
        values = ()
    if not values or not all(map(math.isfinite, values)) or (key == "std" and min(values) <= 0):
        raise GtaError(f"its metadata's {key} must be numbers such as 0.5,0.5,0.5, got {metadata[key]!r}.")
    return values
