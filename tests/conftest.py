"""Small models, sources and photographs made on the spot; sizes are distinct primes where a transpose could hide."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import gta

SHARED = Path(__file__).parents[2] / "shared"
HAS_COMPILER = torch.cuda.is_available() or any(map(shutil.which, ("g++", "clang++", "c++")))  # torch.compile's
TINY = {"patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2}


def tiny_vit(seed: int = 0, **more: object) -> nn.Module:
    """A timm ViT of 3 layers and 2 heads for 40 px images (5×5 patches), random weights by seed."""
    torch.manual_seed(seed)
    model = timm.create_model("vit_tiny_patch16_224", **{"img_size": 40, "num_classes": 7, **TINY, **more})
    spread(model)
    return model


def spread(model: nn.Module, scale: float = 0.05) -> nn.Module:
    """Add noise to every weight, so that no tensor is zero or constant."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
    return model


def reference_rows(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """The rows as the textbook writes them, (B, H, N) per layer, from the attention modules' own inputs.

    Independent of `gta.vit.attention_logits`: forward hooks, q and k recomputed from qkv, the full N×N product.
    """
    rows = []

    def hook(attn: nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        b, n, _c = inputs[0].shape
        qkv = attn.qkv(inputs[0]).reshape(b, n, 3, attn.num_heads, -1)
        q, k = attn.q_norm(qkv[:, :, 0].transpose(1, 2)), attn.k_norm(qkv[:, :, 1].transpose(1, 2))
        full = torch.einsum("bhid,bhjd->bhij", q.double(), k.double()) / q.shape[-1] ** 0.5
        rows.append(full[:, :, 0, model.num_prefix_tokens :])

    handles = [block.attn.register_forward_hook(hook) for block in model.blocks]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return rows


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from the user's cache folder, nor written to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def source_file(tmp_path: Path) -> Path:
    path = tmp_path / "source.safetensors"
    save_file(tiny_vit(num_classes=0).state_dict(), path)
    return path


def write_photos(
    root: Path, splits: dict[str, int], classes: int = 3, masks: bool = True, size: tuple[int, int] = (53, 47)
) -> Path:
    """Noise with a bright square in the colour of the class, and the square as the mask."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        for c in range(classes):
            for i in range(count):
                pixels = rng.integers(0, 120, (size[1], size[0], 3), dtype=np.uint8)
                y, x = rng.integers(0, 20, 2)
                pixels[y : y + 23, x : x + 23, c % 3] = 255 - 40 * (c // 3)
                mask = np.zeros(size[::-1], dtype=np.uint8)
                mask[y : y + 23, x : x + 23] = 255
                for folder, array, ending in ((root / split, pixels, "jpg"), (root / "masks" / split, mask, "png")):
                    if ending == "png" and not masks:
                        continue
                    path = folder / f"class {c}" / f"{i:03}.{ending}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(array).save(path)
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", {"train": 5, "val": 2, "test": 3})


@pytest.fixture
def make_photos(tmp_path: Path) -> Callable[..., Path]:
    return lambda **more: write_photos(tmp_path / "photos", **more)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> gta.Run:
    """A small run, trained once; its data and source lie beside its folder. Tests only read it."""
    root = tmp_path_factory.mktemp("finished")
    data = write_photos(root / "photos", {"train": 6, "val": 4, "test": 5})
    args = {**TINY, "img_size": 40}
    metadata = {"architecture": "vit_tiny_patch16_224", "model_args": json.dumps(args)}
    save_file(tiny_vit(num_classes=0).state_dict(), root / "source.safetensors", metadata)
    source = str(root / "source.safetensors")
    return gta.fit(data, root / "run", source=source, image_size=40, epochs=6, batch_size=6, lr=1e-3, method="plain")
