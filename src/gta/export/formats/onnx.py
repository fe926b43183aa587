"""ONNX, for onnxruntime and whatever else reads it: model.onnx, and model.int8.onnx with weights of 8 bits.

Of a run that crops also look.onnx, which says where: examples/onnx_predict_crop.py."""

import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gta.export.form import Attention, Exported, Form, Looker, Runner, WithProbabilities, as_text

OPSET = 20  # read by onnxruntime 1.17 (January 2024) and later


def _write(exported: Exported, folder: Path) -> Path:
    model = WithProbabilities(exported.model)
    size, outputs = exported.trained.image_size, ["logits", "probabilities"]
    return _exported(model, size, outputs, exported.metadata, folder / "model.onnx")


def _look(source: nn.Module, size: int, metadata: Mapping[str, Any], folder: Path) -> Path:
    return _exported(Attention(source), size, ["attention"], metadata, folder / "look.onnx")


def _exported(module: nn.Module, size: int, outputs: list[str], metadata: Mapping[str, Any], path: Path) -> Path:
    import onnx

    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(2, 3, size, size),),
            path,
            input_names=["images"],
            output_names=outputs,
            dynamo=True,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(path)
    opset = str(next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")))
    onnx.helper.set_model_props(model, as_text({**metadata, "opset": opset}))
    model.producer_name = "gta-vit"
    onnx.save(model, path)
    return path


def _runner(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: tuple(session.run(["logits", "probabilities"], {"images": pixels}))


def _looker(path: Path) -> Looker:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["attention"], {"images": pixels})[0]  # type: ignore[no-any-return]


def _int8(path: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    smaller = path.with_suffix(".int8.onnx")
    logging.getLogger().addFilter(_no_advice)
    try:
        quantize_dynamic(path, smaller, weight_type=QuantType.QInt8)
    finally:
        logging.getLogger().removeFilter(_no_advice)
    return smaller


def _no_advice(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()


FORM = Form(
    _write,
    _runner,
    (("onnx", "onnxscript", "onnxruntime"), 'pip install "gta-vit[onnx]"'),
    smaller=_int8,
    look=_look,
    looker=_looker,
)
