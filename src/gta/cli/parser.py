"""`gta COMMAND`: a command line made of functions, by one rule for all.

A function's parameters before the `*` are positional, those after it are flags; one annotated with a dataclass stands
for its fields, as flags. A positional list takes one word or more, `*names` any number; a bool that is False by default
is a switch. The docstring's `Args` are the help. (jsonargparse's `auto_cli` would have switches take a value.)
"""

from __future__ import annotations

import gc
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from inspect import BoundArguments, Parameter, signature
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, Namespace

from gta import __version__
from gta.cli.boundary import in_own_words, open_streams, outside_cause
from gta.errors import GtaError
from gta.memory import keep_freed_memory
from gta.registry import Registry

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
_WRONG = re.compile(r'key "([\w.]+)":(.*?)(?:Got value|Given value type: .*?Given value): (.*)', re.DOTALL)
INTERRUPTED = 130  # the shell's exit status after Ctrl-C
OWN_FAULT = 70  # sysexits.h calls it EX_SOFTWARE


@dataclass(frozen=True)
class Command:
    """A function, and what its signature and docstring do not say.

    Attributes:
        run: the function; what it returns, if anything, is the exit status.
        add_options: gives the parser more options, seeing the words after the command; `run` takes them by `**others`.
        interrupted: what to say after Ctrl-C to one who gave these values; "" for nothing.
    """

    run: Callable[..., int | None]
    add_options: Callable[[OptionParser, Sequence[str]], None] = lambda parser, words: None
    interrupted: Callable[[Namespace], str] = lambda given: ""

    @property
    def options(self) -> dict[str, Any]:
        """The parameters that stand for the fields of a dataclass, and that class."""
        return {name: hint for name, hint in get_type_hints(self.run).items() if is_dataclass(hint)}

    @property
    def help(self) -> str:
        """The first line of the docstring of the options' class, or else of the function."""
        return first_line(next(iter(self.options.values()), self.run))

    def bind(self, given: Namespace) -> BoundArguments:
        """What to call `run` with.

        Raises:
            GtaError: options that their class refuses.
        """
        bound, rest = signature(self.run).bind_partial(), dict(vars(given))
        for name, kind in self.options.items():
            rest[name] = kind(**{field.name: rest.pop(field.name) for field in fields(kind)})
        for name, parameter in bound.signature.parameters.items():
            bound.arguments[name] = rest if parameter.kind is Parameter.VAR_KEYWORD else rest.pop(name)
        return bound


@dataclass(frozen=True)
class Group:
    """Commands under one word, as in `gta data check`."""

    commands: Registry[Command | Group]
    help: str


COMMANDS: Registry[Command | Group] = Registry(
    "command",
    package="gta.cli.commands",
    entry=lambda module: getattr(module, module.__name__.rpartition(".")[2]),
    first=("train", "evaluate", "predict", "attention", "compare"),
)
GTA = Group(COMMANDS, help="Fine-tune ViTs without losing what pre-training taught them to look at.")


