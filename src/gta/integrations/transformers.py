"""The guide in a transformers `Trainer` that knows nothing of it: the model's own loss includes the penalty.

    model = AutoModelForImageClassification.from_pretrained(NAME, num_labels=45)
    guide(model, gta.load_source(f"hf:{NAME}"), weight=10.0)
    Trainer(model=model, args=args, train_dataset=photos).train()

`model` stays the object and the class it was; `save_pretrained` writes an ordinary checkpoint.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gta.errors import GtaError
from gta.guided import Guided
from gta.guided import guide as make_guided
from gta.integrations.forward import GuidedForward


def guide(model: nn.Module, source: nn.Module, **options: Any) -> Guided:
    """Make the loss of a transformers model include the penalty, in train mode.

    Args:
        model: an image classifier of transformers, changed in place: its instance gets another `forward`.
        source, options: weight, layers and so on, see `gta.guide`.

    Returns:
        The `Guided`, to measure the drift or change the weight; not to be trained itself.

    Raises:
        GtaError: as `gta.guide`; and at a training step of which the loss is not the model's own.
    """
    guided = make_guided(model, source, **options)
    _LossForward(guided).install()
    return guided


def release(model: nn.Module) -> nn.Module:
    """Take the guide out again: the model is as it was before `guide`.

    Raises:
        GtaError: the model is not guided.
    """
    forward = vars(model).get("forward")
    while forward is not None and not isinstance(forward, _LossForward):
        forward = getattr(forward, "__wrapped__", None)  # accelerate wraps it in autocast for bf16 training
    if forward is None:
        raise GtaError(f"this {type(model).__name__} has no guide to release.")
    forward.remove()
    vars(model).pop("_original_forward", None)  # accelerate's memory of what it wrapped
    return model


class _LossForward(GuidedForward):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        images = kwargs.get("pixel_values", args[0] if args else None)
        if not isinstance(images, Tensor):
            raise GtaError(
                f"{type(self.guided.model).__name__} was called without pixel_values, so it cannot be guided."
            )
        output, penalty_at = self.run(images, *args, **kwargs)
        if not (self.guided.model.training and torch.is_grad_enabled()):
            return output
        in_tuple = isinstance(output, tuple)
        loss = output[0] if in_tuple else getattr(output, "loss", None)
        if loss is None or loss.ndim:
            raise GtaError(
                "the penalty goes into the model's own loss, but this training step did not ask for it: give the "
                "model `labels`. With label_smoothing_factor, compute_loss_func or compute_loss of your own, call "
                "gta.guide(model, source) there instead."
            )
        items = kwargs.get("num_items_in_batch")
        # the Trainer sums the loss over accumulated batches and divides by all their images
        share = 1 if items is None else len(images) / items
        penalty = share * penalty_at(loss / share)
        if in_tuple:
            return (loss + penalty, *output[1:])
        output.loss = loss + penalty
        return output
