"""Read the tensors of a checkpoint file or folder without running anything that is in it."""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gta.errors import GtaError

_WRAPPERS = ("teacher", "student", "model_ema", "state_dict_ema", "model", "state_dict")  # the first that is there wins
_PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".tar")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INFLATION = 10  # times that an archive of weights may grow when unpacked; weights hardly compress at all
_SLACK = 1 << 20


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a checkpoint; pickles are read with `weights_only=True` only.

    Args:
        path: a .safetensors, .pth, .pt, .ckpt, .bin, .pth.tar or .npz file, or a folder that timm's `save_for_hf` or
            `gta train` wrote.

    Returns:
        Tensors by their names in the file, out of wrappers such as "model" or "teacher"; and the metadata of a
        .safetensors file or of a folder's config.json (architecture, model_args, mean, std).

    Raises:
        GtaError: no such file, another ending, a damaged file, a pickle that holds more than tensors, an archive or
            tensors that would grow far beyond the file's size, or a folder without weights.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise GtaError(
            f"source {str(path)!r} is no file. Write a .safetensors, .pth, .pt, .ckpt or .npz file, a folder "
            "of timm's, or timm:NAME for weights from timm's hub, such as timm:vit_small_patch14_dinov2.lvd142m."
        )
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
    elif path.suffix in _PICKLES:
        tensors = _unwrap(_read_pickle(path), path)
    elif path.suffix == ".npz":
        tensors = _read_npz(path)
    else:
        raise GtaError(
            f"source {str(path)!r} ends in {path.suffix!r}; read are .safetensors, .npz, {', '.join(_PICKLES)}."
        )
    strange = [k for k, t in tensors.items() if t.layout != torch.strided or t.is_meta or t.is_quantized]
    if strange:
        raise GtaError(f"{path} holds sparse, quantised or empty tensors, {strange[0]} among them: save dense ones.")
    claimed = sum(t.numel() * t.element_size() for t in tensors.values())
    if claimed > _INFLATION * path.stat().st_size + _SLACK:
        raise GtaError(
            f"{path} has {path.stat().st_size:,} bytes, but its tensors claim {claimed:,}: they repeat or overlap, "
            "which weights do not. It is not loaded."
        )
    return tensors, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise GtaError(f"{path} is no readable safetensors file ({error}); fetch it again.") from error


def _read_pickle(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        with _harmless():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise errors of many kinds on damaged files
        raise GtaError(
            f"{path} cannot be read as plain tensors ({_reason(error)}). It is damaged or holds Python objects, which "
            "are never run here: save its state_dict as .safetensors where you trust it."
        ) from error


@contextmanager
def _harmless() -> Iterator[None]:
    """Let through what keeps values and runs nothing: argparse.Namespace, in which DINO, iBOT and MAE have their
    options, paths, and numpy's numbers, under the name of their reader in numpy 1 and 2."""
    import numpy as np

    allow = getattr(torch.serialization, "safe_globals", None)  # not in torch 2.4, which refuses such files
    if allow is None:
        yield
        return
    types = {type(np.dtype(code)) for code in "?bhilBHILefd"}
    with allow([argparse.Namespace, pathlib.PosixPath, np.dtype, *types, *map(_number, ("core", "_core"))]):
        yield


def _number(core: str) -> Any:
    """numpy's reader of pickled numbers under the name it has in that module; torch goes by names."""
    import numpy as np

    reader = np.float64(0).__reduce__()[0]

    def scalar(*given: Any) -> Any:
        return reader(*given)

    scalar.__module__, scalar.__qualname__ = f"numpy.{core}.multiarray", "scalar"
    return scalar


def _read_npz(path: Path) -> dict[str, Tensor]:
    import numpy as np

    if not zipfile.is_zipfile(path):
        raise GtaError(f"{path} is no .npz archive; fetch it again.")
    _check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            read = {k: _tensor(arrays[k]) for k in arrays.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError, MemoryError) as error:
        raise GtaError(
            f"{path} cannot be read as plain arrays ({_reason(error)}). It is damaged or holds Python objects, which "
            "are never run here."
        ) from error
    return {k: v for k, v in read.items() if v is not None}


def _tensor(array: Any) -> Tensor | None:
    """A numpy array of floats as a tensor, None for steps and the like; bfloat16, which numpy lacks, is saved as V2."""
    if array.dtype.str == "|V2":
        return torch.from_numpy(array.view("<i2").copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy()) if array.dtype.kind == "f" else None


def _check_archive(path: Path) -> None:
    """Refuse a zip bomb by what its directory says, before anything is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise GtaError(f"{path} is a damaged archive ({error}); fetch it again.") from error
    if unpacked > _INFLATION * path.stat().st_size + _SLACK:
        raise GtaError(
            f"{path} has {path.stat().st_size:,} bytes and would unpack to {unpacked:,}: weights do not compress so "
            "well. It is not opened."
        )


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[w] for w in _WRAPPERS if isinstance(content.get(w), Mapping)), None)
        if inner is None:
            return {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        content = inner
    raise GtaError(f"{path} holds a {type(content).__name__}, not a state dict of named tensors.")


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    file = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise GtaError(f"source {str(folder)!r} is a folder without {' or '.join(_WEIGHTS)}: give the weights' file.")
    tensors, metadata = read_checkpoint(file)
    config = folder / "config.json"
    if config.is_file():
        metadata = {**_folder_metadata(config), **metadata}
    return tensors, metadata


def _folder_metadata(config: Path) -> dict[str, str]:
    """What timm's config.json says, as the metadata that a .safetensors file of `gta train` has."""
    try:
        said = json.loads(config.read_text(encoding="utf-8"))
        architecture = said.get("architecture")
        channels = said.get("pretrained_cfg", said)
        known = {k: ",".join(str(float(x)) for x in channels[k]) for k in ("mean", "std") if k in channels}
        args = dict(said.get("model_args") or {})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise GtaError(f"{config} cannot be read as timm's description of a model: {error}") from error
    if architecture is None:
        return {}
    return {"architecture": str(architecture), "model_args": json.dumps(args), **known}


def _reason(error: Exception) -> str:
    """What torch or numpy could not read: the foreign object where one is named, else the first line."""
    foreign = re.search(r"GLOBAL (\S+)", str(error))
    if foreign:
        return f"it holds {foreign[1]}"
    line = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line[:160] or 'no more is known'}"
