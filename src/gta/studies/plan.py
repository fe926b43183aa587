"""A plan: what a study runs, chooses, reports and tests. One YAML file.

    extends: NAME or FILE     another plan; what stands here goes over it, mappings key by key
    data: {NAME: DATA}        or {NAME: {path: DATA, OPTION: VALUE}} or {NAME: {world: {OPTION: VALUE}, OPTION: VALUE}}
    fractions: [1.0]          or {0.15: {OPTION: VALUE}}
    options: {OPTION: VALUE}  of gta train, for every run; those of data, of a fraction, of a method go over them
    methods: all              or all but NAME, or [NAME, ...], with their grids, or {NAME: {OPTION: VALUE or [...]}}
    grid: {OPTION: [...]}     tried of every method whose entry does not say otherwise; by default learning rates
    budget: 12                trials drawn of each; by default all, of which every method then has as many
    choose: [val_top1, val_loss]  what one of a method's trials is chosen by, the second among equals; []: report all
    trial_seeds: [100]        of the trials; their mean chooses
    seeds: [0, 1, 2]          of the runs that are reported
    report: [test_top1, ...]  measures of results.json
    compare: {baseline: NAME, measure: test_top1, methods: [NAME, ...]}   what is tested; by default all others

A world is written when it is needed; with `seed: run` every seed of a run has a world of its own. `null` for a data
set, share or method takes it out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from gta.errors import GtaError
from gta.registry import Registry
from gta.studies.grid import OPTIONS, Trial, check_trials, number, same_budget, shipped_grid, trials_of
from gta.worlds.options import WorldOptions

PLANS: Registry[Path] = Registry("plan", {p.stem: p for p in sorted(Path(__file__).parent.glob("plans/*.yaml"))})
OWN = {"data", "out", "seed", "fraction", "settings", "devices"}  # options that a plan sets in its own way
KEYS = (
    "data", "fractions", "options", "methods", "grid", "budget", "choose", "trial_seeds", "seeds", "report", "compare",
)  # fmt: skip
DEFAULTS: Mapping[str, Any] = {
    "fractions": [1.0], "options": {}, "methods": "all", "grid": None, "budget": None, "trial_seeds": [100],
    "seeds": [0, 1, 2], "choose": ["val_top1", "val_loss"], "compare": {},
    "report": ["val_top1", "test_top1", "object_mass", "jaccard", "drift"],
}  # fmt: skip
Content = dict[str, Any]


@dataclass(frozen=True)
class DataChoice:
    """A data set of a plan.

    Attributes:
        path: a data spec of gta train; "" where it is a world.
        world: options of a world to write; its seed may be "run".
        options: of gta train, for its runs.
    """

    path: str
    world: Mapping[str, Any] | None
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """See the head of this file.

    Attributes:
        content: what the file said, completed; what `plan.yaml` in the study's folder is made of.
        data, fractions: by name and by share, with their options.
        trials: of every method, by its name.
    """

    content: Content
    data: Mapping[str, DataChoice]
    fractions: Mapping[float, Mapping[str, Any]]
    options: Mapping[str, Any]
    trials: Mapping[str, Sequence[Trial]]
    choose: Sequence[str]
    trial_seeds: Sequence[int]
    seeds: Sequence[int]
    report: Sequence[str]
    measure: str
    baseline: str
    compared: Sequence[str]

    def base(self, data: str, fraction: float) -> dict[str, Any]:
        """The options of all runs on a share of a data set, but for `data`, `out` and `seed`."""
        values = {**self.options, **self.data[data].options, **self.fractions[fraction], "fraction": fraction}
        return {"val_every": 10**9, **values, "devices": 1}

    def is_chosen(self, name: str) -> bool:
        """Whether one of the method's trials is chosen on validation; else all are run and reported."""
        return bool(self.choose) and len(self.trials[name]) > 1


def outline(plan: Plan) -> list[dict[str, Any]]:
    """A row per method: what is tried of it, and how many runs that is on all data sets."""
    cells = len(plan.data) * len(plan.fractions)
    rows = []
    for name, trials in plan.trials.items():
        chosen = plan.is_chosen(name)
        rows.append(
            {"method": name, "tried": _varied(trials), "trials": cells * len(trials) * len(plan.trial_seeds) * chosen,
             "runs to report": cells * (1 if chosen else len(trials)) * len(plan.seeds)}
        )  # fmt: skip
    return rows


def _varied(trials: Sequence[Trial]) -> str:
    values = {key: list(dict.fromkeys(trial.values[key] for trial in trials)) for key in trials[0].values}
    fixed = {key: [value] for key, value in trials[0].fixed.items()}
    return ", ".join(f"{key} {' '.join(map(str, of))}" for key, of in (fixed | values).items())


