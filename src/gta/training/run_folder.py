"""The run folder: either complete (it has results.json), resumable (config.yaml without it), or absent."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from gta.data.datasets import resolved
from gta.errors import GtaError
from gta.files import atomic_folder, atomic_write
from gta.training.options import TrainOptions

CONFIG, RESULTS, WEIGHTS, CHECKPOINT = "config.yaml", "results.json", "model.safetensors", "last.ckpt"


def is_complete(folder: Path) -> bool:
    return (folder / RESULTS).is_file()


def check_out(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise GtaError where training must not touch `folder`."""
    if folder.is_file():
        raise GtaError(f"--out {folder} is a file: give a folder.")
    if overwrite or not folder.exists() or not any(folder.iterdir()):
        if overwrite and folder.exists() and not (folder / CONFIG).is_file() and any(folder.iterdir()):
            raise GtaError(f"--out {folder} holds something else than a run (no {CONFIG}): it is not overwritten.")
        return
    if not (folder / CONFIG).is_file():
        raise GtaError(f"--out {folder} is not empty and holds no run (no {CONFIG}): give a new folder.")
    if is_complete(folder):
        if not resume:
            raise GtaError(f"--out {folder} holds a complete run: give another folder, or add --overwrite.")
    elif not resume:
        raise GtaError(
            f"--out {folder} holds an unfinished run: go on with\n  gta train --out {folder} --resume\n"
            "or start it anew with --overwrite."
        )


def open_folder(folder: Path, options: TrainOptions, *, resume: bool, overwrite: bool) -> None:
    """Make the folder with its config in one step; with `resume` and a run in it, keep what is there.

    Raises:
        GtaError: it cannot be written, or something else was put there since `check_out`.
    """
    if resume and (folder / CONFIG).is_file():
        return
    try:
        with atomic_folder(folder, replace=overwrite) as new:  # a kill leaves the old run or the new one, never a half
            (new / CONFIG).write_text(config_text(options), encoding="utf-8")
    except OSError as error:
        raise GtaError(f"--out {folder} cannot be made: {error.strerror or error}.") from error


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
    try:
        return TrainOptions(**yaml.safe_load(path.read_text(encoding="utf-8")), out=str(folder))
    except (TypeError, yaml.YAMLError) as error:
        raise GtaError(f"{path} cannot be read: {error}") from error


def save_weights(folder: Path, model: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write `model.safetensors`: a plain timm state dict; the metadata says how timm builds the model."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with atomic_write(folder / WEIGHTS) as new:
        save_file(tensors, new, {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()})


def load_weights(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a complete run, in eval mode, and its metadata.

    The metadata has `architecture`, `model_args`, `mean`, `std`, `classes` and `temperature`.
    """
    from gta.sources.checkpoint_files import read_checkpoint
    from gta.sources.loading import build

    if not (folder / WEIGHTS).is_file():
        hint = " The run is not finished: add --resume to its training." if (folder / CONFIG).is_file() else ""
        raise GtaError(f"{folder} holds no trained model (no {WEIGHTS}).{hint}")
    tensors, metadata = read_checkpoint(folder / WEIGHTS)
    try:
        known = {
            "architecture": metadata["architecture"],
            "model_args": json.loads(metadata["model_args"]),
            "classes": json.loads(metadata["classes"]),
            "mean": [float(x) for x in metadata["mean"].split(",")],
            "std": [float(x) for x in metadata["std"].split(",")],
            "temperature": float(metadata.get("temperature", 1)),  # 1 where no image was left to fit it on
        }
    except KeyError as error:
        raise GtaError(f"{folder / WEIGHTS} was not written by gta train: its metadata lacks {error}.") from error
    model = build(known["architecture"], known["model_args"])
    model.load_state_dict(tensors)
    return model.eval(), known
