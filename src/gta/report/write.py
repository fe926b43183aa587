"""One page of whatever a folder holds."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import yaml

from gta.errors import GtaError
from gta.report import demo, runs, study

NAME = "report.html"
DAMAGED = (  # what reading text, YAML, arrays, archives and pictures raises for files that are not what they should be
    OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, yaml.YAMLError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of a run, of several beside each other, of a study, or of a demo.

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
        raise GtaError(f"{', '.join(missing)} is no folder: give run folders of gta train, or a study's or demo's.")
    if out is None:
        out = folders[0] / NAME if len(folders) == 1 else Path(NAME)
    try:
        if len(folders) == 1 and study.is_study(folders[0]):
            return study.write_report(folders[0], out)
        if len(folders) == 1 and (folders[0] / "demo.json").is_file():
            return demo.write_report(folders[0], out)
        return runs.write_report(folders, out)
    except DAMAGED as error:
        names = ", ".join(map(str, folders))
        raise GtaError(
            f"{names} cannot be shown: a file in it is damaged or of another version ({type(error).__name__}: {error})."
        ) from error
