"""The same scenes as other sensors see them: domains further from the pre-training than new species are."""

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import invert, rgb_to_grayscale


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
        return invert(images)
    grey = rgb_to_grayscale(images.float(), 3).round().to(torch.uint8)
    if sensor == "grey":
        return grey
    from matplotlib import colormaps  # for which no other world waits

    heat = torch.from_numpy(colormaps["inferno"](range(256), bytes=True)[:, :3])
    return heat.to(grey.device)[grey[:, 0].long()].permute(0, 3, 1, 2)
