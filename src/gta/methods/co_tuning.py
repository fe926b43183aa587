"""Co-tuning (You et al. 2020, "Co-Tuning for Transfer Learning", NeurIPS; its direct approach).

    L = weight · mean over images of −Σ_s p(s | y) · log softmax(z_T)_s

p(s | y): mean probability of the source's class s over the training images of class y, once before training, from the
source's own classifier. z_T: that classifier, trained on, on the target's features; it is dropped after training. As
in Transfer-Learning-Library the source's probabilities are not calibrated first (the paper does).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gta.methods.base import Batches, Grid, Method, Step, check_number
from gta.sources.classifier import source_classifier
from gta.vit.capture import run_and_capture
from gta.vit.outputs import Features
from gta.vit.structure import ViTInfo, vit_info


@dataclass
class CoTuning(Method):
    """Teach the source's own classifier the classes that the new ones resemble; needs a source with one.

    Args:
        weight: Weight of the source's classes, 0 or above.
    """

    weight: float = 2.3

    paper: ClassVar[str] = "You 2020, NeurIPS"
    captures_source: ClassVar[bool] = False
    grid: ClassVar[Grid] = {"co_tuning.weight": (0.5, 1, 2.3)}

    def __post_init__(self) -> None:
        check_number(self, "weight", 0)

    def attach(self, target: nn.Module, source: nn.Module) -> nn.Module:
        self._source = vit_info(source)
        self._classes = int(target.num_classes)  # type: ignore[arg-type]
        self._new = source_classifier(source, "co_tuning")
        self._old = source_classifier(source, "co_tuning").requires_grad_(False)
        return self._new

    def prepare(self, batches: Batches) -> None:
        total, count = torch.zeros(()), torch.zeros(())
        for images, labels in batches():
            (features,) = run_and_capture(self._source.model, images, [Features(self._source)])
            probabilities = self._old.to(features)(features).float().softmax(-1)
            of_class = torch.nn.functional.one_hot(labels, self._classes).float()  # (B, classes)
            total = total.to(of_class.device) + of_class.T @ probabilities
            count = count.to(of_class.device) + of_class.sum(0)
        self.relationship = total / count[:, None]  # (classes, source's classes); rows sum to 1

    def capture(self, vit: ViTInfo) -> Features:
        return Features(vit)

    def penalty(self, target: Tensor, source: None, step: Step) -> Tensor:
        logs = self._new(target).float().log_softmax(-1)
        wanted = self.relationship[step.targets] if step.targets.ndim == 1 else step.targets @ self.relationship
        return -self.weight * (wanted * logs).sum(-1).mean()
