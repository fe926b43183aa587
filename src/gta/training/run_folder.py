"""The run folder: either complete (it has results.json), resumable (config.yaml without it), or absent."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from gta.data.datasets import resolved
from gta.errors import GtaError
from gta.files import file_digest, json_text, locked, read_json, reading, write_text
from gta.folders import (
    MARKER,
    Kind,
    beside,
    check_replaceable,
    check_sealed,
    mark,
    put_in_place,
    read_marker,
    recover,
    remove,
)
from gta.training.finite import Diverged, check_weights
from gta.training.options import TrainOptions

CONFIG, RESULTS, WEIGHTS, CHECKPOINT = "config.yaml", "results.json", "model.safetensors", "last.ckpt"
DIVERGED = "diverged.txt"
_FILES = (
    CONFIG, RESULTS, WEIGHTS, CHECKPOINT, DIVERGED, "metrics.csv", "predictions.csv", "skipped.json",
     "features.npz", "attention.npz", "images.zip", "look.safetensors", "batch.json", "report.html", "README.md",
     "attention", "attention/*.npz",
)  # fmt: skip
EXPORT = Kind("export", ("*.onnx", "*.onnx.data", "*.pt", "*.json", "*.safetensors", "README.md"))
RUN = Kind(
    "run",
    (
        *_FILES,
        *("folds", "folds/.*.lock", *(f"folds/*/{name}" for name in (MARKER, *_FILES))),
        *("export", *(f"export/*/{name}" for name in (MARKER, *EXPORT.files))),
    ),
)
_SEALED = ("metrics.csv", "predictions.csv", "skipped.json", "*.npz", "*.zip", "attention/*.npz")
# What may differ between two calls for the same run: where things are and how many work on it.
CIRCUMSTANCES = frozenset(["out", "data", "source", "subset_list", "workers", "devices", "download", "reuse_dir"])


def is_complete(folder: Path) -> bool:
    return (folder / RESULTS).is_file()


def run_id(options: TrainOptions, found: Mapping[str, str]) -> str:
    """16 hex digits: equal for runs of equal options and of data and source with equal digests, wherever these lie."""
    values = {key: value for key, value in asdict(options).items() if key not in CIRCUMSTANCES}
    text = json.dumps({**values, **found}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RunFolder:
    """The folder of the run that this process makes or goes on with.

    A run that replaces another is made beside it, and takes its place with its first checkpoint.

    Attributes:
        out: as the user named it.
        path: where to write now.
        begun: whether there is a run to go on with.
        id: the run's, once it is identified.
    """

    def __init__(self, out: Path, *, resume: bool, overwrite: bool) -> None:
        self.out = self.path = out
        self._resume, self._overwrite = resume, overwrite
        self._new = False  # made by this process, and without a checkpoint
        self.id = ""
        self._found: Mapping[str, str] = {}

    @property
    def begun(self) -> bool:
        return self._resume and (self.out / CONFIG).is_file()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes away. A run that fails without a checkpoint leaves nothing; one stopped can go on.

        Raises:
            GtaError: training must not touch the folder, or another process holds it.
        """
        if self.out.is_file():
            raise GtaError(f"--out {self.out} is a file: give a folder.")
        try:
            with locked(self.out):
                recover(self.out, RUN)
                self._check()
                try:
                    yield
                except BaseException as error:
                    kept = isinstance(error, (KeyboardInterrupt, Diverged)) and self.path == self.out
                    if isinstance(error, Diverged) and self.path.is_dir() and self.path == self.out:
                        write_text(self.out / DIVERGED, f"{error}\n")
                    if self._new and not kept:
                        remove(self.path, RUN)
                    raise
        except PermissionError as error:
            raise GtaError(f"--out {self.out} cannot be written: {error.strerror}: {error.filename}.") from error

    def _check(self) -> None:
        out = self.out
        if not out.exists() or not any(out.iterdir()):
            return
        if self._overwrite and not self._resume:
            return check_replaceable(out, RUN)
        if read_marker(out, RUN) is None:
            raise GtaError(f"--out {out} is not empty and holds no run that gta wrote: give a new folder.")
        if (out / DIVERGED).is_file() and not self._resume:
            raise GtaError(f"--out {out} holds a run that diverged: give another folder, or add --overwrite.")
        if is_complete(out):
            check_agreement(out)
            if not self._resume:
                raise GtaError(f"--out {out} holds a complete run: give another folder, or add --overwrite.")
        elif not self._resume and (out / CONFIG).is_file():
            raise GtaError(
                f"--out {out} holds an unfinished run: go on with\n  gta train --out {out} --resume\n"
                "or start it anew with --overwrite."
            )

    def identify(self, options: TrainOptions, found: Mapping[str, str]) -> None:
        """Say which run this is, by its options and the digests of what it is made from.

        Raises:
            GtaError: `out` was begun with other images, another source or other options.
        """
        self.id, self._found = run_id(options, found), found
        before = read_marker(self.out, RUN) if self.begun else None
        if before is not None and before.get("id") != self.id:
            other = [what for what, digest in found.items() if before.get(what) != digest] or ["options"]
            raise GtaError(
                f"the {' and '.join(other)} are not those that {self.out} was begun with: put them back, or start "
                "another run with another --out."
            )

    def open(self, options: TrainOptions) -> None:
        """Make the folder, its marker and config; in a run that is gone on with, renew the config."""
        if not self.begun:
            if self.out.exists() and any(self.out.iterdir()):
                self.path = beside(self.out, "new")
            self.path.mkdir(exist_ok=True)
            self._new = True
            mark(self.path, RUN, id=self.id, **self._found)
        write_text(self.path / CONFIG, config_text(options) + f"# run: {self.id}\n")

    def settle(self) -> None:
        """There is a checkpoint: from now on this is the run in `out`."""
        if self.path != self.out:
            put_in_place(self.out, RUN)
            self.path = self.out
        self._new = False

    def complete(self, results: Mapping[str, Any]) -> None:
        """Write the results, last of all, and the digests of what the run is read from afterwards."""
        (self.path / DIVERGED).unlink(missing_ok=True)
        paths = sorted(path for pattern in _SEALED for path in self.path.glob(pattern))
        text = json_text(results)
        digests = {path.relative_to(self.path).as_posix(): file_digest(path) for path in paths}
        digests[RESULTS] = hashlib.sha256(text.encode()).hexdigest()
        mark(self.path, RUN, id=self.id, **self._found, files=digests)
        write_text(self.path / RESULTS, text)


