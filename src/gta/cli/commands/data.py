from pathlib import Path

from gta.cli.console import print_json, print_values
from gta.cli.parser import Command, Group
from gta.errors import GtaError
from gta.registry import Registry

LISTED = 20  # pairs of duplicates printed


@Command
def check(data: str, *, pictures: str = "data-check.png", download: bool = False, json: bool = False) -> None:
    """Verify a data set: official counts, every file readable, images that are in train and test; draw samples.

    Args:
        data: NAME:ROOT, such as cub:DIR; a folder with train/CLASS/*; or a .csv file.
        pictures: PNG file to draw sample pictures and the duplicates found into.
        download: Fetch a published data set into its ROOT first, where it is not there.
        json: Print JSON instead of a table.
    """
    from gta.data.checks import check_data

    found = check_data(data, Path(pictures), download)
    pairs = {"same_file": found.same, "look_alikes": found.alike}
    listed = {word: [[s.name, t.name] for s, t in of] for word, of in pairs.items()}
    if json:
        print_json({**found.summary, "unreadable": found.unreadable, **listed, "passed_over": list(found.notes)})
    else:
        print_values({**found.summary, "unreadable_files": len(found.unreadable)}, "data")
        for word, of in listed.items():
            for train, test in of[:LISTED]:
                print(f"{word}: {train} and {test}")
            if len(of) > LISTED:
                print(f"{word}: {len(of) - LISTED} more pairs; --json lists all")
        for note in found.notes:
            print(f"passed over: {note}")
        print(f"Pictures {pictures}")
    if found.refusal is not None:
        raise GtaError(found.refusal)


@Command
def manifest(data: str, *, out: str, fraction: float = 1.0, seed: int = 0) -> None:
    """Write the list of training images that a fraction and a seed choose, with their SHA-256.

    Args:
        data: NAME:ROOT, such as cub:DIR; a folder with train/CLASS/*; or a .csv file.
        out: File to write; gta train --subset-list takes it.
        fraction: Share of every class's training images, above 0 and up to 1; seeded and nested.
        seed: Of the choice, and of the validation images held out before it.
    """
    from gta.data.reading import write_manifest

    photos = write_manifest(data, Path(out), fraction=fraction, seed=seed)
    print(f"{out}: {len(photos.train)} images of {len(photos.classes)} classes, digest {photos.digests['train']}")


data = Group(
    Registry("action", {"check": check, "manifest": manifest}),
    help="Verify a data set, or list the images that a fraction of it has.",
)
