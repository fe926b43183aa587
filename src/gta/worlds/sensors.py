"""The same scenes as other sensors see them: domains further from the pre-training than new species are."""

import torch
from torch import Tensor

_LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
# Of a thermal camera's usual picture: black, violet, red, orange, white, evenly apart.
_HEAT = torch.tensor([[0, 0, 0], [90, 0, 140], [210, 40, 60], [255, 160, 20], [255, 255, 255]], dtype=torch.float32)


def seen_by(sensor: str, images: Tensor) -> Tensor:
    """What a sensor makes of coloured images.

    Args:
        sensor: "colour" (as they are), "inverted", "grey", or "thermal": false colours of how bright they are.
        images: (B, 3, H, W) uint8.

    Returns:
        The same shape, uint8.
    """
    if sensor == "colour":
        return images
    if sensor == "inverted":
        return 255 - images
    luma = (images * _LUMA.to(images.device)).sum(1, keepdim=True)
    if sensor == "grey":
        return luma.round().to(torch.uint8).expand_as(images)
    heat = _HEAT.to(images.device)
    place = luma[:, 0] / 255 * (len(heat) - 1)
    below = place.floor().long().clamp(max=len(heat) - 2)
    colour = torch.lerp(heat[below], heat[below + 1], (place - below)[..., None])
    return colour.round().to(torch.uint8).permute(0, 3, 1, 2)
