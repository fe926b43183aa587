from argparse import ArgumentParser as PlainParser
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import Namespace

from gta.cli.commands.methods import described_methods
from gta.cli.console import print_values
from gta.cli.parser import Command, OptionParser, documented, importing
from gta.errors import GtaError
from gta.files import reading
from gta.training.options import TrainOptions


def add_options(parser: OptionParser, words: Sequence[str]) -> None:
    """A flag --NAME.FIELD for each option of a method's own, --config, and a resumed run's options as the defaults."""
    from gta.distances import DISTANCES
    from gta.guidance import QUANTITIES
    from gta.schedules import SCHEDULES

    parser.show_choices("distance", DISTANCES)
    parser.show_choices("guide", QUANTITIES)
    parser.show_choices("weight_schedule", SCHEDULES)
    for name, (kind, own) in described_methods().items():
        helps, types = documented(kind), get_type_hints(kind)
        for field in own:
            meaning = f"{helps[field.name]} (method {name}; default {field.default})"
            # Without a default of its own: what was not given is left to the config, then to the method.
            parser.add_argument(f"--{name}.{field.name}", type=types[field.name] | None, default=None, help=meaning)
    parser.add_argument("--config", action="config", help="YAML file of options, such as a run's config.yaml.")
    early = PlainParser(add_help=False, allow_abbrev=False)
    early.add_argument("--out", nargs="?")
    early.add_argument("--resume", action="store_true")
    early.add_argument("--data", nargs="?")
    early.add_argument("--config", nargs="?", action="append")
    given, _ = early.parse_known_args(words)
    if given.resume and given.out:
        config = Path(given.out) / "config.yaml"
        if not (config.is_file() or given.data or given.config or {"-h", "--help"} & set(words)):
            raise GtaError(f"--resume: {given.out} holds no run (no {config}). To begin one there, give its --data.")
        parser.default_config_files = [escape(str(config))]
        given.config = [*(given.config or ()), str(config)]
    for path in map(Path, filter(None, given.config or ())):
        if path.is_file():  # what jsonargparse would say of it names neither file nor cause
            with reading(path, "YAML of options"):
                if not isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict):
                    raise ValueError("it must have lines of OPTION: VALUE")


def how_to_go_on(given: Namespace) -> str:
    """What to say after Ctrl-C."""
    begun = (Path(given.out) / "config.yaml").is_file() and not (Path(given.out) / "results.json").exists()
    return f"Go on with: gta train --out {given.out} --resume" if begun else ""


@partial(Command, add_options=add_options, interrupted=how_to_go_on)
def train(
    options: TrainOptions,
    *,
    resume: bool = False,
    overwrite: bool = False,
    keep_finite: bool = False,
    **others: Any,
) -> None:
    """Train, and print the results.

    Args:
        options: Of the training.
        resume: Go on with the unfinished run in --out.
        overwrite: Replace a run in --out, once the new one has its first checkpoint.
        keep_finite: Where the training diverges, end with the weights of its last finite epoch instead of an error.
        others: By method, those of its options --NAME.FIELD; they go over --settings and config.yaml.
    """
    with importing():
        from gta.run import fit_options
        from gta.training.trainer import is_first_process

    settings = dict(options.settings)
    for name in described_methods():
        given = {k: v for k, v in vars(others.get(name, Namespace())).items() if v is not None}
        if given:
            settings[name] = {**settings.get(name, {}), **given}
    chosen = replace(options, settings=settings)
    run = fit_options(chosen, resume=resume, overwrite=overwrite, keep_finite=keep_finite)
    if is_first_process():
        print_values(run.results, str(run.folder))
        print(f"Model {run.folder / 'model.safetensors'}, page {run.page}")
