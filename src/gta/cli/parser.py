"""`gta COMMAND`: the command line, made of the options and the functions that the commands are.

Heavy packages are imported inside the commands, so that `gta --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from gta import __version__
from gta.benchmark.options import Bench
from gta.cli.commands import (
    attention,
    bench,
    check,
    compare,
    demo,
    evaluate,
    manifest,
    methods,
    predict,
    source,
    train,
    world,
)
from gta.cli.console import first_line
from gta.errors import GtaError
from gta.methods import METHODS, method_names
from gta.studies.comparison import Comparison
from gta.training.options import TrainOptions
from gta.worlds.options import WorldOptions

INTERRUPTED = 130  # the shell's exit status after Ctrl-C


class DashedParser(ArgumentParser):
    """Spells options with dashes, --image-size; --image_size, as in config.yaml, is understood as well."""

    def add_argument(self, *names: str, **kwargs: Any) -> Any:
        dashed = tuple(n.replace("_", "-") for n in names if n.startswith("--") and "_" in n)
        return super().add_argument(*dashed, *names, **kwargs)


def _method(text: str) -> str:
    """The type of --method."""
    try:
        method_names(text)
    except GtaError as error:
        raise ValueError(str(error)) from None
    return text


def _add_method_options(parser: ArgumentParser) -> None:
    """A flag --NAME.FIELD for each option of each method's own; imports the methods."""
    from dataclasses import fields
    from typing import get_type_hints

    for name in METHODS:
        kind = METHODS[name]
        helps, types = dict(_documented(kind)), get_type_hints(kind)
        for field in () if kind.top_level_options else fields(kind):
            meaning = f"{helps[field.name]} (method {name}; default {field.default})"
            # Without a default of its own: what was not given is left to the config, then to the method.
            parser.add_argument(f"--{name}.{field.name}", type=types[field.name] | None, default=None, help=meaning)


def _command(function: Callable[..., None]) -> Callable[[Namespace], None]:
    return lambda given: function(**{k: v for k, v in vars(given).items() if k != "config"})


def _parser(command: str = "") -> tuple[ArgumentParser, dict[str, Callable[[Namespace], None]]]:
    parser = ArgumentParser(
        prog="gta", description="Fine-tune ViTs without losing what pre-training taught them to look at."
    )
    parser.add_argument("--version", action="version", version=f"gta-vit {__version__}")
    commands = parser.add_subcommands(required=True, metavar="COMMAND")

    training = DashedParser(description=first_line(TrainOptions))
    switches = ("download", "skip_unreadable", "source_compile", "reuse")
    training.add_class_arguments(TrainOptions, as_group=False, skip={*switches, "method"})
    helps = dict(_documented(TrainOptions))
    training.add_argument("--method", type=_method, default="gta", help=helps["method"])
    for name in switches:
        training.add_argument(f"--{name}", action="store_true", help=helps[name])
    if command == "train":  # only then, for it takes seconds
        _add_method_options(training)
    training.add_argument("--config", action="config", help="YAML file of options, such as a run's config.yaml.")
    training.add_argument("--resume", action="store_true", help="Go on with the unfinished run in --out.")
    training.add_argument("--overwrite", action="store_true", help="Replace a run in --out.")
    commands.add_subcommand("train", training, help=first_line(TrainOptions))
    handlers: dict[str, Callable[[Namespace], None]] = {
        "train": train,
        "world": world,
        "compare": compare,
        "bench": bench,
    }
    for name, options, flags in (
        ("world", WorldOptions, ("pretraining",)),
        ("compare", Comparison, ("reuse", "skip_unreadable")),
        ("bench", Bench, ()),
    ):
        sub = DashedParser(description=first_line(options))
        sub.add_class_arguments(options, as_group=False, skip=set(flags))
        for flag in flags:
            sub.add_argument(f"--{flag}", action="store_true", help=dict(_documented(options))[flag])
        commands.add_subcommand(name, sub, help=first_line(options))

    positional: dict[Callable[..., None], tuple[str, ...]] = {
        evaluate: ("run",),
        predict: ("run", "images"),
        source: ("spec",),
        attention: ("spec", "images"),
        demo: (),
        methods: (),
    }
    for function, names in positional.items():
        commands.add_subcommand(function.__name__, _described(function, names), help=first_line(function))
        handlers[function.__name__] = _command(function)

    data = DashedParser(description="Verify a data set, or list the images that a fraction of it has.")
    commands.add_subcommand("data", data, help="Verify a data set, or list the images that a fraction of it has.")
    actions = data.add_subcommands(required=True, metavar="ACTION")
    inner = {function.__name__: _command(function) for function in (check, manifest)}
    for function in (check, manifest):
        actions.add_subcommand(function.__name__, _described(function, ("data",)), help=first_line(function))
    handlers["data"] = lambda given: inner[given.subcommand](given[given.subcommand])
    return parser, handlers


def _described(function: Callable[..., None], positional: tuple[str, ...]) -> DashedParser:
    """The parser of a function: its arguments, their types and their help."""
    sub = DashedParser(description=first_line(function))
    helps = dict(_documented(function))
    flags = {
        "as_json": "--json",
        "overwrite": "--overwrite",
        "download": "--download",
        "skip_unreadable": "--skip-unreadable",
    }
    sub.add_function_arguments(function, as_group=False, skip={*positional, *flags})
    for name in positional:
        many = {"nargs": "*" if function is attention else "+"} if name == "images" else {}
        sub.add_argument(name, help=helps[name], **many)
    for name, flag in flags.items():
        if name in helps:
            sub.add_argument(flag, dest=name, action="store_true", help=helps[name])
    return sub


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
    parser, handlers = _parser(next(iter(words), ""))
    given = parser.parse_args(words)
    command = given.subcommand
    try:
        handlers[command](given[command])
    except GtaError as error:
        print(f"gta {command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # nobody reads on, as in gta methods | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(f"\ngta {command}: stopped.", file=sys.stderr)
        if command == "train" and (Path(given[command].out) / "config.yaml").is_file():
            print(f"Go on with: gta train --out {given[command].out} --resume", file=sys.stderr)
        if command == "compare":
            print("Give the same command again to go on.", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
