"""How hard the penalty pulls in the first step, when target and source still have the same weights.

    python benchmarks/first_step.py --source FILE --data DIR --image_size 126

It should not pull at all: what is left is rounding that the two do not share. Norms are those of the gradients of the
target's parameters but the classifier's, under the precision that `gta train` chooses here.
"""

from __future__ import annotations

import torch
from jsonargparse import auto_cli
from torch import Tensor

import gta
from gta.acceleration.attention import QuickAttention
from gta.data.reading import read_photos
from gta.data.transforms import TrainViews, normalised
from gta.methods.compose import ComposedMethod
from gta.methods.gta import GTA
from gta.sources.info import source_info
from gta.training.stored_rows import rows_to_store
from gta.training.trainer import resolve_precision


def main(source: str, data: str, image_size: int = 224, batch_size: int = 32, weight: float = 10.0) -> None:
    """Print the norms for a source beside the target, for stored rows, and for rows in float32."""
    frozen = gta.load_source(source, image_size)
    info, photos = source_info(frozen), read_photos(data)
    views = TrainViews(photos.train, image_size, seed=0)
    every = max(1, len(views) // batch_size)
    images = normalised(torch.stack([views[i * every][0] for i in range(batch_size)]), info.mean, info.std)
    labels = torch.tensor([views[i * every][1] for i in range(batch_size)])
    torch.manual_seed(0)
    part = GTA(weight=weight)
    composed = ComposedMethod(
        gta.new_target(frozen, len(photos.classes)).train(), frozen, [part], attention=QuickAttention()
    )
    low = torch.autocast("cpu", torch.bfloat16, enabled="bf16" in resolve_precision("auto"))

    def norms(rows: list[Tensor] | None) -> tuple[float, float, float]:
        composed.begin_step(0, 1)
        with low:
            done = composed(images, labels, rows and {"gta": rows})
        return float(done.penalty.detach()), _norm(composed, done.loss), _norm(composed, done.penalty)

    exact = rows_to_store(part, frozen, images)
    with low:
        stored = rows_to_store(part, frozen, images, composed.attention)
    for name, rows in (("beside", None), ("stored", [row.half().float() for row in stored]), ("float32", exact)):
        penalty, loss_norm, penalty_norm = norms(rows)
        print(f"{name:>8}: penalty {penalty:.5f}, its gradient {penalty_norm:.2f}, the cross-entropy's {loss_norm:.2f}")


def _norm(composed: ComposedMethod, value: Tensor) -> float:
    named = [p for name, p in composed.model.named_parameters() if not name.startswith("head")]
    given = torch.autograd.grad(value, named, retain_graph=True, allow_unused=True)
    return float(torch.cat([g.flatten() for g in given if g is not None]).norm())


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
