"""The options of one training run; the command line and config.yaml are made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gta.errors import GtaError


@dataclass(frozen=True)
class TrainOptions:
    """Fine-tune a pre-trained ViT on a folder of photographs.

    Only --data and --out are needed. The defaults of layers, lr, epochs, crop and schedule are this package's
    own: the GTA paper does not publish them.

    Args:
        data: Folder with train/CLASS/*, and optionally val/, test/ and masks/SPLIT/CLASS/NAME.png; or a .csv file
            of path,label,split; or NAME:ROOT for a published set, such as cub:DIR, pets:DIR or hf:NAME (see
            docs/data.md). Without val, a seeded tenth of every class of train is held out.
        out: Run folder to write.
        source: Pre-trained ViT: timm:NAME, gta:butterflies, or a .safetensors, .pth or .pt file.
        heads: Attention heads of the source, where they are not width / 64 and its file does not say.
        method: "gta" guides the attention by the source's; "plain" trains on cross-entropy alone.
        weight: Lambda of the guide (gta), >= 0.
        layers: Guided layers (gta): all, last, or indices such as 0,5,-1 (a leading minus needs --layers=-1).
        distance: Distance between attention rows (gta).
        fraction: Share of every class's training images to use, above 0 and up to 1; seeded and nested.
        subset_list: File that names the training images to use, instead of fraction: a manifest of gta data
            manifest, or a published list of paths with or without classes.
        image_size: Side of the images in px, a multiple of the patch size.
        epochs: Passes over the training images; the last one's weights are the result.
        batch_size: Images per step, over all devices together (rounded down to a multiple of their number).
        lr: Peak learning rate of the backbone (AdamW; linear warm-up over a tenth of the steps, then cosine
            to zero).
        head_lr_scale: Learning rate of the fresh classifier, in multiples of lr.
        weight_decay: AdamW's weight decay; biases, norms, tokens and position embeddings have none.
        clip: Largest norm of the gradient; 0 for no limit.
        precision: "auto" takes bf16 autocast where the device computes it faster, else float32.
        seed: Seeds the subset, the classifier, the shuffling and the augmentation.
        val_every: Validate every so many epochs (the last one always is).
        workers: Processes that load images. -1: none where the CPU trains, else one per core, at most 8.
        devices: Accelerators to use. 0: all there are.
        download: Fetch a published data set into its ROOT first, where it is not there.
        skip_unreadable: Leave unreadable images out (and record them) instead of refusing to train.
    """

    data: str
    out: str
    source: str = "timm:vit_small_patch14_dinov2.lvd142m"
    heads: int | None = None
    method: Literal["gta", "plain"] = "gta"
    weight: float = 10.0
    layers: list[int] | str = "all"
    distance: Literal["l2"] = "l2"
    fraction: float = 1.0
    subset_list: str | None = None
    image_size: int = 224
    epochs: int = 15
    batch_size: int = 32
    lr: float = 1e-4
    head_lr_scale: float = 10.0
    weight_decay: float = 0.05
    clip: float = 1.0
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    seed: int = 0
    val_every: int = 1
    workers: int = -1
    devices: int = 0
    download: bool = False
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.layers, str) and self.layers not in ("all", "last"):
            try:
                object.__setattr__(self, "layers", [int(index) for index in self.layers.split(",")])
            except ValueError:
                raise GtaError(
                    f"--layers {self.layers} cannot be used: write all, last, or indices such as 0,5,-1."
                ) from None
        rules: list[tuple[str, bool, str]] = [
            ("image_size", self.image_size >= 1, "of px, such as 224"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("val_every", self.val_every >= 1, "at least 1"),
            ("fraction", 0 < self.fraction <= 1, "above 0 and up to 1, such as 0.15"),
            ("lr", math.isfinite(self.lr) and self.lr > 0, "above 0, such as 1e-4"),
            (
                "head_lr_scale",
                math.isfinite(self.head_lr_scale) and self.head_lr_scale > 0,
                "above 0, such as 10",
            ),
            ("weight_decay", math.isfinite(self.weight_decay) and self.weight_decay >= 0, "0 or above"),
            ("clip", math.isfinite(self.clip) and self.clip >= 0, "0 (no limit) or above"),
            ("weight", math.isfinite(self.weight) and self.weight >= 0, "0 or above, such as 10"),
            ("seed", self.seed >= 0, "0 or above"),
            ("workers", self.workers >= -1, "-1 (automatic) or above"),
            ("devices", self.devices >= 0, "0 (all) or above"),
        ]
        for name, fine, wanted in rules:
            if not fine:
                flag = name.replace("_", "-")
                raise GtaError(f"--{flag} {getattr(self, name)} cannot be used: write a number {wanted}.")
