"""One run of a study, executed from what is written beside its folder, wherever that is.

    runs/DIGEST.json      what determines it, and the options it is run with
    runs/DIGEST/          the run folder
    runs/DIGEST.diverged  its loss was no longer finite: a result
    runs/DIGEST.failed    why it failed
    runs/DIGEST.log       what it printed
    runs/DIGEST.lock      held while it is executed

A launcher needs nothing but the folders' paths.
"""

import gc
import json
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock

from gta.errors import GtaError
from gta.files import write_json, write_text
from gta.training.finite import Diverged
from gta.training.fit import train
from gta.training.options import TrainOptions
from gta.training.run_folder import CHECKPOINT, WEIGHTS, is_complete, read_results

State = Literal["missing", "complete", "diverged", "failed"]


def describe_run(folder: Path, options: TrainOptions, determined_by: Mapping[str, Any], *, test: bool) -> None:
    """Write what `execute` reads."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    given = {key: value for key, value in asdict(options).items() if key != "out"}
    write_json(_beside(folder, "json"), {"test": test, "options": given, "determined_by": determined_by})


def state(folder: Path) -> State:
    """What is known of a run."""
    if is_complete(folder):
        return "complete"
    for word in ("diverged", "failed"):
        if _beside(folder, word).is_file():
            return word  # type: ignore[return-value]
    return "missing"


def cause(folder: Path) -> str:
    """Why a run failed, in a line."""
    lines = _beside(folder, "failed").read_text(encoding="utf-8").strip().splitlines()
    return lines[0] if lines else "no cause was written"


def fail(folder: Path, why: str) -> None:
    write_text(_beside(folder, "failed"), f"{why}\n")


def forget_failure(folder: Path) -> None:
    _beside(folder, "failed").unlink(missing_ok=True)


def log_file(folder: Path) -> Path:
    return _beside(folder, "log")


def results_of(folder: Path) -> dict[str, Any]:
    return read_results(folder)


def execute(folder: Path) -> None:
    """Train what is described beside the folder, or go on with it; what came of it is on disk.

    What only resuming needs is deleted after it, and of runs that are not tested the weights too.

    Raises:
        KeyboardInterrupt: the user stopped it; it can be resumed.
    """
    with FileLock(
        _beside(folder, "lock")
    ):  # another process may have it: one that lost its parent, or another machine's
        if state(folder) in ("diverged", "failed"):
            return
        kept = ""
        try:
            given = json.loads(_beside(folder, "json").read_text(encoding="utf-8"))
            options = TrainOptions(**given["options"], out=str(folder))
            train(options, resume=True, test=given["test"])
            kept = WEIGHTS if given["test"] else ""
        except Diverged as error:
            write_text(_beside(folder, "diverged"), f"{error}\n")
        except GtaError as error:
            fail(folder, str(error))
        except Exception as error:  # a study goes on whatever becomes of one of its runs
            fail(folder, f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}")
        finally:
            _let_go()
        if state(folder) != "failed":
            for name in {CHECKPOINT, WEIGHTS} - {kept}:
                (folder / name).unlink(missing_ok=True)


def _let_go() -> None:
    """Of a run's memory and loader processes, which others on this machine can use."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _beside(folder: Path, word: str) -> Path:
    return folder.with_name(f"{folder.name}.{word}")
