"""The guide in a LightningModule of your own, as a callback.

    trainer = lightning.Trainer(callbacks=[Guide(gta.load_source("timm:NAME"), weight=10.0, model="backbone")])

While `fit` runs, every call of `self.backbone(images)` in `training_step` also reads the rows, and the penalty is
added to the loss that `training_step` returns. Afterwards the module is as it was; checkpoints have no trace of it.
"""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from gta.errors import GtaError
from gta.guided import Guided
from gta.guided import guide as make_guided
from gta.integrations.forward import GuidedForward


class Guide(Callback):
    """Adds the penalty to what `training_step` returns, and logs it as "penalty".

    Attributes:
        guided: the `Guided` of a fit that runs, else None; its `weight` may be changed between steps.
    """

    def __init__(self, source: nn.Module, model: str = "model", **options: Any) -> None:
        """
        Args:
            source: see `gta.guide`.
            model: name of the LightningModule's attribute that is the ViT.
            options: weight, layers and so on, see `gta.guide`.
        """
        self._make = lambda target: make_guided(target, source, **options)
        self._name = model
        self._forward: _CollectingForward | None = None
        self.guided: Guided | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        target = getattr(pl_module, self._name, None)
        if not isinstance(target, nn.Module):
            children = ", ".join(name for name, _ in pl_module.named_children()) or "none"
            raise GtaError(
                f"{type(pl_module).__name__} has no module called {self._name!r}; it has {children}. "
                "Write Guide(..., model=NAME)."
            )
        if not pl_module.automatic_optimization:
            raise GtaError(
                f"{type(pl_module).__name__} optimises by hand, so there is no returned loss to add the penalty to: "
                "call gta.guide in its training_step instead."
            )
        self.guided = self._make(target)
        self._forward = _CollectingForward(self.guided)
        self._forward.install()
        pl_module.training_step = _GuidedStep(pl_module, self._forward)  # type: ignore[method-assign]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._forward is not None:
            self._forward.remove()
            del pl_module.training_step
            self._forward = self.guided = None


class _CollectingForward(GuidedForward):
    """The model's own result; collects the penalties until the end of the training step."""

    def __init__(self, guided: Guided) -> None:
        super().__init__(guided)
        self.penalties: list[Callable[[Tensor | None], Tensor]] = []  # as functions of the loss

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        images = args[0] if args else next(iter(kwargs.values()))
        output, penalty = self.run(images, *args, **kwargs)
        if self.guided.model.training and torch.is_grad_enabled():
            self.penalties.append(penalty)
        return output


class _GuidedStep:
    def __init__(self, module: LightningModule, forward: _CollectingForward) -> None:
        self._module, self._forward = module, forward
        self._original: Callable[..., Any] = module.training_step
        update_wrapper(self, self._original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._forward.penalties.clear()
        result = self._original(*args, **kwargs)
        if result is None:  # the step is skipped
            return None
        if not self._forward.penalties:
            raise GtaError(
                f"training_step did not run {type(self._forward.guided.model).__name__} in train mode with gradients, "
                "so there is nothing to guide. Is it another module, or in eval mode? Write Guide(..., model=NAME)."
            )
        loss = result if isinstance(result, Tensor) else result["loss"]
        penalty = torch.stack([penalty(loss) for penalty in self._forward.penalties]).mean()
        self._module.log("penalty", penalty.detach())
        if isinstance(result, Tensor):
            return loss + penalty
        return {**result, "loss": loss + penalty}
