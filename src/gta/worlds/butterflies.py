"""Butterflies on textured grounds, drawn as functions of the pixel's place: no shapes, no loops over images.

A *species* is a row of numbers (wing proportions, colours, pattern); species come in genera of four that share wings
and colours and differ in pattern. A *scene* is another row (palette, grain, petals lying about). An image is a
species on a scene with its own pose, size, light and a blade of grass that may hide part of it.

Everything is torch on the CPU or a GPU, float32, a few thousand 64 px images a second on two cores.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gta.worlds.options import SEEDS

PRETRAINING, DOWNSTREAM = 0, SEEDS  # first seeds of two families of species that never meet
GENUS = 4  # species that share wings and colours

# columns of a species: name -> (lowest, highest, share of the range that differs within a genus)
_TRAITS: dict[str, tuple[float, float, float]] = {
    "fore_angle": (0.45, 0.85, 0.15),  # radians above the horizontal
    "fore_length": (0.85, 1.1, 0.2),
    "fore_width": (1.3, 2.1, 0.2),  # larger is narrower
    "hind_angle": (-1.0, -0.55, 0.2),
    "hind_length": (0.6, 0.95, 0.2),
    "hind_width": (1.2, 2.0, 0.2),
    "tail": (0.0, 0.35, 0.5),
    "base_hue": (0.0, 1.0, 0.04),
    "base_saturation": (0.35, 0.95, 0.15),
    "base_value": (0.55, 0.95, 0.15),
    "accent_hue": (0.0, 1.0, 0.3),
    "stripe_rate": (0.0, 5.0, 1.0),  # stripes along the wing
    "stripe_slant": (-1.2, 1.2, 1.0),
    "stripe_share": (0.0, 0.6, 1.0),
    "margin": (0.04, 0.24, 1.0),  # of the wing's radius
    "margin_value": (0.0, 1.0, 1.0),
    "eye_place": (0.4, 0.78, 1.0),  # of the wing's length
    "eye_size": (0.0, 0.2, 1.0),
    "beads": (0.0, 14.0, 1.0),  # dots along the margin
}
_SCENE = 16  # columns of a scene


def species(count: int, seed: int) -> Tensor:
    """Species, (count, traits) float32; four in a row are a genus. Other seeds give other species."""
    genera = -(-count // GENUS)
    generator = torch.Generator().manual_seed(seed)
    shared = torch.rand(genera, 1, len(_TRAITS), generator=generator)
    own = torch.rand(genera, GENUS, len(_TRAITS), generator=generator)
    low, high, free = torch.tensor(list(_TRAITS.values())).T
    mixed = shared * (1 - free) + own * free
    return (low + (high - low) * mixed).flatten(0, 1)[:count]


def scenes(count: int, seed: int) -> Tensor:
    """Scenes, (count, 16) float32 in [0, 1]."""
    return torch.rand(count, _SCENE, generator=torch.Generator().manual_seed(seed))


def render(
    kinds: Tensor, labels: Tensor, grounds: Tensor, places: Tensor, size: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Draw one image per label.

    Args:
        kinds: species, (S, traits).
        labels: (B,) indices into `kinds`.
        grounds: scenes, (G, 16).
        places: (B,) indices into `grounds`.
        size: side in px.
        seed: of pose, light, texture and occlusion; the same arguments give the same pixels.

    Returns:
        images (B, 3, size, size) uint8 and masks (B, size, size) bool (what is seen of the butterfly).
    """
    device = kinds.device
    generator = torch.Generator(device).manual_seed(seed)
    count = len(labels)

    def rand(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator, device=device)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * rand(1, 1)

    line = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(-line, line, indexing="ij")  # up and right are positive
    ground = _ground(grounds[places], x, y, size, rand)
    trait = dict(zip(_TRAITS, kinds[labels].T[:, :, None, None], strict=True))
    for name, (low, high, _) in _TRAITS.items():  # no two of a species are quite alike
        trait[name] = trait[name] + (high - low) * 0.04 * (rand(1, 1) - 0.5)

    turn, scale = between(-math.pi, math.pi), between(0.4, 0.72)
    dx, dy = between(-0.38, 0.38), between(-0.38, 0.38)
    u = (torch.cos(turn) * (x - dx) + torch.sin(turn) * (y - dy)) / scale
    v = (-torch.sin(turn) * (x - dx) + torch.cos(turn) * (y - dy)) / scale
    u = u / between(0.62, 1.0)  # wings half folded
    colour, cover = _butterfly(u, v, trait, edge=scale * size / 2)

    shade = _cover(torch.hypot(u - 0.12, v + 0.12), 0.95, 4.0)[:, None] * 0.3 * rand(1, 1, 1)
    image = ground * (1 - shade * (1 - cover[:, None]))
    image = _over(image, colour, cover[:, None])
    blade, hidden = _blade(x, y, rand, size)
    image = _over(image, blade, hidden[:, None])

    slope = (x * torch.cos(turn * 1.7) + y * torch.sin(turn * 1.7))[:, None] * 0.22 * rand(1, 1, 1)
    light = (0.75 + 0.4 * rand(1, 1, 1)) + slope
    cast = 1 + 0.12 * (rand(3, 1, 1) - 0.5)
    grain = 0.025 * torch.randn(count, 3, size, size, generator=generator, device=device)
    image = (image * light * cast + grain).clamp(0, 1)
    return (image * 255).round().to(torch.uint8), cover * (1 - hidden) > 0.5


