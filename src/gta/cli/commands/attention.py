from pathlib import Path
from typing import Literal

from gta.cli.console import print_values
from gta.cli.parser import Command
from gta.errors import GtaError


@Command
def attention(
    spec: str,
    *images: str,
    data: str | None = None,
    split: Literal["train", "val", "test"] = "test",
    protocol: Literal["dino", "merged", "wide", "foreground"] = "dino",
    frame: Literal["whole", "square"] = "whole",
    image_size: int | None = None,
    heads: int | None = None,
    out: str | None = None,
    json: bool = False,
) -> None:
    """Measure [cls] attention against object masks, or draw it over images.

    Args:
        spec: timm:NAME, a checkpoint, or a run folder.
        images: Image files to draw; needs --out.
        data: NAME:ROOT, such as cub:DIR or pets:DIR; a folder with masks; or a .csv file with a mask column.
        split: Which of its splits.
        protocol: dino (top 60 % of each head, best head of each object), merged (mean of the heads), wide (top 90 %
            at 512 px), foreground (all objects of an image as one).
        frame: whole images squeezed into a square, as the protocols have it, or the central square, as in results.json.
        image_size: Side of the images in px; by default the protocol's, or the one the model was trained at.
        heads: Attention heads, where they are not width / 64 and the file does not say.
        out: PNG file to draw the images' attention into, per head and their mean.
        json: Print JSON instead of a table.
    """
    if bool(images) == (data is not None):
        raise GtaError(
            "give either --data, to measure, or images and --out, to draw: gta attention SPEC IMAGE... --out X"
        )
    if data is not None:
        from gta.attention.evaluate import evaluate_attention
        from gta.data.reading import read_photos

        samples = read_photos(data).split(split)
        print_values(evaluate_attention(spec, samples, protocol, image_size, heads, frame), "attention", json)
        return
    if out is None:
        raise GtaError("--out is missing: give the PNG file to draw into.")
    from gta.attention.plots import draw_heads
    from gta.data.images import readable
    from gta.devices import default_device
    from gta.sources.loading import load_source

    paths = readable(images)
    model = load_source(spec, image_size, heads=heads).to(default_device())
    drawn, of_heads = draw_heads(model, paths, Path(out))
    print(f"{out}: {drawn} images, {of_heads} heads and their mean")
