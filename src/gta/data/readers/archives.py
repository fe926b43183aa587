"""What the readers of official archives share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scipy.io import loadmat
from torchvision.datasets import utils


def inside(root: Path, *names: str) -> Path:
    """The first of these folders that is in `root`, else `root` itself."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def need(folder: Path, names: Sequence[str]) -> None:
    """Raise FileNotFoundError, naming them all, where some of these files and folders are not in `folder`."""
    absent = [name for name in names if not (folder / name).exists()]
    if absent:
        raise FileNotFoundError(f"there is no {' and no '.join(absent)} in {folder}")


def fetch_archives(*archives: tuple[str, str | None]) -> Callable[[Path], None]:
    """A download into any folder of archives, each an address and its MD5; they are unpacked there."""

    def fetch(root: Path) -> None:
        for address, md5 in archives:
            utils.download_and_extract_archive(address, str(root), md5=md5)

    return fetch


def read_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file (version 4 to 7.2), with single dimensions left out; OSError if it is damaged."""
    try:
        return dict(loadmat(path, squeeze_me=True))
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise OSError(f"{path}: {error}") from error