class OptionParser(ArgumentParser):
    """Spells options with dashes, --image-size; --image_size, as in config.yaml, is understood as well."""

    def add_argument(self, *names: str, **kwargs: Any) -> Any:
        if kwargs.get("default") is False:
            if kwargs.get("type") is bool:
                kwargs = {"action": "store_true", "help": kwargs["help"]}
            else:  # a switch that takes a word as well
                kwargs |= {"nargs": "?", "const": True}
        dashed = tuple(n.replace("_", "-") for n in names if n.startswith("--") and "_" in n)
        return super().add_argument(*dashed, *names, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Without the list of all options, behind which the message would hide."""
        name = " ".join(word for word in self.prog.split() if word != "[options]")
        if wrong := _WRONG.search(message):
            classes = [_KINDS.get(kind, kind) for kind in re.findall(r"<class '(\w+)'>", wrong[2])]
            words = re.findall(r"'(\w+)'", "".join(re.findall(r"Literal\[(.*?)\]", wrong[2])))
            wanted = " or ".join(dict.fromkeys(kind for kind in (*classes, *words) if kind != "NoneType"))
            message = f"--{wrong[1].replace('_', '-')} {wrong[3]} cannot be used: write {wanted}."
        elif missing := re.fullmatch(r"the following arguments are required: (.*)", message):
            message = re.sub(r"[\w.]+[.]", "", missing[1]) + " must be given."
        self.exit(2, f"{name}: {message}\n{name} --help lists what it takes.\n")

    def show_choices(self, option: str, names: Iterable[str]) -> None:
        """Let the help list the names that an option takes, where its type does not."""
        self._option_string_actions[f"--{option}"].metavar = "{" + ",".join(names) + "}"

    def add_options(self, command: Command | Group, words: Sequence[str]) -> None:
        """A command's; or a group's subcommands, of which the one that the words begin with is given its options."""
        if isinstance(command, Group):
            subcommands = self.add_subcommands(required=True, metavar=command.commands.kind.upper())
            for name, inner in command.commands.items():
                parser = OptionParser(description=inner.help)
                subcommands.add_subcommand(name, parser, help=inner.help)
                if words[:1] == [name]:
                    parser.add_options(inner, words[1:])
            return
        for kind in command.options.values():
            self.add_class_arguments(kind, as_group=False)
        hints, number = get_type_hints(command.run), {}
        for name, parameter in signature(command.run).parameters.items():
            if parameter.kind is Parameter.VAR_POSITIONAL:
                number[name] = "*"
            elif parameter.kind is Parameter.POSITIONAL_OR_KEYWORD and get_origin(hints[name]) is list:
                number[name] = "+"
        own: set[str | int] = {*command.options, *number}
        self.add_function_arguments(command.run, as_group=False, as_positional=True, skip=own)
        for name, nargs in number.items():
            kind = next(iter(get_args(hints[name])), hints[name])
            self.add_argument(name, nargs=nargs, type=kind, help=documented(command.run)[name])
        command.add_options(self, words)


def documented(described: Any) -> dict[str, str]:
    """The meaning of each parameter, as the docstring of a function or class gives it."""
    return {p.arg_name: p.description or "" for p in parse_docstring(described.__doc__ or "").params}


def first_line(described: Any) -> str:
    """Of a docstring."""
    return str(described.__doc__).strip().splitlines()[0]


@contextmanager
def importing() -> Iterator[None]:
    """Inside, nobody looks for garbage: imports leave none, and the search would take a sixth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor is it searched for among what they leave
        gc.enable()


def parse(words: Sequence[str]) -> tuple[Command, Namespace]:
    """The command that the words name, and what they give it; exits with status 2 where they cannot be understood."""
    parser = OptionParser(prog="gta", description=GTA.help)
    parser.add_argument("--version", action="version", version=f"gta-vit {__version__}")
    parser.add_options(GTA, words)
    given = parser.parse_args(words)
    command: Command | Group = GTA
    while isinstance(command, Group):
        command, given = command.commands[given.subcommand], given[given.subcommand]
    return command, given


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status.

    0; 1 where a command did a part; 2 for bad input and whatever else fails outside of this package; 70 for a fault of
    its own; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name, how_to_go_on = f"gta {words[0]}" if words else "gta", lambda: ""
    open_streams()
    keep_freed_memory()
    try:
        with importing():
            command, given = parse(words)
        how_to_go_on = partial(command.interrupted, given)
        call = command.bind(given)
        status = command.run(*call.args, **call.kwargs) or 0
        sys.stdout.flush()  # so that a full disk is told here
        return status
    except KeyboardInterrupt:
        _say(f"\n{name}: stopped.", how_to_go_on())
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads on, as in gta methods | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except GtaError as error:
        _say(f"{name}: {in_own_words(error)}")
        return 2
    except Exception as error:
        if (cause := outside_cause(error)) is None:
            traceback.print_exc()
            _say(f"{name}: this is a fault of gta-vit {__version__} itself: please report it with the lines above.")
            return OWN_FAULT
        _say(f"{name}: {cause}", how_to_go_on())
        return 2
    return 0


def _say(*lines: str) -> None:
    for line in filter(None, lines):
        print(line, file=sys.stderr)
