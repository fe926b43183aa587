"""Read the tensors of a checkpoint file or folder without running anything that is in it.

timm's and Lightning's readers know neither the wrappers of self-supervised training nor the limits below.
"""

import argparse
import hashlib
import json
import pathlib
import re
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gta.errors import GtaError
from gta.files import atomic_write, reading

_WRAPPERS = ("teacher", "student", "model_ema", "state_dict_ema", "model", "state_dict")  # the first that is there wins
_PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".tar")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_MAX_GROWTH = 10  # times that an archive of weights may grow when unpacked; weights hardly compress at all
_SLACK = 1 << 20
_DEEPEST = 10  # wrappers inside of each other
CHECKSUM = "sha256"  # in a .safetensors file's metadata: of its tensors, as gta train writes them


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, as 64 hex digits."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A .safetensors file with a checksum; equal tensors and metadata give an equal file, byte for byte.

    (safetensors' own writer shuffles the metadata.)
    """
    from safetensors.torch import save

    plain = save(dict(tensors))
    size = 8 + int.from_bytes(plain[:8], "little")
    about = {**metadata, CHECKSUM: checksum(tensors)}
    header = {"__metadata__": dict(sorted(about.items())), **json.loads(plain[8:size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as new, new.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(plain)[size:])


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
            f"there is no file {str(path)!r}. A source must be a .safetensors, .pth, .pt, .ckpt or .npz file, a folder "
            "of timm's, or timm:NAME for weights from timm's hub, such as timm:vit_small_patch14_dinov2.lvd142m."
        )
    with reading(path, "a checkpoint"), path.open("rb") as file:  # safetensors calls whatever it may not read absent
        file.read(1)
    if path.suffix not in (".safetensors", ".npz", *_PICKLES):
        raise GtaError(
            f"source {str(path)!r} must end in .safetensors, .npz, {', '.join(_PICKLES)}; got {path.suffix!r}."
        )
    try:
        tensors, metadata = _read(path)
    except GtaError:
        raise
    except Exception as error:  # zip, pickle, torch, numpy and safetensors raise errors of many kinds on damaged files
        raise GtaError(
            f"{path} cannot be read as plain tensors ({_reason(error)}). It is damaged or holds Python objects, which "
            "are never run here: fetch it again, or save its state_dict as .safetensors where you trust it."
        ) from error
    strange = [k for k, t in tensors.items() if t.layout != torch.strided or t.is_meta or t.is_quantized]
    if strange:
        raise GtaError(f"{path} holds sparse, quantised or empty tensors, {strange[0]} among them: save dense ones.")
    _check_growth(path, sum(t.numel() * t.element_size() for t in tensors.values()), "its tensors repeat or overlap")
    return tensors, metadata


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            tensors, metadata = {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
        if CHECKSUM in metadata and metadata[CHECKSUM] != checksum(tensors):
            raise ValueError("its tensors are not those that were saved")
        return tensors, metadata
    if zipfile.is_zipfile(path):  # refuse a bomb by what its directory says, before anything is unpacked
        with zipfile.ZipFile(path) as archive:
            _check_growth(path, sum(entry.file_size for entry in archive.infolist()), "it is compressed")
    if path.suffix == ".npz":
        import numpy as np

        with np.load(path, allow_pickle=False) as arrays:
            read = {k: _tensor(arrays[k]) for k in arrays.files}
        return {k: v for k, v in read.items() if v is not None}, {}
    with _value_types_allowed():
        return _unwrap(torch.load(path, map_location="cpu", weights_only=True), path), {}


def _check_growth(path: Path, claimed: int, reason: str) -> None:
    size = path.stat().st_size
    if claimed > _MAX_GROWTH * size + _SLACK:
        raise GtaError(
            f"{path} has {size:,} bytes and would take {claimed:,} in memory: {reason} as weights do not. It is not "
            "loaded."
        )


def _value_types_allowed() -> AbstractContextManager[None]:
    """Let through what keeps values and runs nothing: argparse.Namespace, in which DINO, iBOT and MAE have their
    options, paths, and numpy's numbers, under the name of their reader in numpy 1 and 2."""
    import numpy as np

    allow = getattr(torch.serialization, "safe_globals", None)  # not in torch 2.4, which refuses such files
    if allow is None:
        return nullcontext()
    types = {type(np.dtype(code)) for code in "?bhilBHILefd"}
    readers = map(_numpy_scalar, ("core", "_core"))
    allowed: AbstractContextManager[None] = allow([argparse.Namespace, pathlib.PosixPath, np.dtype, *types, *readers])
    return allowed


def _numpy_scalar(core: str) -> Any:
    """numpy's reader of pickled numbers under the name it has in that module; torch 2.5 goes by `__name__`."""
    import numpy as np

    reader = np.float64(0).__reduce__()[0]

    def scalar(*given: Any) -> Any:
        return reader(*given)

    scalar.__module__, scalar.__qualname__ = f"numpy.{core}.multiarray", "scalar"
    return scalar


def _tensor(array: Any) -> Tensor | None:
    """A numpy array of floats as a tensor, None for steps and the like; bfloat16, which numpy lacks, is saved as V2."""
    if array.dtype.str == "|V2":
        return torch.from_numpy(array.view("<i2").copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy()) if array.dtype.kind == "f" else None


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        inner = next((content[w] for w in _WRAPPERS if isinstance(content.get(w), Mapping)), None)
        if inner is None:
            return {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        content = inner
    else:
        raise GtaError(f"{path} has wrappers inside of wrappers, more than {_DEEPEST} deep: it is damaged or hostile.")
    raise GtaError(f"{path} must hold a state dict of named tensors, got a {type(content).__name__}.")


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    file = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise GtaError(f"source {str(folder)!r} is a folder without {' or '.join(_WEIGHTS)}: give the weights' file.")
    tensors, metadata = read_checkpoint(file)
    config = folder / "config.json"
    return tensors, {**(_folder_metadata(config) if config.is_file() else {}), **metadata}


def _folder_metadata(config: Path) -> dict[str, str]:
    """What timm's config.json says, as the metadata that a .safetensors file of `gta train` has."""
    with reading(config, "timm's description of a model"):
        said = json.loads(config.read_text(encoding="utf-8"))
        if said.get("architecture") is None:
            return {}
        channels = said.get("pretrained_cfg", said)
        known = {k: ",".join(str(float(x)) for x in channels[k]) for k in ("mean", "std") if k in channels}
        args = json.dumps(dict(said.get("model_args") or {}))
        return {"architecture": str(said["architecture"]), "model_args": args, **known}


def _reason(error: Exception) -> str:
    """What torch or numpy could not read: the foreign object where one is named, else the first line."""
    foreign = re.search(r"GLOBAL (\S+)", str(error))
    if foreign:
        return f"it holds {foreign[1]}"
    line = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line[:160] or 'no more is known'}"
