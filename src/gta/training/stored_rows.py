"""Have the source's rows of all training views stored before the training begins; see `gta.acceleration.row_store`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gta.acceleration.row_store import Pair, RowStore, default_root, size
from gta.data.loading import loader
from gta.data.reading import Photos
from gta.data.transforms import TrainViews, normalised, view_seed
from gta.errors import GtaError
from gta.methods.base import Part, mixes
from gta.methods.compose import Recipe, part_name
from gta.methods.gta import GTA
from gta.sources.loading import SourceInfo, digest
from gta.training.options import TrainOptions

COMPUTED_BY = ("gta-vit", "torch", "torchvision", "timm", "pillow")


def check_reuse(options: TrainOptions, parts: Sequence[Part]) -> None:
    """Raise GtaError where rows cannot be replayed."""
    if not options.reuse:
        return
    mixing = [part_name(part) for part in parts if mixes(part)]
    if mixing:
        raise GtaError(
            f"--reuse cannot be used with {' and '.join(mixing)}: pixels are mixed across images in each step, so the "
            "source never sees the same twice. Leave --reuse out."
        )
    for part in parts:
        if isinstance(part, GTA) and part.source_compile:
            raise GtaError(
                "--reuse runs the source once, and --source-compile is for many times: leave one of them out."
            )
        if isinstance(part, GTA) and (part.guide != "logits" or part.rows not in ("cls", "pool")):
            what = f"--guide {part.guide}" if part.guide != "logits" else f"--rows {part.rows}"
            raise GtaError(f"--reuse stores rows of logits, and {what} needs more than that: leave one of them out.")


def stored_rows(
    options: TrainOptions,
    parts: Sequence[Part],
    photos: Photos,
    info: SourceInfo,
    views: TrainViews,
    method: Recipe,
    workers: int,
) -> RowStore | None:
    """The store, with the rows of every view of every training image in it; None where the method needs none.

    To be called under the autocast that the training has.

    Raises:
        GtaError: a disk that cannot hold them.
        KeyboardInterrupt: the user stopped it; what was not complete is gone.
    """
    guide = next((part for part in parts if isinstance(part, GTA) and part.weight != 0), None)
    if guide is None:
        return None
    device = next(method.model.parameters()).device
    blank = torch.zeros(1, 3, info.image_size, info.image_size, device=device)
    rows = guide.stored_rows(blank)
    key = {
        "source": digest(method.source),
        "heads": rows[0].shape[1],
        "layers": guide.guided.layers,
        "rows": options.rows,
        "image_size": info.image_size,
        "mean": info.mean,
        "std": info.std,
        "transform": repr(views.view),
        "views": views.fingerprint(),
        "device": device.type,
        "autocast": str(torch.get_autocast_dtype(device.type)) if torch.is_autocast_enabled(device.type) else None,
        "versions": {package: version(package) for package in COMPUTED_BY},
    }
    root = default_root() if options.reuse_dir is None else Path(options.reuse_dir)
    store = RowStore(root, key, (len(rows), *rows[0].shape[1:]))
    epochs = range(min(options.views, options.epochs))
    pairs = [(s.sha256, views.number(epoch)) for s in photos.train for epoch in epochs]
    if missing := store.missing(pairs):
        store.check_room(len(missing))
        with store.filling():  # another process may have filled it while this one waited
            missing = store.missing(pairs)
            if missing:
                taken = size(store.bytes_for(len(missing)))
                print(f"the source's rows of {len(missing)} views: {taken} in {store.folder}", file=sys.stderr)
                store.add(missing, _compute(guide, photos, info, views, missing, device, options.batch_size, workers))
    return store


def _compute(
    guide: GTA,
    photos: Photos,
    info: SourceInfo,
    views: TrainViews,
    pairs: Sequence[Pair],
    device: torch.device,
    batch_size: int,
    workers: int,
) -> Iterator[Tensor]:
    for images in loader(_Pairs(photos, views, pairs), batch_size, workers):
        yield torch.stack(guide.stored_rows(normalised(images.to(device), info.mean, info.std)), 1)


class _Pairs(Dataset[Tensor]):
    def __init__(self, photos: Photos, views: TrainViews, pairs: Sequence[Pair]) -> None:
        self.sample = {s.sha256: s for s in photos.train}
        self.views, self.pairs = views, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Tensor:
        sha, view = self.pairs[index]
        return self.views.draw(self.sample[sha], view_seed(sha, view))
