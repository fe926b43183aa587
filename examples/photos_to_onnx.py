"""From a folder of photographs to a page, a table of predictions, an ONNX file and a folder for transformers.

photos_to_onnx.py PHOTOS SOURCE OUT [IMAGE_SIZE [EPOCHS]]: PHOTOS holds train/CLASS/*.jpg and optionally val/ and test/.
Needs gta-vit[onnx,pandas,transformers].
"""

import sys
from pathlib import Path

import pandas

import gta


def main(photos: str, source: str, out: str, **options: object) -> gta.Run:
    # 1. Fine-tune. Everything that is written lies in the folder `out`; give the same call again to go on after a stop.
    run = gta.fit(photos, out=out, source=source, resume=True, **options)
    results = run.results
    print(f"right on val: {results['val_top1']:.1f} % of {results['val_images']}; page: {run.page}")
    split = "test" if results["test_images"] else "val"
    before, after = (results[f"{split}_ece_{when}"] for when in ("before", "after"))
    print(f"calibration error on {split}: {before:.1f} points, {after:.1f} with the temperature that was fitted on val")

    # 2. The classes that are hardest: of every class, how many of its val and test images are named rightly.
    known = run.predictions()
    known["right"] = known.label == known.guess
    print(known.groupby("label").right.agg(["mean", "count"]).sort_values("mean").head().to_string())

    # 3. Name the class of photographs, none where the model is not sure; unreadable files come back with an error.
    images = gta.image_paths(Path(photos) / "test" if (Path(photos) / "test").is_dir() else photos)
    said = pandas.DataFrame(run.predict(images, abstain=0.5))
    said.drop(columns="probabilities").to_csv(Path(out) / "said.csv", index=False)
    print(f"{said.label.notna().sum()} of {len(said)} images named")

    # 4. A file for onnxruntime, checked against PyTorch; examples/onnx_predict.py reads it without this package. Runs
    #    that crop, as the default's do, have two, and examples/onnx_predict_crop.py reads them.
    print(f"ONNX: {run.export('onnx', overwrite=True) / 'model.onnx'}")

    # 5. A folder for transformers, which cannot crop to where the source looks: it is given whole images.
    crops = "attention_crop" in results["composed"]
    print(f"transformers: {run.export('hf', overwrite=True, whole_images=crops)}")
    return run


if __name__ == "__main__":
    numbers = dict(zip(("image_size", "epochs"), map(int, sys.argv[4:]), strict=False))
    main(*sys.argv[1:4], **{"image_size": 126, **numbers})
