"""ONNX, for onnxruntime and whatever else reads it: model.onnx, and model.int8.onnx with weights of 8 bits."""

import logging
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch

from gta.export.form import Exported, Form, Runner, WithProbabilities, as_text

OPSET = 20  # read by onnxruntime 1.17 (January 2024) and later


def _write(exported: Exported, folder: Path) -> Path:
    import onnx

    path, size = folder / "model.onnx", exported.trained.image_size
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            WithProbabilities(exported.model).eval(),
            (torch.zeros(2, 3, size, size),),
            path,
            input_names=["images"],
            output_names=["logits", "probabilities"],
            dynamo=True,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(path)
    opset = str(next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")))
    onnx.helper.set_model_props(model, as_text({**exported.metadata, "opset": opset}))
    model.producer_name = "gta-vit"
    onnx.save(model, path)
    return path


def _runner(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: tuple(session.run(["logits", "probabilities"], {"images": pixels}))


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


FORM = Form(_write, _runner, (("onnx", "onnxscript", "onnxruntime"), 'pip install "gta-vit[onnx]"'), smaller=_int8)
