"""Real runs of a tiny world on every launcher: the same tables to the byte, whatever is killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from gta import GtaError
from gta.cli import main
from gta.studies.launchers import LAUNCHERS
from gta.studies.launchers.local import Local
from gta.studies.plan import read_plan
from gta.studies.run import run_study
from gta.training.module import FineTuning

PLAN = {
    "data": {"w": {"world": {"classes": 2, "train": 4, "val": 2, "test": 2, "size": 32, "seed": "run"}}},
    "options": {"source": "gta:butterflies", "image_size": 16, "epochs": 3, "batch_size": 4, "precision": "32"},
    "methods": {"plain": {"lr": [1e-3, 3e-3]}, "gta": {"weight": "auto", "lr": [1e-3]}},
    "choose": [],
    "seeds": [0, 1],
}
TABLES = ("table.md", "table.csv", "table.tex")


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "tiny.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    return path


def tables(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in TABLES]


@pytest.fixture(scope="module")
def undisturbed(plan_file, tmp_path_factory) -> list[bytes]:
    """The tables of the study run in this process, on one thread as in all other ways."""
    import torch

    before, out = torch.get_num_threads(), tmp_path_factory.mktemp("here") / "out"
    run_study(read_plan(str(plan_file)), out, Local(1, threads=1))
    assert torch.get_num_threads() == before
    return tables(out)


def begun(out: Path, seconds: float = 120) -> Path:
    """Waits until a run has finished an epoch and not yet ended; its folder."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for checkpoint in out.glob("runs/*/last.ckpt"):
            if not (checkpoint.parent / "results.json").exists():
                return checkpoint.parent
        time.sleep(0.002)
    raise AssertionError("no run was begun")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the processes to kill")
def test_a_study_whose_child_and_then_itself_are_killed_goes_on_to_the_same_tables(plan_file, undisturbed, tmp_path):
    out = tmp_path / "out"
    words = [sys.executable, "-m", "gta.cli", "study", "run", str(plan_file), "--out", str(out)]
    study = subprocess.Popen(
        [*words, "--local.processes", "2", "--local.threads", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    begun(out)
    workers = children(study.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    while not list(out.glob("runs/*/results.json")):  # it goes on
        time.sleep(0.01)
        assert study.poll() is None
    left = children(study.pid)  # the killed one was replaced
    os.kill(study.pid, signal.SIGKILL)
    _, told = study.communicate()
    assert "2 processes of 1 thread each" in told
    done = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/results.json")}
    assert len(done) < 6
    assert not (out / "table.md").exists()
    assert json.loads((out / "progress.json").read_text())["runs"] == 6
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in left) and time.monotonic() < end:
        time.sleep(0.05)  # orphans end themselves
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)

    run_study(read_plan(str(plan_file)), out, Local(1, threads=1))
    assert tables(out) == undisturbed
    assert all(path.stat().st_mtime_ns == before for path, before in done.items())


def test_ctrl_c_leaves_a_study_that_goes_on(plan_file, undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    step = FineTuning.training_step

    def stopped(self, *given):
        if self.trainer.current_epoch == 1:
            monkeypatch.undo()
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *given)

    monkeypatch.setattr(FineTuning, "training_step", stopped)  # the one process is this one
    words = ["study", "run", str(plan_file), "--out", str(out), "--local.processes", "1", "--local.threads", "1"]
    assert main(words) == 130
    assert not list(out.glob("runs/*.failed"))
    assert not (out / "table.md").exists()
    assert list(out.glob("runs/*/last.ckpt"))
    moved = out.rename(tmp_path / "moved")  # with the worlds in it
    words[words.index(str(out))] = str(moved)
    assert main(words) == 0
    assert tables(moved) == undisturbed


@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
def test_ray_with_a_worker_killed_in_the_middle_of_a_run(plan_file, undisturbed, tmp_path):
    import psutil

    out, killed = tmp_path / "out", []

    def kill() -> None:
        folder = begun(out)
        while not killed:
            for process in psutil.process_iter(["cmdline"]):
                if "ray::_execute" in " ".join(process.info["cmdline"] or []) and holds(process, folder):
                    process.kill()
                    killed.append(process.pid)
                    return
            time.sleep(0.01)

    def holds(process: psutil.Process, folder: Path) -> bool:
        with_lock = [file.path for file in process.open_files()]
        return f"{folder}.lock" in with_lock

    thread = threading.Thread(target=kill)
    thread.start()
    run_study(read_plan(str(plan_file)), out, LAUNCHERS["ray"](workers=2))
    thread.join(1)
    assert killed
    assert tables(out) == undisturbed