def check_agreement(folder: Path) -> None:
    """Raise GtaError where the files of a run folder are not all of the run that its marker names."""
    marker = read_marker(folder, RUN)
    if marker is None:
        raise GtaError(f"{folder} is not a run folder that gta train wrote.")
    ids = {RESULTS: read_json(folder / RESULTS, _AGAIN).get("run_id")} if is_complete(folder) else {}
    with reading(folder / CONFIG, "a run's options"):
        line = re.search(r"^# run: (\w+)$", (folder / CONFIG).read_text(encoding="utf-8"), re.MULTILINE)
        ids[CONFIG] = line and line[1]
    if (folder / WEIGHTS).is_file():
        from safetensors import safe_open

        with reading(folder / WEIGHTS, "a model", _AGAIN), safe_open(folder / WEIGHTS, "pt") as file:
            ids[WEIGHTS] = (file.metadata() or {}).get("run_id")
    for name, found in ids.items():
        if found != marker.get("id"):
            raise GtaError(
                f"{folder / name} is not of the run that the folder holds ({found}, not {marker.get('id')}): "
                "put the right file back, or train again with --overwrite."
            )
    check_sealed(folder, _AGAIN)


_AGAIN = f"Delete it and {RESULTS}, and gta train --out FOLDER --resume makes them again from {CHECKPOINT}."


def config_text(options: TrainOptions) -> str:
    """YAML of the options; paths absolute, so that it runs from anywhere; without `out`."""
    values = asdict(options)
    values["data"] = resolved(options.data)
    if options.subset_list is not None:
        values["subset_list"] = str(Path(options.subset_list).resolve())
    del values["out"]  # so that a config never says where to write
    if Path(options.source).exists():
        values["source"] = str(Path(options.source).resolve())
    head = "# Runs this run again: gta train --config config.yaml --out ANOTHER_FOLDER\n"
    return head + yaml.safe_dump(values, sort_keys=False)


def read_options(folder: Path) -> TrainOptions:
    """The options a run was made with.

    Raises:
        GtaError: no run there, or a config of other options than this version's.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise GtaError(f"{folder} is not a run folder: it has no {CONFIG}.")
    with reading(path, "a run's options"):
        return TrainOptions(**yaml.safe_load(path.read_text(encoding="utf-8")), out=str(folder))


def check_same(before: TrainOptions, now: TrainOptions) -> None:
    for field in fields(TrainOptions):
        old, new = getattr(before, field.name), getattr(now, field.name)
        if old != new and field.name not in CIRCUMSTANCES:
            raise GtaError(
                f"--resume goes on with {field.name}={old}, but {field.name}={new} was given. Leave it out, or "
                "start another run with another --out."
            )


def read_results(folder: Path) -> dict[str, Any]:
    """The content of results.json."""
    return read_json(folder / RESULTS, _AGAIN)


def save_weights(folder: Path, model: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write `model.safetensors`: a plain timm state dict; the metadata says how timm builds the model.

    Raises:
        Diverged: weights that are not finite.
    """
    from gta.sources.checkpoint_files import write_checkpoint

    check_weights(model)
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    said = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    write_checkpoint(folder / WEIGHTS, tensors, said)


def load_weights(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a complete run, in eval mode, and its metadata.

    The metadata has `architecture`, `model_args`, `mean`, `std`, `classes` and `temperature`.

    Raises:
        GtaError: no finished run, or a model that is damaged or of another run.
    """
    from gta.sources.checkpoint_files import read_checkpoint
    from gta.sources.loading import build

    path = folder / WEIGHTS
    if not path.is_file():
        hint = " The run is not finished: add --resume to its training." if (folder / CONFIG).is_file() else ""
        raise GtaError(f"{folder} holds no trained model (no {WEIGHTS}).{hint}")
    check_agreement(folder)
    tensors, metadata = read_checkpoint(path)
    with reading(path, "a model of gta train", _AGAIN):
        known = {
            "architecture": metadata["architecture"],
            "model_args": json.loads(metadata["model_args"]),
            "classes": json.loads(metadata["classes"]),
            "mean": [float(x) for x in metadata["mean"].split(",")],
            "std": [float(x) for x in metadata["std"].split(",")],
            "temperature": float(metadata.get("temperature", 1)),  # 1 where no image was left to fit it on
        }
        model: nn.Module = build(known["architecture"], known["model_args"])
        model.load_state_dict(tensors)
    check_weights(model)
    return model.eval(), known
