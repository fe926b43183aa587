from pathlib import Path

from gta.cli.console import print_json, print_table
from gta.cli.parser import Command


@Command
def predict(run: str, images: list[str], *, json: bool = False) -> None:
    """Name the class of photographs.

    Args:
        run: Run folder written by gta train.
        images: Image files.
        json: Print JSON instead of a table.
    """
    from gta.training.predict import predict_images

    guesses = predict_images(Path(run), images)
    if json:
        print_json(guesses)
    else:
        print_table(
            [{"image": g["image"], "class": g["class"], "probability": f"{g['probability']:.3f}"} for g in guesses]
        )
