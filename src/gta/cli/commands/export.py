from pathlib import Path

from gta.cli.console import print_json, print_table
from gta.cli.parser import Command


@Command
def export(
    run: str,
    *,
    to: str,
    out: str | None = None,
    data: str | None = None,
    int8: bool = False,
    whole_images: bool = False,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Write a run's model for others to run: ONNX, TorchScript, transformers, timm; checked against PyTorch.

    Args:
        run: Run folder written by gta train.
        to: onnx, torchscript, hf (a folder that transformers takes) or timm (one that timm takes).
        out: Folder to write; by default export/FORM in the run's.
        data: Other data with the same classes to check it on, where the run's own is no longer there.
        int8: With onnx, write a model with weights of 8 bits as well, and measure the accuracy of both.
        whole_images: Of a run whose model is shown the part of an image that its source attends to (attention_crop),
            export it for whole images, and measure what that costs.
        overwrite: Replace what is in --out.
        json: Print JSON instead of a table.
    """
    from gta.export.run import export_run

    more = {"int8": int8, "whole_images": whole_images, "overwrite": overwrite}
    folder, rows = export_run(Path(run), to, None if out is None else Path(out), data=data, **more)
    if json:
        print_json({"folder": str(folder), "models": rows})
    else:
        print_table(rows)
        print(f"Wrote {folder}")
