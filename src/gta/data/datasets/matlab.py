"""MATLAB .mat lists, as Stanford published them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_mat(path: Path) -> dict[str, Any]:
    """The variables of a .mat file (version 4 to 7.2), with single dimensions left out."""
    from scipy.io import loadmat

    try:
        return dict(loadmat(path, squeeze_me=True))
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise OSError(f"{path}: {error}") from error
