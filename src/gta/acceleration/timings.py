"""What was measured on this machine, kept in the user's cache folder, so that equal runs decide alike."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from gta.devices import cpu_name
from gta.files import cache_folder, write_json


def remembered(
    file: str, what: str, measure: Callable[[], Any], fits: Callable[[Any], bool] = lambda known: True
) -> Any:
    """What was measured here before, or is now.

    Args:
        file: of the cache folder.
        what: of the machine as it is now: its CPU, threads and torch.
        measure: gives what JSON can hold.
        fits: whether what is known is still of use.
    """
    path = cache_folder(file)
    machine = f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    here = known.get(machine, {})
    if what not in here or not fits(here[what]):
        here = {**here, what: measure()}
        with suppress(OSError):  # a home that cannot be written
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {**known, machine: here})
    return here[what]
