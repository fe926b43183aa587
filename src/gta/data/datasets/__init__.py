"""Data by its spec: NAME:ROOT for a published set (one file each beside this one), a folder, or a CSV file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from gta.data.sample import Listing
from gta.errors import GtaError

SETS = {  # each module has SET, a DataSet; or, where NAME: is followed by more than ROOT, list_set(that, download)
    "cub": "gta.data.datasets.cub",
    "cars": "gta.data.datasets.cars",
    "aircraft": "gta.data.datasets.aircraft",
    "dogs": "gta.data.datasets.dogs",
    "pets": "gta.data.datasets.pets",
    "flowers": "gta.data.datasets.flowers",
    "food101": "gta.data.datasets.food101",
    "dtd": "gta.data.datasets.dtd",
    "eurosat": "gta.data.datasets.eurosat",
    "pcam": "gta.data.datasets.pcam",
    "medmnist": "gta.data.datasets.medmnist",
    "hf": "gta.data.datasets.hub",
}


def list_data(spec: str | Path, download: bool = False) -> Listing:
    """List the images of a data spec.

    Args:
        spec: NAME:ROOT with a name of `SETS`, a folder with train/CLASS/, or a .csv file.
        download: fetch a named set's official archives where they are not there.

    Raises:
        GtaError: an unknown name, nothing there, or not what the name promises.
    """
    name, rest = parts(spec)
    if name:
        module = import_module(SETS[name])
        of = module.SET.open if hasattr(module, "SET") else module.list_set
        listing: Listing = of(rest, download)
        return listing
    if download:
        raise GtaError(f"--download fetches data sets by name, NAME:ROOT with one of {', '.join(SETS)}; not {spec}.")
    path = Path(spec)
    if path.suffix.lower() == ".csv":
        from gta.data.datasets.table import list_table

        return list_table(path)
    from gta.data.datasets.folders import list_folder

    return list_folder(path)


def parts(spec: str | Path) -> tuple[str, str]:
    """NAME and what follows it, or ("", spec) for a path.

    Raises:
        GtaError: a name nobody knows, and no such path.
    """
    name, colon, rest = str(spec).partition(":")
    if colon and name in SETS:
        return name, rest
    if colon and name.isidentifier() and len(name) > 1 and not Path(spec).exists():
        raise GtaError(
            f"--data {spec}: no data set is called {name!r}. Write one of {', '.join(SETS)} before the colon, or the "
            "path of a folder or a .csv file."
        )
    return "", str(spec)


def resolved(spec: str | Path) -> str:
    """The spec with its folder as an absolute path, so that it means the same from anywhere."""
    head, root = _place(spec)
    return f"{head}{Path(root).resolve()}" if root else head


def title(spec: str | Path) -> str:
    """The spec without the folder's place on this machine: "cub", "medmnist:pathmnist", or the folder's own name."""
    head, root = _place(spec)
    return head.rstrip(":") or Path(root).resolve().name


def _place(spec: str | Path) -> tuple[str, str]:
    """What stands before the folder, colon included, and the folder ("" where the spec names none)."""
    name, rest = parts(spec)
    if not name:
        return "", str(spec)
    flag, colon, root = rest.rpartition(":")
    if name == "hf" or (name == "medmnist" and not colon):
        return str(spec), ""
    return f"{name}:{flag}{colon}", root
