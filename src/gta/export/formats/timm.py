"""A folder that timm takes, `timm.create_model("local-dir:FOLDER", pretrained=True)` or, uploaded, `hf-hub:`; and
transformers as well."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from gta.export.form import Exported, Form, Runner, run_torch
from gta.files import write_json, write_text


def write_folder(exported: Exported, folder: Path, library: str) -> Path:
    """`config.json`, `model.safetensors` and `README.md`.

    Args:
        library: for the hub, whose the folder is.
    """
    model: Any = exported.model
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "config.json", _config(exported))
    licence = f"license: {exported.licence}\n" if exported.licence else ""
    head = f"---\nlibrary_name: {library}\npipeline_tag: image-classification\n{licence}tags:\n- timm\n---\n\n"
    write_text(folder / "README.md", head + exported.card)
    return folder


def _config(exported: Exported) -> dict[str, Any]:
    model: Any = exported.model
    trained, size = exported.trained, exported.trained.image_size
    return {
        "architecture": trained.architecture,
        "model_type": "timm_wrapper",  # by which transformers knows it
        "architectures": ["TimmWrapperForImageClassification"],
        "num_classes": len(trained.classes),
        "num_features": model.num_features,
        "label_names": trained.classes,
        "model_args": {k: v for k, v in trained.model_args.items() if k != "num_classes"},
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": trained.mean,
            "std": trained.std,
            "num_classes": len(trained.classes),
            "first_conv": model.pretrained_cfg.get("first_conv"),
            "classifier": model.pretrained_cfg.get("classifier"),
        },
        "gta": dict(exported.metadata),
    }


def _load(folder: Path) -> Any:
    import timm

    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def _runner(folder: Path) -> Runner:
    return run_torch(_load(folder))


def _own_view(folder: Path) -> Callable[[Image.Image], Tensor]:
    import timm

    view: Callable[[Image.Image], Tensor] = timm.data.create_transform(
        **timm.data.resolve_model_data_config(_load(folder))
    )
    return view


FORM = Form(lambda exported, folder: write_folder(exported, folder, "timm"), _runner, own_view=_own_view)
