from dataclasses import Field, fields
from typing import Any

from gta.cli.console import print_json, print_table
from gta.cli.parser import Command, first_line


@Command
def methods(*, json: bool = False) -> None:
    """List the methods that gta train takes, with their papers and options.

    Args:
        json: Print JSON instead of a table.
    """
    what = "description" if json else "what it does"
    rows = [
        {
            "method": name,
            what: first_line(kind),
            "paper": kind.paper,
            "options": {f"--{name}.{field.name}": field.default for field in own},
        }
        for name, (kind, own) in described_methods().items()
    ]
    if json:
        print_json(rows)
    else:
        print_table(rows)
        print("a+b composes: gta train --method gta+transmix")


def described_methods() -> dict[str, tuple[Any, tuple[Field[Any], ...]]]:
    """By name, a method's class and those of its fields that are flags --NAME.FIELD; imports them, which takes long."""
    from gta.methods import METHODS

    return {name: (kind, () if kind.top_level_options else fields(kind)) for name, kind in METHODS.items()}
