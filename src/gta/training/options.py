"""The options of one training run; the command line and config.yaml are made of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from gta.errors import GtaError
from gta.methods import METHODS, method_names

BATCH = 32  # images a step: what learning rates are stated for
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


def check_types(options: Any) -> None:
    """Raise GtaError where a value of a dataclass is not of its field's type, as from a config or from Python."""
    for name, hint in get_type_hints(type(options)).items():
        value, kinds = getattr(options, name), get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if not any(_is_of(value, kind) for kind in kinds):
            wanted = " or ".join(
                _KINDS.get(kind) or " or ".join(map(str, get_args(kind))) or str(kind) for kind in kinds if kind
            )
            raise GtaError(f"--{name.replace('_', '-')} {str(value)[:80]} cannot be used: write {wanted}.")


def _is_of(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        return isinstance(value, list) and all(_is_of(item, inner) for item in value)
    return isinstance(value, get_origin(kind) or kind)


@dataclass(frozen=True)
class TrainOptions:
    """Fine-tune a pre-trained ViT on a folder of photographs.

    Only --data and --out are needed: --method auto is the best recipe that this package has measured, its few
    decisions taken from the data and printed. The defaults of layers, lr, epochs, crop and schedule are this package's
    own: the GTA paper does not publish them.

    Args:
        data: Folder with train/CLASS/*, and optionally val/, test/ and masks/SPLIT/CLASS/NAME.png; or a .csv file
            of path,label,split; or NAME:ROOT for a published set, such as cub:DIR, pets:DIR or hf:NAME (see
            docs/data.md). Without val, a seeded tenth of every class of train is held out.
        out: Run folder to write.
        source: Pre-trained ViT: timm:NAME, gta:butterflies, or a .safetensors, .pth or .pt file.
        heads: Attention heads of the source, where they are not width / 64 and its file does not say.
        method: How to fine-tune: auto chooses by the data, gta guides the attention by the source's, plain trains on
            cross-entropy alone; a+b composes. gta methods lists them all.
        settings: Options of the methods' own, by method: {l2_sp: {alpha: 0.1}}; on the command line --l2_sp.alpha 0.1.
        weight: Lambda of the guide (gta), >= 0, or auto: set in each step from loss and drift.
        weight_budget: Drift that weight auto allows (gta), as a share of how far the source's own attention is apart
            on different images.
        weight_schedule: Course of what the method adds to the loss: constant; linear or cosine to zero; warmup from
            zero; release: constant, then zero.
        weight_share: Share of the training that the schedule takes; by default 1 for the decays, 0.1 for warmup, 0.5
            for release.
        layers: Guided layers (gta): all, last, or indices such as 0,5,-1 (a leading minus needs --layers=-1).
        layer_weights: Factor of each guided layer (gta), such as 0,0.5,1; by default 1 for each.
        guide: What is held near the source's (gta): the attention's logits, the attention after softmax, or the
            outputs of attention modules (msa) or blocks.
        free_heads: Heads of guided layers that are left free (gta), as layer.head: 5.0,5.3.
        rows: Whose attention is guided (gta): the [cls] token's, all patches' (the whole map; also called patches), or
            an attention-pooling head's.
        distance: Distance between attention rows (gta).
        temperature: Divides the rows before the softmax of kl, reverse_kl and js (gta).
        source_precision: auto lets the source's feed-forward layers compute in bf16 in float32 training, where that is
            faster and while it changes the penalty by less than 1 percent; same never does (gta).
        source_compile: Compile the source's pass (gta): a quarter of a minute at the start, for up to a third less of
            its time in every step. On CPUs it needs a C++ compiler. auto does where that pays.
        reuse: Give every training image a fixed number of views, compute the source's rows of them once (gta), and keep
            them for this and other runs.
        views: How many views (reuse).
        views_seed: Which views (reuse): runs with the same number share them and the source's rows; null: with the
            run's seed, so that runs of other seeds are independent and each pays for the source.
        reuse_dir: Where rows are kept (reuse); by default gta/rows in the user's cache folder.
        look_source: Pre-trained ViT, as in source, whose attention says where the pictures are looked at
            (attention_crop, background_swap); by default the source's.
        fraction: Share of every class's training images to use, above 0 and up to 1; seeded and nested.
        subset_list: File that names the training images to use, instead of fraction: a manifest of gta data
            manifest, or a published list of paths with or without classes.
        val_fraction: Share of every class of train that is held out for validation where the data has no val.
        cross_validate: Folds (5 is usual) into which train and val are cut; a model is trained without each and judged
            on it, and then the run's own on all. Copies and near-copies of an image stay in one fold. 0: none.
        fold: Train without this fold (cross_validate) and validate on it, and do no more.
        image_size: Side of the images in px, a multiple of the patch size.
        epochs: Passes over the training images; the last one's weights are the result.
        batch_size: Images per step, over all devices together (rounded down to a multiple of their number); or auto:
            on a GPU the largest of 32, 64, 128, ... that fits its memory and leaves 150 steps, on a CPU 32, with lr
            times the root of batch / 32.
        balance: What is done about classes of different size: none; sampler: each image is drawn with a chance that
            makes all classes equally frequent; loss: each image counts by the inverse of its class's size.
        lr: Peak learning rate of the backbone (AdamW; linear warm-up over a tenth of the steps, then cosine
            to zero). By default 1e-4; auto sets it by the source's width.
        head_lr_scale: Learning rate of the fresh classifier, in multiples of lr.
        layer_decay: Factor of the learning rate from each block to the one below it, above 0 and up to 1 (1: none). By
            default 0.8 with auto, else 1.
        weight_decay: AdamW's weight decay; biases, norms, tokens and position embeddings have none.
        clip: Largest norm of the gradient; 0 for no limit.
        precision: "auto" takes bf16 autocast where the device computes it faster, else float32.
        seed: Seeds the subset, the classifier, the shuffling and the augmentation.
        val_every: Validate every so many epochs (the last one always is).
        keep_attention: Images of test (of val, where there is no test) whose attention in every layer and head is kept
            after every epoch, for gta report: costs a forward pass of them an epoch, and images x layers x heads x
            patches x 2 bytes.
        workers: Processes that load images. -1: none where the CPU trains, else one per core, at most 8.
        devices: Accelerators to use. 0: all there are.
        download: Fetch a published data set into its ROOT first, where it is not there.
        skip_unreadable: Leave unreadable images out (and record them) instead of refusing to train.
    """

    data: str
    out: str
    source: str = "timm:vit_small_patch14_dinov2.lvd142m"
    heads: int | None = None
    method: str = "auto"
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weight: float | Literal["auto"] = 10.0
    weight_budget: float = 0.1
    weight_schedule: str = "constant"
    weight_share: float | None = None
    layers: list[int] | str = "all"
    rows: Literal["cls", "patches", "all", "pool"] = "cls"
    layer_weights: list[float] | str | None = None
    free_heads: str | None = None
    guide: str = "logits"
    distance: str = "l2"
    temperature: float = 1.0
    source_precision: Literal["auto", "same"] = "auto"
    source_compile: bool | Literal["auto"] = False
    reuse: bool = False
    views: int = 8
    views_seed: int | None = 0
    reuse_dir: str | None = None
    look_source: str | None = None
    fraction: float = 1.0
    subset_list: str | None = None
    val_fraction: float = 0.1
    cross_validate: int = 0
    fold: int | None = None
    image_size: int = 224
    epochs: int = 15
    batch_size: int | Literal["auto"] = BATCH
    balance: Literal["none", "sampler", "loss"] = "none"
    lr: float | None = None
    head_lr_scale: float = 10.0
    layer_decay: float | None = None
    weight_decay: float = 0.05
    clip: float = 1.0
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    seed: int = 0
    val_every: int = 1
    keep_attention: int = 0
    workers: int = -1
    devices: int = 0
    download: bool = False
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        if isinstance(self.layers, str) and self.layers not in ("all", "last"):
            try:
                object.__setattr__(self, "layers", [int(index) for index in self.layers.split(",")])
            except ValueError:
                raise GtaError(
                    f"--layers {self.layers} cannot be used: write all, last, or indices such as 0,5,-1."
                ) from None
        if isinstance(self.layer_weights, str):
            try:
                object.__setattr__(self, "layer_weights", [float(w) for w in self.layer_weights.split(",")])
            except ValueError:
                raise GtaError(
                    f"--layer-weights {self.layer_weights} cannot be used: write one number for each guided layer, "
                    "such as 0,0.5,1."
                ) from None
        from gta.distances import DISTANCES  # these import torch, for which `gta --help` does not wait
        from gta.guidance import QUANTITIES
        from gta.schedules import SCHEDULES

        method_names(self.method)  # each of these refuses what is not known
        if self.method == "auto":
            for own in fields(METHODS["gta"]):
                if getattr(self, own.name) != getattr(type(self), own.name):
                    flag = f"--{own.name.replace('_', '-')} {getattr(self, own.name)}"
                    raise GtaError(f"{flag} is an option of gta, which --method auto does not use: add --method gta.")
        DISTANCES[self.distance], SCHEDULES[self.weight_schedule], QUANTITIES[self.guide]
        rules: list[tuple[str, bool, str]] = [
            ("image_size", 1 <= self.image_size <= 10_000, "of px up to 10000, such as 224"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch >= 1, "at least 1, or auto"),
            ("val_every", self.val_every >= 1, "at least 1"),
            ("val_fraction", 0 < self.val_fraction < 1, "above 0 and below 1, such as 0.1"),
            ("cross_validate", self.cross_validate == 0 or self.cross_validate >= 2, "of folds, 2 or more, or 0"),
            ("fold", self.fold is None or 0 <= self.fold < self.cross_validate, "below that of --cross-validate"),
            ("fraction", 0 < self.fraction <= 1, "above 0 and up to 1, such as 0.15"),
            ("lr", self.lr is None or 0 < self.lr < math.inf, "above 0, such as 1e-4"),
            (
                "head_lr_scale",
                math.isfinite(self.head_lr_scale) and self.head_lr_scale > 0,
                "above 0, such as 10",
            ),
            ("weight_decay", math.isfinite(self.weight_decay) and self.weight_decay >= 0, "0 or above"),
            ("clip", math.isfinite(self.clip) and self.clip >= 0, "0 (no limit) or above"),
            ("layer_decay", self.layer_decay is None or 0 < self.layer_decay <= 1, "above 0 and up to 1, such as 0.75"),
            (
                "weight",
                self.weight == "auto" or (not isinstance(self.weight, str) and 0 <= self.weight <= 1e30),
                "from 0 to 1e30, such as 10, or auto",
            ),
            ("weight_budget", math.isfinite(self.weight_budget) and self.weight_budget > 0, "above 0, such as 0.1"),
            ("weight_share", self.weight_share is None or 0 < self.weight_share <= 1, "above 0 and up to 1"),
            ("temperature", math.isfinite(self.temperature) and self.temperature > 0, "above 0, such as 2"),
            ("views", self.views >= 1, "at least 1, such as 8"),
            ("views_seed", self.views_seed is None or 0 <= self.views_seed < 2**63, "from 0 to below 2**63, or null"),
            ("keep_attention", self.keep_attention >= 0, "of images, 0 or above"),
            ("seed", 0 <= self.seed < 2**63, "from 0 to below 2**63"),
            ("workers", -1 <= self.workers <= 1000, "from -1 (automatic) to 1000"),
            ("devices", self.devices >= 0, "0 (all) or above"),
        ]
        for name, fine, wanted in rules:
            if not fine:
                flag = name.replace("_", "-")
                raise GtaError(f"--{flag} {getattr(self, name)} cannot be used: write a number {wanted}.")

    @property
    def batch(self) -> int:
        """Images per step; what they are counted from where they are still to be found."""
        return BATCH if self.batch_size == "auto" else self.batch_size

    @property
    def rates(self) -> tuple[float, float]:
        """The learning rate and the layer decay, where they were left to a method that sets none."""
        return 1e-4 if self.lr is None else self.lr, 1.0 if self.layer_decay is None else self.layer_decay

    @property
    def views_set(self) -> int:
        """`views_seed`, or the run's seed."""
        return self.seed if self.views_seed is None else self.views_seed
