"""A folder that transformers takes, `AutoModelForImageClassification.from_pretrained(FOLDER)`.

A plain ViT becomes transformers' DINOv2, which needs no other package: that is a plain ViT with factors after attention
and MLP (ones where the model has none), whose classifier also sees the mean patch token (by weights of zero here). The
tensors have the names of DINOv2's checkpoints on the hub. Any other model stays timm's, which transformers wraps.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from gta.export.form import Exported, Form, Runner, run_torch
from gta.export.formats.timm import write_folder
from gta.files import write_json, write_text

_BLOCK = {  # timm's names to the hub's
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def _write(exported: Exported, folder: Path) -> Path:
    model: Any = exported.model
    tensors = _as_dinov2(model)
    if tensors is None:
        return write_folder(exported, folder, "transformers")
    trained, size = exported.trained, exported.trained.image_size
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["Dinov2ForImageClassification"],
        "model_type": "dinov2",
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": model.blocks[0].attn.num_heads,
        "mlp_ratio": model.blocks[0].mlp.fc1.out_features // model.embed_dim,
        "layer_norm_eps": model.norm.eps,
        "image_size": size,
        "patch_size": model.patch_embed.patch_size[0],
        "id2label": dict(enumerate(trained.classes)),
        "label2id": {name: label for label, name in enumerate(trained.classes)},
        "gta": dict(exported.metadata),
    }
    write_json(folder / "config.json", config)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "resample": int(Image.Resampling.BICUBIC),
        "image_mean": trained.mean,
        "image_std": trained.std,
    }
    write_json(folder / "preprocessor_config.json", processor)
    licence = f"license: {exported.licence}\n" if exported.licence else ""
    head = f"---\nlibrary_name: transformers\npipeline_tag: image-classification\n{licence}---\n\n"
    write_text(folder / "README.md", head + exported.card)
    return folder


def _as_dinov2(model: Any) -> dict[str, Tensor] | None:
    """The tensors under the hub's names; None of a model that is no plain ViT."""
    state, width, depth = model.state_dict(), model.embed_dim, len(model.blocks)
    layers = [f"blocks.{i}.{name}" for i in range(depth) for name in (*_BLOCK, "attn.qkv")]
    scales = [f"blocks.{i}.{name}.gamma" for i in range(depth) for name in ("ls1", "ls2")]
    known = {f"{name}.{kind}" for name in (*layers, "patch_embed.proj", "norm", "head") for kind in ("weight", "bias")}
    known |= {"cls_token", "pos_embed"}
    mlp, tokens = model.blocks[0].mlp, 1 + model.patch_embed.num_patches
    plain = isinstance(mlp.act, nn.GELU) and mlp.act.approximate == "none" and mlp.fc1.out_features % width == 0
    plain = plain and set(state) - set(scales) == known and state["pos_embed"].shape[1] == tokens
    if not plain or model.global_pool != "token":
        return None
    tensors = {
        "dinov2.embeddings.cls_token": state["cls_token"],
        "dinov2.embeddings.mask_token": torch.zeros(1, width),
        "dinov2.embeddings.position_embeddings": state["pos_embed"],
    }
    for kind in ("weight", "bias"):
        tensors[f"dinov2.embeddings.patch_embeddings.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
        tensors[f"dinov2.layernorm.{kind}"] = state[f"norm.{kind}"]
        for i in range(depth):
            block, layer = f"blocks.{i}", f"dinov2.encoder.layer.{i}"
            tensors |= {f"{layer}.{to}.{kind}": state[f"{block}.{name}.{kind}"] for name, to in _BLOCK.items()}
            parts = state[f"{block}.attn.qkv.{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                tensors[f"{layer}.attention.attention.{name}.{kind}"] = part
    for i in range(depth):
        for which in (1, 2):
            gamma = state.get(f"blocks.{i}.ls{which}.gamma", torch.ones(width))
            tensors[f"dinov2.encoder.layer.{i}.layer_scale{which}.lambda1"] = gamma
    weight = state["head.weight"]
    tensors |= {
        "classifier.weight": torch.cat([weight, torch.zeros_like(weight)], 1),
        "classifier.bias": state["head.bias"],
    }
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def _runner(folder: Path) -> Runner:
    from transformers import AutoModelForImageClassification
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = AutoModelForImageClassification.from_pretrained(folder).eval()
    finally:
        if shown:
            logging.enable_progress_bar()
    return run_torch(lambda images: model(images).logits)


def _own_view(folder: Path) -> Callable[[Image.Image], Tensor]:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder)
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


FORM = Form(_write, _runner, (("transformers",), 'pip install "gta-vit[transformers]"'), own_view=_own_view)
