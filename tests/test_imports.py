"""The house's order: who may know whom, no circle, and a heart that works without what speeds it up."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "gta"
BASE = {"errors", "registry", "files", "folders", "devices", "memory", "tables"}
MAY_IMPORT = {  # room -> rooms, besides BASE
    "errors": set(),
    "registry": set(),
    "files": set(),
    "folders": set(),
    "devices": set(),
    "memory": set(),
    "tables": set(),
    "vit": set(),
    "distances": set(),
    "schedules": set(),
    "auto_weight": set(),
    "guidance": {"vit", "distances", "schedules", "auto_weight"},
    "guided": {"vit", "distances", "schedules", "guidance"},
    "acceleration": {"vit"},
    "sources": set(),
    "methods": {"vit", "distances", "schedules", "auto_weight", "guidance", "sources"},
    "data": set(),
    "attention": {"vit", "data", "sources"},
    "training": {"vit", "distances", "schedules", "guidance", "acceleration", "sources", "methods", "data",
                 "attention"},
    "studies": {"training", "methods", "data", "sources", "worlds"},
    "worlds": set(),
    "report": set(),
    "demo": {"worlds", "training", "studies", "data", "attention", "sources", "report"},
    "benchmark": {"vit", "guided", "acceleration", "methods", "sources", "data", "training"},
    "integrations": {"guided"},
    "export": {"vit", "training", "data"},
    "run": {"training", "export", "report"},
    "__init__": {"guided", "sources", "data", "run"},
    "cli": {"vit", "distances", "schedules", "guidance", "sources", "methods", "data", "attention", "training",
            "studies", "worlds", "report", "demo", "benchmark", "export", "run"},
}  # fmt: skip


def modules() -> Iterator[tuple[str, Path]]:
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts), path


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imported(path: Path, *, top_level: bool = False) -> set[str]:
    """The modules of this package that a file imports; with `top_level`, those that its import brings in at once."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "gta":
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            files = {name for name, _ in modules()}
            found |= {name if name in files else node.module for name in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "gta"}
    return found - {"gta"}


def test_every_room_knows_only_those_further_in():
    for module, path in modules():
        allowed = MAY_IMPORT[room(module)] | BASE | {room(module)}
        outside = {name for name in imported(path) if room(name) not in allowed}
        assert not outside, f"{module} imports {', '.join(sorted(outside))}"
    assert not [r for r, of in MAY_IMPORT.items() if "cli" in of], "nobody imports cli"


def test_no_import_goes_in_a_circle():
    above = {module: imported(path, top_level=True) - {module} for module, path in modules()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for other in sorted(above.get(module, ())):
                visit(other, (*way, module))
            done.add(module)

    for module in above:
        visit(module, ())


def test_no_file_is_long():
    long = {path.name: n for _, path in modules() if (n := len(path.read_text(encoding="utf-8").splitlines())) > 300}
    assert not long


def test_the_heart_reads_in_one_sitting():
    files = [PACKAGE / name for name in ("guidance.py", "distances.py", "vit/attention_logits.py")]
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in files]
    assert lines[0] <= 200
    assert sum(lines) < 500


@pytest.mark.parametrize("tests", ["tests/test_guidance.py", "tests/methods/test_formulas.py"])
def test_the_heart_works_without_what_makes_it_quicker(tests, tmp_path):
    """Its own tests, in a process in which gta.acceleration cannot be imported."""
    hidden = tmp_path / "hidden.py"
    hidden.write_text("import sys\nsys.modules['gta.acceleration'] = None\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "hidden", "-p", "no:cacheprovider", tests]
    root = PACKAGE.parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{root / 'src'}"}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
