"""What determines a run, as one digest: its options, its data, its source, and the code that computes it.

Where things lie and how many processes load images determine nothing. Of the code, those files count that a run of this
method imports, without comments and docstrings: another method, command or page changes no digest.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from gta.data.datasets import list_data
from gta.files import file_digest
from gta.methods import METHODS, method_names
from gta.methods.compose import complete_settings
from gta.sources.info import digest as weights_digest
from gta.sources.loading import load_source
from gta.training.options import TrainOptions
from gta.training.results import versions

PLACES = ("out", "data", "source", "look_source", "subset_list", "workers", "devices", "reuse_dir", "download")
LENGTH = 20  # hex digits of a folder's name
_PACKAGE = Path(__file__).parents[1]


def identity(options: TrainOptions, data: str, source: str, *, test: bool) -> dict[str, Any]:
    """What determines a run, as JSON can hold it.

    Args:
        options: of the run.
        data, source: digests of them.
        test: whether it is tested.
    """
    values = {key: value for key, value in asdict(options).items() if key not in PLACES}
    listed = None if options.subset_list is None else file_digest(Path(options.subset_list))
    look = None if options.look_source is None else source_digest(options.look_source, options.heads)
    return {
        **values,
        "settings": complete_settings(options.method, options.settings),
        "data": data,
        "source": source,
        "look_source": look,
        "subset_list": listed,
        "test": test,
        "code": code_digest(options.method),
        "versions": versions(),
    }


def folder_name(determined_by: Mapping[str, Any]) -> str:
    return text_digest(json.dumps(determined_by, sort_keys=True, default=str))[:LENGTH]


def data_digest(spec: str, download: bool = False) -> str:
    """Of a data set's names, labels, masks and files, wherever they lie; with `download` it is fetched first.

    Raises:
        GtaError: no such data.
    """
    listing = list_data(spec, download)
    samples = [(split, s) for split, of in listing.splits.items() for s in of]
    paths = {path for _, s in samples for path in (s.path, s.mask) if path is not None}
    with ThreadPoolExecutor() as pool:
        of_file = dict(zip(paths, pool.map(file_digest, paths), strict=True))
    lines = [
        f"{split} {s.name} {listing.classes[s.label]} {of_file[s.path]} {s.mask and of_file[s.mask]} {s.mask_kind}"
        for split, s in samples
    ]
    return text_digest("\n".join([*map(str, listing.classes), *sorted(lines)]))


def world_digest(options: Mapping[str, Any]) -> str:
    """Of a world that these options draw: the same files whenever it is drawn."""
    return text_digest(json.dumps({**options, "code": _code(("gta.worlds.folder",))}, sort_keys=True))


@cache
def source_digest(spec: str, heads: int | None) -> str:
    """Of a source's weights, as they are loaded.

    Raises:
        GtaError: as `load_source`.
    """
    return weights_digest(load_source(spec, heads=heads))


def code_digest(method: str) -> str:
    """Of the package's files that a run of this method imports."""
    return _code(("gta.training.fit", *(METHODS[name].__module__ for name in method_names(method))))


@cache
def _code(first: tuple[str, ...]) -> str:
    """Of these modules and all that they import of this package; of modules outside it their names alone."""
    found: dict[str, str] = {}
    waiting = list(first)
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        path = _path(module)
        found[module], imported = _parsed("" if path is None else path.read_text(encoding="utf-8"))
        waiting += [name for name in imported if name not in found]
    return text_digest("\n".join(f"{name} {code}" for name, code in sorted(found.items())))


@cache  # methods share most of what they import
def _parsed(text: str) -> tuple[str, tuple[str, ...]]:
    """A module's code without comments and docstrings, and what it imports of this package."""
    tree = ast.parse(text)
    imported = tuple(_imported(tree))
    return ast.dump(_without_docstrings(tree)), imported


@cache
def _path(module: str) -> Path | None:
    inside = module.split(".")
    place = _PACKAGE.joinpath(*inside[1:])
    paths = (place.with_suffix(".py"), place / "__init__.py") if inside[0] == "gta" else ()
    return next((path for path in paths if path.is_file()), None)


def _imported(tree: ast.AST) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "gta":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if _path(whole) is not None else node.module


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            match node.body:
                case [ast.Expr(ast.Constant(str())), *rest]:
                    node.body = rest
    return tree


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
