"""One page of whatever a folder holds."""

from collections.abc import Sequence
from pathlib import Path

from gta.errors import GtaError
from gta.report import runs

NAME = "report.html"


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of a run, or of several beside each other.

    Args:
        folders: what is shown; of several runs the first is what the others are compared with.
        out: HTML file; by default report.html in the folder, of several folders in the working directory.

    Returns:
        The page's path.

    Raises:
        GtaError: nothing that has a page, or `out` cannot be written.
    """
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise GtaError(f"{', '.join(missing)} is no folder: give run folders of gta train.")
    if out is None:
        out = folders[0] / NAME if len(folders) == 1 else Path(NAME)
    return runs.write_report(folders, out)
