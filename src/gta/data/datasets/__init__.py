"""Published data sets, one per file of this folder, and data by its spec: NAME:ROOT, a folder, or a CSV file.

To add a data set, write one file here with a `DataSet` (or other `NamedData`) called SET, or at run time
`DATASETS.add(NAME, DataSet(...))`.
"""

from pathlib import Path

from gta.data.readers.folders import list_folder
from gta.data.readers.table import list_table
from gta.data.sample import Listing, NamedData
from gta.errors import GtaError
from gta.registry import Registry

DATASETS: Registry[NamedData] = Registry("data set", package=__name__, entry=lambda module: module.SET)


def list_data(spec: str | Path, download: bool = False) -> Listing:
    """List the images of a data spec.

    Args:
        spec: NAME:ROOT with a name of `DATASETS`, a folder with train/CLASS/, or a .csv file.
        download: fetch a named set's official archives where they are not there.

    Raises:
        GtaError: an unknown name, nothing there, or not what the name promises.
    """
    name, rest = parts(spec)
    if name:
        return DATASETS[name].open(name, rest, download)
    if download:
        raise GtaError(f"--download fetches NAME:ROOT, where NAME must be one of {', '.join(DATASETS)}, got {spec}.")
    path = Path(spec)
    return list_table(path) if path.suffix.lower() == ".csv" else list_folder(path)


def parts(spec: str | Path) -> tuple[str, str]:
    """NAME and what follows it, or ("", spec) for a path.

    Raises:
        GtaError: a name nobody knows, and no such path.
    """
    name, colon, rest = str(spec).partition(":")
    if colon and name in DATASETS:
        return name, rest
    if colon and name.isidentifier() and len(name) > 1 and not Path(spec).exists():
        raise GtaError(
            f"--data {spec}: what stands before the colon must be one of {', '.join(DATASETS)}, got {name!r}. Or write "
            "the path of a folder or a .csv file."
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
    variant, root = DATASETS[name].place(rest)
    return f"{name}:{variant}", root