def header(path: Path) -> str:
    """What a plan's file says of itself: the comment it begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:end])


def read_plan(name: str, changes: Sequence[str] = ()) -> Plan:
    """A plan by its name in PLANS or from its file, with changes such as `seeds=[0,1]` or `data.mine=photos`.

    Raises:
        GtaError: no such plan, or something in it that no study can use.
    """
    content = plan_content(name)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not all(key.split(".")):
            raise GtaError(f"{change} cannot be used: write KEY=VALUE, such as seeds=[0,1,2,3,4] or data.mine=photos.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise GtaError(f"{change} cannot be used: {error}") from error
        for part in reversed(key.split(".")):
            value = {part: value}
        content = _extended(content, value)
    return make_plan(content)


def plan_content(name: str, beside: Path | None = None, seen: tuple[Path, ...] = ()) -> Content:
    """What a plan's file says, with what it extends.

    Raises:
        GtaError: no such plan.
    """
    path = PLANS[name] if name in PLANS else Path(name) if beside is None else beside / name
    if not path.is_file():
        raise GtaError(f"there is no plan {name}: give a file, or one of {', '.join(PLANS)}.")
    if path.resolve() in seen:
        raise GtaError(f"the plan {path} extends itself: take one `extends` out.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GtaError(f"the plan {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise GtaError(f"{path} is not a plan: write data: {{NAME: PATH}} and methods: [NAME, ...].")
    if base := content.pop("extends", None):
        content = _extended(plan_content(str(base), path.parent, (*seen, path.resolve())), content)
    return content


def _extended(below: Content, over: Content) -> Content:
    """`merged`; where methods are only taken out, of the entries that a list, or "all", stands for."""
    given = over.get("methods")
    if isinstance(given, dict) and not any(v is not None for v in given.values()):
        below = {**below, "methods": _entries(below.get("methods", DEFAULTS["methods"]))}
    return merged(below, over)  # type: ignore[no-any-return]


def merged(below: Any, over: Any) -> Any:
    """Two mappings key by key, all the way down; of anything else the second."""
    if isinstance(below, dict) and isinstance(over, dict):
        return {**below, **{key: merged(below.get(key), value) for key, value in over.items()}}
    return over


def make_plan(content: Content, refused: frozenset[str] = frozenset()) -> Plan:
    """Check a plan's content; `refused`: options that a method's entry may not have.

    Raises:
        GtaError: something in it that no study can use.
    """
    if unknown := [str(key) for key in content if key not in KEYS]:
        raise GtaError(f"a plan has no {', '.join(unknown)}: it has {', '.join(KEYS)}, and extends.")
    if not isinstance(content.get("data"), dict):
        raise GtaError("a plan needs data: {NAME: PATH}, or {NAME: {world: {}}}; or give data.NAME=PATH.")
    content = {key: content.get(key, DEFAULTS.get(key)) for key in KEYS}
    _check_kinds(content)
    data = {name: _data(name, entry) for name, entry in content["data"].items() if entry is not None}
    if not data:
        raise GtaError("a plan needs a data set: give data.NAME=PATH.")
    fractions = content["fractions"]
    shares = fractions if isinstance(fractions, dict) else {share: {} for share in fractions}
    entries = {name: entry for name, entry in _entries(content["methods"]).items() if entry is not None}
    if not entries:
        raise GtaError("a plan needs a method: all are taken out of this one.")
    grid = content["grid"] if content["grid"] is not None else {"lr": shipped_grid()["lr"]}
    trials: Mapping[str, Sequence[Trial]]
    trials = {name: trials_of(name, entry, grid, OWN | refused) for name, entry in entries.items()}
    if content["choose"] or content["budget"] is not None:
        trials = same_budget(trials, content["budget"])
    compare = content["compare"]
    baseline = compare.get("baseline") or ("plain" if "plain" in trials else next(iter(trials)))
    for name in (baseline, *compare.get("methods", ())):
        if name not in trials:
            raise GtaError(f"compare names {name}, which is not among the methods: {', '.join(trials)}.")
    plan = Plan(
        content, data,
        {float(share): _options(f"the fraction {share}", own) for share, own in shares.items() if own is not None},
        _options("options", content["options"]), trials, content["choose"], content["trial_seeds"], content["seeds"],
        content["report"], compare.get("measure", "test_top1"), baseline,
        compare.get("methods") or [name for name in trials if name != baseline],
    )  # fmt: skip
    for name in data:
        for share in plan.fractions:
            check_trials([trial for of in trials.values() for trial in of], plan.base(name, share))
    return plan


def _check_kinds(content: Content) -> None:
    """Raise GtaError for values that are not of the form that the head of this file shows."""
    for key in ("options", "compare"):
        if not isinstance(content[key], dict):
            raise GtaError(f"a plan's {key} cannot be {content[key]!r}: write a mapping.")
    for key in ("choose", "report", "trial_seeds", "seeds"):
        value = content[key]
        right = isinstance(value, list) and len({*map(str, value)}) == len(value)
        if not right or not all(_is_seed(v) if "seeds" in key else isinstance(v, str) for v in value):
            raise GtaError(f"a plan's {key} cannot be {value!r}: write a list, such as {DEFAULTS[key]}, each once.")
        if not value and key != "choose":
            raise GtaError(f"a plan needs {key}, such as {DEFAULTS[key]}.")
    if wrong := [name for name in content["choose"] if not name.startswith("val_")]:
        raise GtaError(f"a plan cannot choose by {wrong[0]}: settings are chosen on validation, such as by val_top1.")
    if content["choose"] and (both := {*content["seeds"]} & {*content["trial_seeds"]}):
        raise GtaError(
            f"seeds and trial_seeds both have {min(both)}: a run that took part in choosing cannot be reported; "
            "give the trials seeds of their own, such as 100."
        )
    if unknown := [key for key in content["compare"] if key not in ("baseline", "measure", "methods")]:
        raise GtaError(f"a plan's compare has no {unknown[0]}: it has baseline, measure and methods.")
    fractions, grid = content["fractions"], content["grid"]
    if not isinstance(fractions, (list, dict)) or not fractions:
        raise GtaError(f"a plan's fractions cannot be {fractions!r}: write [1.0], or {{0.15: {{epochs: 60}}}}.")
    if grid is not None and not (isinstance(grid, dict) and all(isinstance(v, list) for v in grid.values())):
        raise GtaError(f"a plan's grid cannot be {grid!r}: write {{lr: [1e-4, 3e-5]}}.")


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _data(name: str, entry: Any) -> DataChoice:
    if isinstance(entry, str):
        return DataChoice(entry, None, {})
    if not isinstance(entry, dict) or ("path" in entry) == ("world" in entry):
        raise GtaError(f"the plan's data set {name} needs a path, or world: {{}}; it has {entry!r}.")
    options = _options(f"the data set {name}", {k: v for k, v in entry.items() if k not in ("path", "world")})
    if "path" in entry:
        return DataChoice(str(entry["path"]), None, options)
    world = dict(entry["world"] or {})
    known = {f.name for f in fields(WorldOptions)} - {"out"}
    if unknown := [key for key in world if key not in known]:
        raise GtaError(f"the world {name} has no {unknown[0]}: it has {', '.join(sorted(known))}.")
    try:
        WorldOptions("", **(world | ({"seed": 0} if world.get("seed") == "run" else {})))
    except (GtaError, TypeError) as error:
        raise GtaError(f"the world {name} cannot be made: {error}") from error
    return DataChoice("", world, options)


def _options(where: str, given: Any) -> dict[str, Any]:
    if not isinstance(given or {}, dict):
        raise GtaError(f"{where} cannot have {given!r}: write options of gta train, {{epochs: 15}}.")
    for key in given or {}:
        if key not in OPTIONS or key in OWN - {"settings"} or key == "method":
            why = "the plan says it elsewhere" if key in OPTIONS else "it is not an option of gta train"
            raise GtaError(f"{where} cannot set {key}: {why}.")
    values = {key: number(value) for key, value in (given or {}).items()}
    return values | ({"precision": str(values["precision"])} if "precision" in values else {})


def _entries(methods: Any) -> dict[str, Any]:
    """Of every method; those of the shipped grid for names alone."""
    shipped = shipped_grid()["methods"]
    if isinstance(methods, dict):
        if wrong := [name for name, entry in methods.items() if not isinstance(entry, (dict, type(None)))]:
            raise GtaError(f"the entry of {wrong[0]} is {methods[wrong[0]]!r}: write {{OPTION: [...]}}, or {{}}.")
        return methods
    if isinstance(methods, str) and methods.startswith("all"):
        left_out = [name.strip() for name in methods.removeprefix("all").removeprefix(" but").split(",") if name]
        methods = [name for name in (*shipped, *left_out) if (name in left_out) != (name in shipped)]
    names = methods.split(",") if isinstance(methods, str) else methods
    if not isinstance(names, list) or not names or len({*map(str, names)}) < len(names):
        raise GtaError(f"methods cannot be {methods!r}: write all, all but NAME, or a list that names each once.")
    if unknown := [str(name) for name in names if name not in shipped]:
        raise GtaError(
            f"the grid has no method {unknown[0]!r}: it has {', '.join(shipped)}. Write an entry for it, as in "
            "methods: {NAME: {method: gta, weight: [1, 10]}}."
        )
    return {name: shipped[name] for name in names}
