"""kill -9 at random moments: after the same command is given again, is every tensor what it would have been?

    python benchmarks/kills.py --each 25 --out /tmp/kills
    python benchmarks/kills.py --each 5 --only default,auto

Each command runs once undisturbed, then `--each` times in a fresh place: killed at a moment drawn from its duration (a
second time, with `--twice`), and given again until it ends. Its model files are then compared tensor by tensor, its
other files byte by byte where they hold no times; nothing may be left beside its folders, nor in $TMPDIR. Where
something differs the place is kept and the script fails. A row of COMMANDS adds a command.

Every run is a fork of this process, so that what takes seconds to import is imported once.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

BASE = "--source gta:butterflies --image-size 96 --batch-size 6 --precision 32 --epochs 4".split()
PLAN = """
data: {world: {path: WORLD, source: gta:butterflies, image_size: 96, precision: "32", epochs: 2, batch_size: 6}}
methods: {plain: {lr: [0.0001, 0.001]}, gta: {lr: [0.0001, 0.001]}}
trial_seeds: [100]
seeds: [0]
"""


def _train(*more: str) -> Callable[[Path, Path], list[str]]:
    return lambda world, place: ["train", "--data", str(world), "--out", str(place / "run"), *BASE, "--resume", *more]


def _reuse(world: Path, place: Path) -> list[str]:
    return _train("--method", "gta", "--reuse", "--views", "2", "--reuse-dir", str(place / "rows"))(world, place)


def _overwrite(world: Path, place: Path) -> list[str]:
    return [
        word for word in _train("--method", "plain", "--seed", "3", "--overwrite")(world, place) if word != "--resume"
    ]


def _study(world: Path, place: Path) -> list[str]:
    plan = place / "plan.yaml"
    plan.write_text(PLAN.replace("WORLD", str(world)))
    return ["study", "run", str(plan), "--out", str(place / "study"), "--local.processes", "1"]


# What is run, and what must have been run before it in the same place.
COMMANDS: dict[str, tuple[Callable[[Path, Path], list[str]], Callable[[Path, Path], list[str]] | None]] = {
    "train": (_train("--method", "plain"), None),
    "default": (_train(), None),
    "auto": (_train("--method", "gta", "--weight", "auto"), None),
    "reuse": (_reuse, None),
    "overwrite": (_overwrite, _train("--method", "plain")),
    "study": (_study, None),
    "report": (lambda world, place: ["report", str(place / "run")], _train("--method", "plain")),
    "world": (lambda world, place: ["world", "--out", str(place / "world"), "--classes", "6"], None),
}
SAME_BYTES = (".png", ".yaml")  # of files that hold no times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=15, help="kills of each command")
    parser.add_argument("--only", default=",".join(COMMANDS), help="names of COMMANDS, separated by commas")
    parser.add_argument("--twice", action="store_true", help="kill what goes on a second time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="kills", help="folder to work in")
    given = parser.parse_args()
    out = Path(given.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / "tmpdir"
    temporary.mkdir(exist_ok=True)
    os.environ |= {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(out / "cache")}
    for module in ("gta.run", "gta.studies.run", "gta.studies.launchers.local", "gta.report.write", "gta.cli"):
        import_module(module)

    world = out / "data"
    if not world.exists():
        _run(["world", "--out", str(world), "--classes", "4", "--train", "6", "--val", "2", "--test", "2"], out / "log")
    draw, bad, began = random.Random(given.seed), 0, time.monotonic()
    for name in given.only.split(","):
        bad += _campaign(name, given.each, given.twice, out / name, world, draw)
    kills = given.each * len(given.only.split(",")) * (1 + given.twice)
    print(f"{kills} kills in {(time.monotonic() - began) / 60:.1f} minutes, {bad} wrong", flush=True)
    return min(bad, 1)


def _campaign(name: str, each: int, twice: bool, root: Path, world: Path, draw: random.Random) -> int:
    command, before = COMMANDS[name]
    shutil.rmtree(root, ignore_errors=True)
    for whole in (_prepared(root / name, before, world) for name in ("first", "whole")):  # the first is slower
        start = time.monotonic()
        _run(command(world, whole), root / "whole.log")
    seconds, bad, unfinished = time.monotonic() - start, 0, 0
    usual = _temporary()  # torch has a folder for its compiler there, undisturbed or not
    for number in range(each):
        place = _prepared(root / str(number), before, world)
        for _ in range(1 + twice):
            unfinished += not _run(command(world, place), root / "killed.log", draw.uniform(0, seconds))
        _run(command(world, place), root / "killed.log")
        wrong = _differences(whole, place)
        left = sorted(_temporary() - usual)
        if wrong or left:
            bad += 1
            wrong += [f"left {what} in TMPDIR" for what in left]
            print(f"{name} {number}: {'; '.join(wrong)}", flush=True)
        else:
            shutil.rmtree(place)
    ran = f"{unfinished} of {each * (1 + twice)} kills came before its end ({seconds:.1f} s)"
    print(f"{name}: {each - bad} of {each} as if undisturbed; {ran}", flush=True)
    return bad


def _temporary() -> set[str]:
    return {path.name for path in Path(os.environ["TMPDIR"]).iterdir()}


def _prepared(place: Path, before: Callable[[Path, Path], list[str]] | None, world: Path) -> Path:
    place.mkdir(parents=True)
    if before is not None:
        done = place.parent / "before"
        if not done.exists():  # once, then copied
            done.mkdir()
            _run(before(world, done), place.parent / "before.log")
        shutil.copytree(done, place, dirs_exist_ok=True)
    return place


def _run(words: Sequence[str], log: Path, kill_after: float | None = None) -> bool:
    """Run a command in a process of its own; with `kill_after` kill it after so many seconds. Whether it ended itself.

    Raises:
        SystemExit: it failed.
    """
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setsid()
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(file, 1)
            os.dup2(file, 2)
            from gta.cli import main as gta

            status = gta(list(words))
        except SystemExit as stop:
            status = int(stop.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(status)
    deadline = None if kill_after is None else time.monotonic() + kill_after
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if deadline is not None and time.monotonic() >= deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.002)
    if status != 0:
        raise SystemExit(f"gta {' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}: see {log}")
    return True


def _differences(whole: Path, place: Path) -> list[str]:
    import torch
    from safetensors.torch import load_file

    one, two = ({p.relative_to(r).as_posix() for p in r.rglob("*")} for r in (whole, place))
    found = [f"without {name}" for name in sorted(one - two)] + [f"left {name}" for name in sorted(two - one)]
    for name in sorted(one & two):
        a, b = whole / name, place / name
        if name.endswith(".safetensors"):
            tensors, others = load_file(a), load_file(b)
            if tensors.keys() != others.keys() or any(not torch.equal(t, others[k]) for k, t in tensors.items()):
                found.append(f"other tensors in {name}")
            elif a.read_bytes() != b.read_bytes():
                found.append(f"other bytes in {name}")
        elif (
            name.endswith(SAME_BYTES)
            and a.is_file()
            and a.read_bytes().replace(os.fsencode(whole), b"") != b.read_bytes().replace(os.fsencode(place), b"")
        ):
            found.append(f"other bytes in {name}")
    return found


if __name__ == "__main__":
    sys.exit(main())
