"""Sources from transformers: `hf:NAME` of the hub, or a folder written by `save_pretrained`."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from gta.errors import GtaError
from gta.sources.info import IMAGENET_MEAN, IMAGENET_STD, SourceInfo

_HEAD = ("classifier.", "pooler.", "head.")


def load(spec: str, image_size: int | None) -> nn.Module:
    """The backbone of a transformers checkpoint, with fused attention and `SourceInfo` at `.info`.

    A checkpoint of two towers (CLIP, SigLIP) gives its vision tower.

    Args:
        spec: `hf:NAME`, or the path of a folder that has a `config.json`.
        image_size: side of the images in px. None, or the size the weights were trained at; another only for
            models that take images of any size (DINOv2, DINOv3).

    Raises:
        GtaError: transformers is not installed, nothing there, no model of it that sees images, keys missing, or
            an image size the model has no positions for.
    """
    try:
        import transformers
    except ImportError as error:
        raise GtaError(f'{spec!r} needs transformers: pip install "gta-vit[transformers]"') from error
    name = spec.removeprefix("hf:")
    try:
        config: Any = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        tower = getattr(config, "vision_config", None)
        model, found = transformers.AutoModel.from_pretrained(
            name,
            config=tower or config,
            attn_implementation="sdpa",
            output_loading_info=True,
            trust_remote_code=False,  # neither run nor asked for
        )
    except Exception as error:  # hub clients raise errors of many packages
        raise GtaError(
            f"{spec!r} could not be loaded by transformers ({type(error).__name__}: {str(error)[:200]}). Check the "
            "name and the network, or give the folder of a checkpoint that save_pretrained wrote."
        ) from error
    missing = sorted(k for k in found["missing_keys"] if not k.startswith(_HEAD))
    if missing or found["mismatched_keys"]:
        raise GtaError(
            f"{spec} leaves {len(missing)} keys of {type(model).__name__} unfilled, {missing[:3]} among them."
        )
    mean, std = _normalisation(name)
    model.info = SourceInfo(
        spec=spec,
        architecture=type(model).__name__,
        model_args={"img_size": _image_size(model.config, spec, image_size)},
        mean=mean,
        std=std,
        layout="transformers",
        matched=tuple(model.state_dict()),
    )
    return model


def is_folder(spec: str) -> bool:
    """Whether the spec is a folder that transformers' `save_pretrained` wrote (timm's have another config.json)."""
    try:
        config = json.loads((Path(spec) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "model_type" in config


def new_target(source: nn.Module, num_classes: int) -> nn.Module:
    """A trainable image classifier with the source's backbone, in train mode and with fused attention.

    Raises:
        GtaError: transformers has no image classifier for this kind of model (DINOv3, vision towers).
    """
    import transformers

    config = type(source.config).from_dict({**source.config.to_dict(), "num_labels": num_classes})  # type: ignore[union-attr,operator,attr-defined]
    try:
        target: Any = transformers.AutoModelForImageClassification.from_config(config, attn_implementation="sdpa")
    except ValueError as error:
        raise GtaError(
            f"transformers has no image classifier for {type(config).__name__}: put a head on a copy.deepcopy of the "
            "source in a module of your own; gta.guide takes that."
        ) from error
    weights = source.state_dict()
    left = target.base_model.load_state_dict(weights, strict=False)
    if left.missing_keys or any(not k.startswith(_HEAD) for k in left.unexpected_keys):
        raise GtaError(f"{type(target).__name__} could not be built around {type(source).__name__}: {left}")
    return target.train()


def _image_size(config: Any, spec: str, wanted: int | None) -> int:
    trained: int = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    patch: int = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0]
    if wanted is None or wanted == trained:
        return trained
    if wanted % patch:
        low = max(patch, wanted // patch * patch)
        raise GtaError(
            f"image size {wanted} is not a multiple of {spec}'s {patch} px patches: use {low} or {low + patch}."
        )
    if not config.model_type.startswith("dino"):
        raise GtaError(
            f"{spec} has positions for {trained} px images, not for {wanted}: leave image_size out, and write "
            "guided(images, interpolate_pos_encoding=True) where the model takes that."
        )
    return wanted


def _normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from transformers.utils import cached_file

    file = cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    config = json.loads(Path(file).read_text()) if file else {}
    return tuple(config.get("image_mean", IMAGENET_MEAN)), tuple(config.get("image_std", IMAGENET_STD))