def _butterfly(u: Tensor, v: Tensor, t: dict[str, Tensor], edge: Tensor) -> tuple[Tensor, Tensor]:
    """Colour (B, 3, S, S) and cover (B, S, S) of a butterfly around the origin; `edge` px make a unit."""
    side = u.abs()
    radius, angle = torch.hypot(side, v), torch.atan2(v, side)
    fore = t["fore_length"] * _lobe(angle - t["fore_angle"], t["fore_width"])
    hind = t["hind_length"] * _lobe(angle - t["hind_angle"], t["hind_width"])
    hind = hind + t["tail"] * torch.exp(-(((angle - t["hind_angle"] + 0.25) / 0.13) ** 2))
    reach = torch.maximum(fore, hind).clamp(min=1e-3)
    wings = _cover(radius, reach, edge)
    depth = 1 - radius / reach  # 0 at the wing's edge

    base = _hsv(t["base_hue"], t["base_saturation"], t["base_value"])
    accent = _hsv(t["accent_hue"], torch.full_like(t["accent_hue"], 0.8), torch.full_like(t["accent_hue"], 0.95))
    margin = t["margin_value"][:, None].round() * 0.85 + 0.06 + torch.zeros_like(base)
    along = side * torch.cos(t["stripe_slant"]) + v * torch.sin(t["stripe_slant"])
    wave = 0.5 + 0.5 * torch.cos(2 * math.pi * t["stripe_rate"] * along)
    striped = torch.sigmoid((wave - 1 + t["stripe_share"]) * 14)[:, None]
    colour = _over(base, accent, striped)
    colour = colour * (1 - 0.18 * torch.cos(angle * 18).clamp(min=0.85).sub(0.85).div(0.15))[:, None]  # veins

    banded = torch.sigmoid((t["margin"] - depth) * 40)[:, None]
    beads = torch.sigmoid((torch.cos(angle * t["beads"].round() * 2) - 0.55) * 10) * torch.exp(
        -(((depth - t["margin"] * 0.5) / (0.22 * t["margin"])) ** 2)
    )
    beads = beads * (t["beads"] > 3)
    colour = _over(colour, margin, banded)
    colour = _over(colour, accent, beads[:, None])

    for lobe in ("fore", "hind"):
        ex = t[f"{lobe}_length"] * t["eye_place"] * torch.cos(t[f"{lobe}_angle"])
        ey = t[f"{lobe}_length"] * t["eye_place"] * torch.sin(t[f"{lobe}_angle"])
        away = torch.hypot(side - ex, v - ey)
        size = (t["eye_size"] - 0.04).clamp(min=0)
        seen = (size > 0.02)[:, None].float()
        colour = _over(colour, 1 - margin, _cover(away, size, edge)[:, None] * seen)
        colour = _over(colour, margin, _cover(away, size * 0.5, edge)[:, None] * seen)

    body = _cover(torch.hypot(side / 0.075, (v + 0.08) / 0.5), torch.ones_like(side), edge * 0.075)
    return _over(colour, 0.12, body[:, None]), torch.maximum(wings, body)


