"""Run what `gta export --to onnx` wrote, with onnxruntime, numpy and Pillow alone: onnx_predict.py MODEL PHOTO..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def predict(model: str, *photos: str) -> list[tuple[str, float]]:
    session = onnxruntime.InferenceSession(model)
    meta = session.get_modelmeta().custom_metadata_map
    classes, view = json.loads(meta["classes"]), json.loads(meta["preprocessing"])
    images = []
    for photo in photos:
        image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
        left, top = (round((side - min(image.size)) / 2) for side in image.size)
        image = image.crop((left, top, left + min(image.size), top + min(image.size)))
        pixels = np.asarray(image.resize(view["resize"], Image.Resampling.BICUBIC), np.float32) / 255
        images.append(((pixels - view["mean"]) / view["std"]).transpose(2, 0, 1))
    _, probabilities = session.run(None, {"images": np.stack(images).astype(np.float32)})
    return [(classes[row.argmax()], float(row.max())) for row in probabilities]


if __name__ == "__main__":
    for photo, (name, probability) in zip(sys.argv[2:], predict(*sys.argv[1:]), strict=True):
        print(f"{photo}: {name} {probability:.3f}")