@pytest.mark.skipif(find_spec("submitit") is None, reason="needs submitit")
def test_submitit_with_its_local_executor(plan_file, undisturbed, tmp_path):
    out = tmp_path / "out"
    options = ["--launcher", "slurm", "--slurm.cluster", "local", "--slurm.cpus", "1", "--slurm.runs-per-job", "6"]
    assert main(["study", "run", str(plan_file), "--out", str(out), *options]) == 0
    assert (out / "report.html").is_file()
    assert tables(out) == undisturbed


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_without_its_package_a_launcher_says_which_to_install(name, plan_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, {"ray": "ray", "slurm": "submitit"}[name], None)
    with pytest.raises(GtaError, match=rf'pip install "gta-vit\[{name}\]"'):
        run_study(read_plan(str(plan_file)), tmp_path / "out", LAUNCHERS[name]())


def test_as_many_processes_as_fit(monkeypatch):
    from gta.studies.launchers import local

    monkeypatch.setattr(local, "cores", lambda: 16)
    monkeypatch.setattr(local, "free_memory", lambda: 40)
    monkeypatch.setattr(local, "_gpus", lambda: [])
    for given, runs, memory, told in (
        ({}, 99, 1, "16 processes of 1 thread each"),
        ({}, 99, 4, "10 processes of 1 thread each"),  # 40 bytes
        ({}, 3, 1, "3 processes of 5 threads each"),
        ({"threads": 4}, 99, 1, "4 processes of 4 threads each"),
        ({"processes": 2}, 99, 1, "2 processes of 8 threads each"),
        ({"processes": 1}, 99, 1, "one run at a time"),
    ):
        launcher = Local(**given)
        assert launcher.open(Path(), runs, memory).startswith(told)
        launcher.close()
    monkeypatch.setattr(local, "_gpus", lambda: ["3", "5"])
    launcher = Local(per_gpu=6)
    assert launcher.open(Path(), 99, 1) == "12 processes of 1 thread each, on 2 GPUs"
    hired = [launcher._hire() for _ in range(3)]
    assert [worker.environment["CUDA_VISIBLE_DEVICES"] for worker in hired] == ["3", "5", "3"]
    assert {worker.environment["OMP_NUM_THREADS"] for worker in hired} == {"1"}
    launcher.close()
    for wrong in ({"per_gpu": 0}, {"processes": -1}):
        with pytest.raises(GtaError, match="cannot be used"):
            Local(**wrong)


def test_plans_are_listed_shown_and_estimated_without_leaving_anything(plan_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "plans"]) == 0
    assert "world-methods" in capsys.readouterr().out
    assert main(["study", "plan", str(plan_file), "seeds=[0,1,2,3]"]) == 0
    told = capsys.readouterr().out
    assert "0 trials, 12 runs to report: " in told
    assert "timed with gta, on this machine" in told
    assert "4 seeds: a paired difference of 2.1 of its standard deviations" in told
    assert not list(tmp_path.iterdir())
    assert main(["study", "plan", "magic"]) == 2
    assert main(["study", "run", "compare", "data.mine=nowhere", "--out", "out"]) == 2
    assert main(["study", "run", str(plan_file), "--out", "out", "--launcher", "magic"]) == 2
    assert not list(tmp_path.iterdir())


def test_a_comparison_from_photographs_to_tables(photos, source_file, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text(
        "lr: [1e-3, 2e-3]\nmethods:\n  plain: {}\n  mine: {method: gta+bss, bss.k: 2}\n"
    )
    words = ["compare", "--data", str(photos), "--source", str(source_file), "--out", str(tmp_path / "out"),
             "--methods", "plain,mine", "--seeds", "1", "--image-size", "40", "--epochs", "1", "--batch-size", "4",
             "--grid", str(tmp_path / "grid.yaml"), "--processes", "1"]  # fmt: skip
    for wrong in ("--data", "--source"):
        assert main([*words, wrong, str(tmp_path / "nowhere.pth")]) == 2
        assert "nowhere" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "mine" in printed
    assert "The source: object mass" in printed
    import csv

    runs = list(csv.DictReader((tmp_path / "out" / "runs.csv").open()))
    assert [(r["name"], r["method"], r["seed"], r["bss.k"]) for r in runs] == [
        ("plain", "plain", "0", ""), ("mine", "gta+bss", "0", "2"),
    ]  # fmt: skip
    every = [json.loads(path.read_text()) for path in (tmp_path / "out" / "runs").glob("*/results.json")]
    tried = [results for results in every if results["seed"] == 100]
    assert len(tried) == 4
    for results in tried:
        assert results["val_top1"] is not None
        assert {results[k] for k in ("test_top1", "test_digest", "object_mass", "drift")} == {None}