def _lobe(angle: Tensor, width: Tensor) -> Tensor:
    return torch.cos((angle * width).clamp(-math.pi / 2, math.pi / 2)).clamp(min=0) ** 0.55


def _cover(distance: Tensor, limit: Tensor | float, edge: Tensor | float) -> Tensor:
    """1 inside, 0 outside, half a pixel of slope on either side."""
    return ((limit - distance) * edge + 0.5).clamp(0, 1)


def _over(below: Tensor, above: Tensor | float, cover: Tensor) -> Tensor:
    """What is seen of two layers where the upper one covers a share of 0 to 1."""
    return below * (1 - cover) + above * cover


def _ground(scene: Tensor, x: Tensor, y: Tensor, size: int, rand: Callable[..., Tensor]) -> Tensor:
    """Texture of a scene, (B, 3, S, S): two colours mixed by grain and by waves, with petals lying about."""
    column = scene.T[:, :, None, None]
    first = _hsv(column[0], 0.15 + 0.6 * column[1], 0.3 + 0.6 * column[2])
    second = _hsv(column[0] + 0.25 * (column[3] - 0.5), 0.15 + 0.6 * column[4], 0.2 + 0.75 * column[5])
    noise = torch.zeros_like(x)
    for cells, weight in ((4, 0.45), (9, 0.3), (19, 0.25)):
        coarse = rand(1, cells, cells)
        noise = noise + weight * F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)[:, 0]
    slant, rate = column[6] * math.pi, 1.0 + 7.0 * column[7] ** 2
    along = x * torch.cos(slant) + y * torch.sin(slant)
    wave = 0.5 + 0.5 * torch.sin(2 * math.pi * (rate * along + 0.9 * noise + rand(1, 1)))
    mix = torch.sigmoid((noise * (1 - column[8]) + wave * column[8] - 0.5) * (3 + 12 * column[9]))[:, None]
    ground = _over(first, second, mix)
    petal = _hsv(column[10], 0.3 + 0.65 * column[11], 0.5 + 0.5 * column[12])
    for _ in range(5):
        px, py = 2.4 * rand(1, 1) - 1.2, 2.4 * rand(1, 1) - 1.2
        radius = (0.08 + 0.24 * rand(1, 1)) * (column[13] > 0.25)
        angle = torch.atan2(y - py, x - px) + 6.3 * rand(1, 1)
        outline = radius * (0.75 + 0.25 * torch.cos(angle * (2 + 5 * column[14]).round()))
        distance = torch.hypot(x - px, y - py)
        ground = _over(ground, petal * (0.8 + 0.2 * mix), _cover(distance, outline, size / 2)[:, None])
        ground = _over(ground, second, _cover(distance, radius * 0.3, size / 2)[:, None])
    return ground


def _blade(x: Tensor, y: Tensor, rand: Callable[..., Tensor], size: int) -> tuple[Tensor, Tensor]:
    """A blade of grass or a leaf across three images of five: colour (B, 3, 1, 1) and cover (B, S, S)."""
    angle, offset = math.pi * rand(1, 1), 1.4 * rand(1, 1) - 0.7
    width = (0.04 + 0.14 * rand(1, 1)) * (rand(1, 1) < 0.6)
    bend = 0.35 * (rand(1, 1) - 0.5)
    along = x * torch.cos(angle) + y * torch.sin(angle)
    across = -x * torch.sin(angle) + y * torch.cos(angle) - offset - bend * along**2
    hue, value = 0.2 + 0.2 * rand(1, 1), 0.25 + 0.45 * rand(1, 1)
    cover = _cover(across.abs(), width * (1 - 0.3 * along), size / 2) * (width > 0)
    return _hsv(hue, torch.full_like(hue, 0.6), value), cover


def _hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """(B, 1, 1) each -> RGB (B, 3, 1, 1)."""
    sixth = torch.tensor([5.0, 3.0, 1.0], device=hue.device)[:, None, None]
    k = (sixth + hue[:, None] * 6) % 6
    return value[:, None] * (1 - saturation[:, None] * torch.minimum(k, 4 - k).clamp(0, 1))
