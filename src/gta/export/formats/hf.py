"""A folder that transformers takes, `AutoModelForImageClassification.from_pretrained(FOLDER)`; timm as well."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image
from torch import Tensor

from gta.export.form import Form, Runner, run_torch
from gta.export.formats.timm import write_folder


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


FORM = Form(
    lambda exported, folder: write_folder(exported, folder, "transformers"),
    _runner,
    (("transformers",), 'pip install "gta-vit[transformers]"'),
    own_view=_own_view,
)
