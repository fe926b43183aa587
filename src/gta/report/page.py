"""A page: one HTML file with everything inside, which no network and no file beside it is asked for."""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from gta.files import atomic_write


def render(template: str, **values: Any) -> str:
    """Fill a template of this package. Whatever comes from disk is escaped; the page's policy lets only its own script
    run, and lets nothing be fetched."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gta.report", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "basename": lambda path: path.rpartition("/")[2],
        "power": lambda x: f"{x:.0e}".replace("e-0", "e-"),
    }
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    script, style = (_part(name) for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(script=script, style=style, script_sha256=digest, **values)


def write(path: Path, page: str) -> None:
    """Write a page; GtaError where it cannot be. Letters that are none (file names may be any bytes) become �."""
    with atomic_write(path, "--out") as new:
        new.write_text(page, encoding="utf-8", errors="replace")


def _part(name: str) -> str:
    return (files("gta.report") / "templates" / name).read_text(encoding="utf-8")
