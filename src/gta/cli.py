"""`gta COMMAND`: the signatures and docstrings below are the command line.

Heavy packages are imported inside the commands, so that `gta --help` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from gta import __version__
from gta.errors import GtaError
from gta.training.options import TrainOptions
from gta.worlds.options import WorldOptions

INTERRUPTED = 130  # the shell's exit status after Ctrl-C


class DashedParser(ArgumentParser):
    """Spells options with dashes, --image-size; --image_size, as in config.yaml, is understood as well."""

    def add_argument(self, *names: str, **kwargs: Any) -> Any:
        dashed = tuple(n.replace("_", "-") for n in names if n.startswith("--") and "_" in n)
        return super().add_argument(*dashed, *names, **kwargs)


def evaluate(
    run: str,
    data: str | None = None,
    split: Literal["train", "val", "test"] = "test",
    as_json: bool = False,
) -> None:
    """Measure a trained run on a split: accuracy, attention, drift.

    Args:
        run: Run folder written by gta train.
        data: Data folder; by default the one the run was trained on.
        split: Which of its splits.
        as_json: Print JSON instead of a table.
    """
    from gta.training.predict import evaluate_run

    measures = evaluate_run(Path(run), data, split)
    _print(measures, as_json, title=f"{run} on {split}")


def predict(run: str, images: list[str], as_json: bool = False) -> None:
    """Name the class of photographs.

    Args:
        run: Run folder written by gta train.
        images: Image files.
        as_json: Print JSON instead of a table.
    """
    from gta.training.predict import predict_images

    guesses = predict_images(Path(run), images)
    if as_json:
        print(json.dumps(guesses, ensure_ascii=False, indent=2))
        return
    table = _table("image", "class", "probability")
    for guess in guesses:
        table.add_row(*_plain(guess["image"], guess["class"], f"{guess['probability']:.3f}"))
    _console().print(table)


def source(spec: str, image_size: int | None = None, heads: int | None = None, as_json: bool = False) -> None:
    """Say what a source is: its architecture and how its keys match.

    Args:
        spec: timm:NAME, gta:butterflies, or a .safetensors, .pth or .pt file.
        image_size: Side of the images in px; by default the one it was trained at.
        heads: Attention heads, where they are not width / 64 and the file does not say.
        as_json: Print JSON instead of a table.
    """
    from gta.sources import digest, load_source, source_info
    from gta.taps import anatomy

    model = load_source(spec, image_size, heads=heads)
    info = source_info(model)
    body = anatomy(model)
    found = {
        "spec": info.spec,
        "architecture": info.architecture,
        **{f"  {k}": v for k, v in info.model_args.items()},
        "layers": body.depth,
        "heads": body.heads,
        "prefix_tokens": body.prefix_tokens,
        "patches": None if body.grid is None else f"{body.grid[0]}×{body.grid[1]}",
        "parameters": sum(p.numel() for p in model.parameters()),
        "mean": ", ".join(map(str, info.mean)),
        "std": ", ".join(map(str, info.std)),
        "matched_keys": len(info.matched),
        "missing_keys": list(info.missing),
        "unexpected_keys": list(info.unexpected),
        "coverage": f"{info.coverage:.1%}",
        "digest": digest(model),
    }
    if as_json:
        found = {k.strip(): v for k, v in found.items()}
    _print(found, as_json, title="source")


def demo(out: str = "gta-demo", seeds: int = 1, overwrite: bool = False) -> None:
    """See plain and guided fine-tuning side by side, in three minutes, with nothing but this package.

    Args:
        out: Folder to write; finished runs in it are kept.
        seeds: Worlds to do it in; with more than one the difference is tested.
        overwrite: Start anew.
    """
    from gta.report.demo import table, verdict
    from gta.studies.demo import run_demo

    found = run_demo(out, seeds, overwrite=overwrite)
    shown = _table("", "source", "plain", "gta", title=f"{seeds} world{'s' * (seeds > 1)}")
    for label, cells in table(found):
        shown.add_row(*_plain(label, *cells))
    _console().print(shown)
    print(f"{verdict(found)}\nLook at {Path(out) / 'report.html'}")


def _world(given: Namespace) -> None:
    from gta.worlds import write_world

    options = WorldOptions(**{k: v for k, v in vars(given).items() if k != "config"})
    write_world(options)
    each = f"{options.train} + {options.val} + {options.test}"
    print(f"{options.out}: {options.classes} species, {each} images of each")


def _train(given: Namespace) -> None:
    from gta.training.fit import train

    values = {k: v for k, v in vars(given).items() if k not in ("config", "resume", "overwrite")}
    results = train(TrainOptions(**values), resume=given.resume, overwrite=given.overwrite)
    if results is not None:
        out = Path(given.out)
        _print(results, as_json=False, title=str(out))
        picture = out / "maps" / "attention.png"
        print(f"Model {out / 'model.safetensors'}" + (f", pictures {picture}" if picture.is_file() else ""))


def _command(function: Callable[..., None]) -> Callable[[Namespace], None]:
    return lambda given: function(**{k: v for k, v in vars(given).items() if k != "config"})


def _parser() -> tuple[ArgumentParser, dict[str, Callable[[Namespace], None]]]:
    parser = ArgumentParser(
        prog="gta", description="Fine-tune ViTs without losing what pre-training taught them to look at."
    )
    parser.add_argument("--version", action="version", version=f"gta-vit {__version__}")
    commands = parser.add_subcommands(required=True, metavar="COMMAND")

    training = DashedParser(description=_first_line(TrainOptions))
    training.add_class_arguments(TrainOptions, as_group=False, skip={"skip_unreadable"})
    unreadable = dict(_documented(TrainOptions))["skip_unreadable"]
    training.add_argument("--skip_unreadable", action="store_true", help=unreadable)
    training.add_argument("--config", action="config", help="YAML file of options, such as a run's config.yaml.")
    training.add_argument("--resume", action="store_true", help="Go on with the unfinished run in --out.")
    training.add_argument("--overwrite", action="store_true", help="Replace a run in --out.")
    commands.add_subcommand("train", training, help=_first_line(TrainOptions))
    handlers: dict[str, Callable[[Namespace], None]] = {"train": _train, "world": _world}

    drawing = DashedParser(description=_first_line(WorldOptions))
    drawing.add_class_arguments(WorldOptions, as_group=False, skip={"pretraining"})
    pretraining = dict(_documented(WorldOptions))["pretraining"]
    drawing.add_argument("--pretraining", action="store_true", help=pretraining)
    commands.add_subcommand("world", drawing, help=_first_line(WorldOptions))

    positional: dict[Callable[..., None], tuple[str, ...]] = {
        evaluate: ("run",),
        predict: ("run", "images"),
        source: ("spec",),
        demo: (),
    }
    for function, names in positional.items():
        sub = DashedParser(description=_first_line(function))
        helps = dict(_documented(function))
        flags = {"as_json": "--json", "overwrite": "--overwrite"}
        sub.add_function_arguments(function, as_group=False, skip={*names, *flags})
        for name in names:
            many = {"nargs": "+"} if name == "images" else {}
            sub.add_argument(name, help=helps[name], **many)
        for name, flag in flags.items():
            if name in helps:
                sub.add_argument(flag, dest=name, action="store_true", help=helps[name])
        commands.add_subcommand(function.__name__, sub, help=_first_line(function))
        handlers[function.__name__] = _command(function)
    return parser, handlers


def _first_line(what: Any) -> str:
    return str(what.__doc__).strip().splitlines()[0]


def _documented(function: Any) -> list[tuple[str, str]]:
    from docstring_parser import parse

    return [(p.arg_name, p.description or "") for p in parse(function.__doc__ or "").params]


def _with_saved_options(arguments: list[str]) -> list[str]:
    """`gta train --out RUN --resume` needs nothing else: RUN's own config is put first."""
    if "train" in arguments[:1] and "--resume" in arguments:
        for i, argument in enumerate(arguments):
            out = argument.partition("=")[2] if argument.startswith("--out=") else None
            if argument == "--out" and i + 1 < len(arguments):
                out = arguments[i + 1]
            if out and (Path(out) / "config.yaml").is_file():
                return ["train", "--config", str(Path(out) / "config.yaml"), *arguments[1:]]
    return arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 2 for bad input, 130 after Ctrl-C."""
    words = _with_saved_options(list(sys.argv[1:] if arguments is None else arguments))
    parser, handlers = _parser()
    given = parser.parse_args(words)
    command = given.subcommand
    try:
        handlers[command](given[command])
    except GtaError as error:
        print(f"gta {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ngta {command}: stopped.", file=sys.stderr)
        if command == "train" and (Path(given[command].out) / "config.yaml").is_file():
            print(f"Go on with: gta train --out {given[command].out} --resume", file=sys.stderr)
        return INTERRUPTED
    return 0


def _console() -> Any:
    from rich.console import Console

    return Console()


def _table(*columns: str, title: str | None = None) -> Any:
    from rich.table import Table

    table = Table(title=None if title is None else _plain(title)[0], show_header=bool(columns), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _plain(*texts: str) -> list[Any]:
    """Texts as they are: a path such as [red]/0.png is no markup."""
    from rich.text import Text

    return [Text(text) for text in texts]


def _print(values: dict[str, Any], as_json: bool, title: str) -> None:
    if as_json:
        print(json.dumps(values, ensure_ascii=False, indent=2))
        return
    table = _table(title=title)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in values.items():
        table.add_row(*_plain(key, _readable(value)))
    _console().print(table)


def _readable(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
