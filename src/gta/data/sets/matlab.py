"""MATLAB .mat lists, as Stanford published them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gta.errors import GtaError


def need_scipy() -> None:
    """Raise GtaError where scipy, which reads .mat files, is not installed."""
    try:
        import scipy.io  # noqa: F401
    except ImportError as error:
        raise GtaError("this data set's lists are MATLAB files, read by scipy: pip install scipy") from error


def read_mat(path: Path) -> dict[str, Any]:
    """The variables of a .mat file (version 4 to 7.2), with single dimensions left out."""
    need_scipy()
    from scipy.io import loadmat

    try:
        return dict(loadmat(path, squeeze_me=True))
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise OSError(f"{path}: {error}") from error
