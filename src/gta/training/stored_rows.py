"""Have the source's rows of all training views stored before the training begins; see `gta.acceleration.row_store`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gta.acceleration.attention import QuickAttention
from gta.acceleration.row_store import Pair, RowStore, check_replay, readable_size
from gta.data.loading import loader
from gta.data.reading import Photos
from gta.data.transforms import TrainViews, normalised, view_seed
from gta.errors import GtaError
from gta.files import cache_folder
from gta.methods.base import Method
from gta.methods.compose import ComposedMethod
from gta.methods.gta import GTA
from gta.sources.info import SourceInfo, digest
from gta.training.options import TrainOptions
from gta.vit.capture import run_and_capture

COMPUTED_BY = ("gta-vit", "torch", "torchvision", "timm", "pillow")


CHECKED = 4  # images of an epoch whose stored rows are compared with fresh ones


def check_reuse(options: TrainOptions, methods: Sequence[Method]) -> None:
    """Raise GtaError where rows cannot be replayed."""
    if not options.reuse:
        return
    if options.balance == "sampler":
        raise GtaError(
            "--reuse keeps a fixed number of views of each image, and --balance sampler draws some more often than "
            "that: use --balance loss, or leave --reuse out."
        )
    looking = [method.name for method in methods if method.looks or method.name == "auto"]
    if looking:
        raise GtaError(
            f"--reuse stores what the source gives for the views of --method gta, and {' and '.join(looking)} makes "
            "other views, of which it runs the source once an image anyway: leave --reuse out."
        )
    mixing = [method.name for method in methods if method.mixes()]
    if mixing:
        raise GtaError(
            f"--reuse cannot be used with {' and '.join(mixing)}: pixels are mixed across images in each step, so the "
            "source never sees the same twice. Leave --reuse out."
        )
    for method in methods:
        if isinstance(method, GTA) and method.source_compile:
            raise GtaError(
                "--reuse runs the source once, and --source-compile is for many times: leave one of them out."
            )
        if isinstance(method, GTA) and (method.guide != "logits" or method.rows not in ("cls", "pool")):
            what = f"--guide {method.guide}" if method.guide != "logits" else f"--rows {method.rows}"
            raise GtaError(f"--reuse stores rows of logits, and {what} needs more than that: leave one of them out.")


class StoredRows:
    """The source's rows of all training views, in a store."""

    def __init__(self, method: GTA, composed: ComposedMethod, store: RowStore) -> None:
        self._method, self._composed, self.store = method, composed, store

    def replay(self, images: Tensor, rows: Tensor, check: bool) -> dict[str, list[Tensor]]:
        """What the method captures of the source on images (B, C, height, width), from their rows (B, L, H, N).

        Raises:
            GtaError: with `check`: they are not what the source gives for some of these images.
        """
        if check:
            source, attention = self._composed.source, self._composed.attention
            check_replay(rows[:CHECKED], rows_to_store(self._method, source, images[:CHECKED], attention))
        return {self._method.name: list(rows.float().unbind(1))}


def rows_to_store(
    method: GTA, source: nn.Module, images: Tensor, attention: QuickAttention | None = None
) -> list[Tensor]:
    """The source's rows, L tensors (B, H, N) float32.

    Computed as the target computes its own in the same precision, to the bit where both have the same weights: rows
    that were rounded otherwise, or not at all, would pull at the target from the first step on. `attention` is the
    target's.
    """
    guidance = method.guidance
    with nullcontext() if attention is None else attention.as_when_trained():
        (rows,) = run_and_capture(source, images, [guidance.capture(guidance.source)])
    return [row.float() for row in rows]


def stored_rows(
    options: TrainOptions,
    methods: Sequence[Method],
    photos: Photos,
    info: SourceInfo,
    views: TrainViews,
    composed: ComposedMethod,
    workers: int,
) -> StoredRows | None:
    """The rows of every view of every training image; None where no method needs them.

    To be called under the autocast that the training has.

    Raises:
        GtaError: a disk that cannot hold them.
        KeyboardInterrupt: the user stopped it; what was not complete is gone.
    """
    guide = next((method for method in methods if isinstance(method, GTA) and method.weight != 0), None)
    if guide is None:
        return None
    source, device = composed.source, next(composed.model.parameters()).device
    blank = torch.zeros(options.batch, 3, info.image_size, info.image_size, device=device)  # attention is timed
    rows = rows_to_store(guide, source, blank, composed.attention)
    key = {
        "source": digest(source),
        "heads": rows[0].shape[1],
        "layers": guide.guidance.layers,
        "rows": options.rows,
        "image_size": info.image_size,
        "mean": info.mean,
        "std": info.std,
        "transform": repr(views.view),
        "views": views.fingerprint(),
        "device": device.type,
        "autocast": str(torch.get_autocast_dtype(device.type)) if torch.is_autocast_enabled(device.type) else None,
        "attention": {} if composed.attention is None else composed.attention.chosen,
        "versions": {package: version(package) for package in COMPUTED_BY},
    }
    root = cache_folder("rows") if options.reuse_dir is None else Path(options.reuse_dir)
    store = RowStore(root, key, (len(rows), *rows[0].shape[1:]))
    epochs = range(min(options.views, options.epochs))
    pairs = [(s.sha256, views.number(epoch)) for s in photos.train for epoch in epochs]
    if missing := store.missing(pairs):
        store.check_room(len(missing))
        with store.filling():  # another process may have filled it while this one waited
            missing = store.missing(pairs)
            if missing:
                taken = readable_size(store.bytes_for(len(missing)))
                print(f"the source's rows of {len(missing)} views: {taken} in {store.folder}", file=sys.stderr)
                size = options.batch
                store.add(missing, _compute(guide, composed, photos, info, views, missing, device, size, workers))
    return StoredRows(guide, composed, store)


def _compute(
    guide: GTA,
    composed: ComposedMethod,
    photos: Photos,
    info: SourceInfo,
    views: TrainViews,
    pairs: Sequence[Pair],
    device: torch.device,
    batch_size: int,
    workers: int,
) -> Iterator[Tensor]:
    for images in loader(_Pairs(photos, views, pairs), batch_size, workers):
        images = normalised(images.to(device), info.mean, info.std)
        yield torch.stack(rows_to_store(guide, composed.source, images, composed.attention), 1)


class _Pairs(Dataset[Tensor]):
    def __init__(self, photos: Photos, views: TrainViews, pairs: Sequence[Pair]) -> None:
        self.sample = {s.sha256: s for s in photos.train}
        self.views, self.pairs = views, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Tensor:
        sha, view = self.pairs[index]
        return self.views.draw(self.sample[sha], view_seed(sha, view))
