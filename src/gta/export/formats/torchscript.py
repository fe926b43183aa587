"""TorchScript, for torch.jit.load in Python and C++: model.pt gives (logits, probabilities)."""

import json
import warnings
from pathlib import Path

import torch

from gta.export.form import Exported, Form, Pixels, Runner, Said, WithProbabilities


def _write(exported: Exported, folder: Path) -> Path:
    path, size = folder / "model.pt", exported.trained.image_size
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(WithProbabilities(exported.model).eval(), torch.zeros(2, 3, size, size))
        metadata = json.dumps(exported.metadata, ensure_ascii=False)
        torch.jit.save(traced, str(path), _extra_files={"metadata.json": metadata.encode()})
    return path


def _runner(path: Path) -> Runner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.load(str(path))

    def run(pixels: Pixels) -> Said:
        with torch.inference_mode():
            logits, probabilities = model(torch.from_numpy(pixels))
            return logits.numpy(), probabilities.numpy()

    return run


FORM = Form(_write, _runner)
