"""The same of a run that crops, as the default does: onnx_predict_crop.py FOLDER PHOTO...

look.onnx says where the source looks in a photograph; what is around that is cut out and shown to model.onnx."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def load(path: str) -> tuple[onnxruntime.InferenceSession, dict[str, dict]]:
    session = onnxruntime.InferenceSession(path)
    meta = session.get_modelmeta().custom_metadata_map
    return session, {name: json.loads(meta[name]) for name in ("classes", "preprocessing", "crop") if name in meta}


def pixels(image: Image.Image, view: dict) -> np.ndarray:  # (1, 3, height, width)
    values = np.asarray(image.resize(view["resize"], Image.Resampling.BICUBIC), np.float32) / 255
    return ((values - view["mean"]) / view["std"]).transpose(2, 0, 1)[None].astype(np.float32)


def box(attention: np.ndarray, size: tuple[int, int], mass: float, margin: float, least: float, method: str) -> list:
    order = np.argsort(-attention, axis=None, kind="stable")
    held = order[np.cumsum(attention.ravel()[order]) / attention.sum() <= mass]  # the patches that hold `mass` of it
    left, part = set(zip(*np.unravel_index(held, attention.shape), strict=True)), []
    while left:  # the largest group of neighbours; of equals the first
        group = [min(left)]
        left.remove(group[0])
        for y, x in group:
            near = {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & left
            left, group[len(group) :] = left - near, near
        part = max(part, group, key=len)
    # the group's box, made square and larger: x and y in shares of the image's shorter side
    lengths, patches = np.array(size) / min(size), attention.shape[::-1]
    begin, end = np.min(part, 0)[::-1] / patches * lengths, (np.max(part, 0)[::-1] + 1) / patches * lengths
    half = np.minimum(max(least, margin * (end - begin).max()), lengths) / 2
    middle = np.clip((begin + end) / 2, half, lengths - half)
    return [round(edge) for edge in np.concatenate([middle - half, middle + half]) * min(size)]


def predict(folder: str, *photos: str) -> list[tuple[str, float]]:
    (look, looks), (model, sees) = (load(f"{folder}/{name}.onnx") for name in ("look", "model"))
    said = []
    for photo in photos:
        image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
        (attention,) = look.run(None, {"images": pixels(image, looks["preprocessing"])})[0]
        image = image.crop(box(attention, image.size, **looks["crop"]))
        left, top = (round((side - min(image.size)) / 2) for side in image.size)
        image = image.crop((left, top, left + min(image.size), top + min(image.size)))
        _, probabilities = model.run(None, {"images": pixels(image, sees["preprocessing"])})
        said.append((sees["classes"][probabilities[0].argmax()], float(probabilities[0].max())))
    return said


if __name__ == "__main__":
    for photo, (name, probability) in zip(sys.argv[2:], predict(*sys.argv[1:]), strict=True):
        print(f"{photo}: {name} {probability:.3f}")
