"""Processes of this machine, which take one run after another."""

import os
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

from gta.devices import cores, free_memory
from gta.errors import GtaError
from gta.studies.execute import execute, log_file
from gta.studies.launchers import Launcher, set_threads, thread_variables

WORKER = "gta.studies.launchers._worker"


class _Worker:
    """A process, and the run it has."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = os.pathsep.join(filter(None, sys.path))  # the package as this process found it
        self.process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(os.getpid())], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, **environment}, start_new_session=True,
        )  # fmt: skip  # a session of its own: Ctrl-C is for the parent, which then ends it
        self.environment = environment
        self.run: Path | None = None

    def give(self, run: Path) -> None:
        assert self.process.stdin is not None
        self.run = run
        with suppress(BrokenPipeError):  # it has died: `ended` sees that
            self.process.stdin.write(os.fsencode(f"{run}\n"))
            self.process.stdin.flush()

    def ended(self) -> bool:
        """Whether it has ended, once its pipe has something to read: an answer, or nothing more."""
        assert self.process.stdout is not None
        return not self.process.stdout.readline()

    def close(self) -> None:
        self.process.kill()  # every file is written completely or not at all
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


@dataclass
class Local(Launcher):
    """Processes of this machine.

    Args:
        processes: Runs at a time; 0: as many as fit its cores and memory, or its GPUs. 1 runs in this process.
        threads: Threads of each; 0: an equal share of the cores.
        per_gpu: Processes that share one GPU.
    """

    processes: int = 0
    threads: int = 0
    per_gpu: int = 1

    def __post_init__(self) -> None:
        for name, least in (("processes", 0), ("threads", 0), ("per_gpu", 1)):
            if getattr(self, name) < least:
                flag = f"--local.{name}".replace("_", "-")
                raise GtaError(f"{flag} {getattr(self, name)} cannot be used: write {least} or above.")

    def open(self, folder: Path, runs: int, memory: int) -> str:
        gpus = _gpus()
        fit = max(1, min(cores() // max(1, self.threads), free_memory() // memory))
        count = self.processes or min(fit, len(gpus) * self.per_gpu if gpus else fit)
        self._count = max(1, min(count, runs))
        self._threads = self.threads or max(1, cores() // self._count)
        self._gpus = gpus
        self._waiting: deque[Path] = deque()
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        where = f", on {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}" if gpus else ""
        self._before = 0
        if self._count == 1:
            self._before = set_threads(self.threads)
            return f"one run at a time, in this process{where}"
        return f"{self._count} processes of {self._threads} thread{'s' if self._threads > 1 else ''} each{where}"

    def submit(self, runs: Sequence[Path]) -> None:
        self._waiting.extend(runs)
        if self._count > 1:
            self._hand_out()

    def wait(self, seconds: float) -> list[Path]:
        if self._count == 1:
            run = self._waiting.popleft()
            with log_file(run).open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
                execute(run)
            return [run]
        ended = []
        for key, _ in self._selector.select(seconds):
            worker: _Worker = key.data
            dead = worker.ended()
            if worker.run is not None:
                ended.append(worker.run)
                worker.run = None
            if dead:
                self._dismiss(worker)
        self._hand_out()
        return ended

    def running(self) -> list[Path]:
        if self._count == 1:
            return list(self._waiting)[:1]
        return [worker.run for worker in self._workers if worker.run is not None]

    def close(self) -> None:
        for worker in list(self._workers):
            self._dismiss(worker)
        self._selector.close()
        set_threads(self._before)  # whoever called goes on with as many as before

    def _hand_out(self) -> None:
        """Give what waits to processes that have nothing, new ones where there is room."""
        while self._waiting:
            worker = next((w for w in self._workers if w.run is None), None)
            if worker is None:
                if len(self._workers) == self._count:
                    return
                worker = self._hire()
            worker.give(self._waiting.popleft())

    def _hire(self) -> _Worker:
        environment = thread_variables(self._threads)
        if self._gpus:
            taken = [worker.environment["CUDA_VISIBLE_DEVICES"] for worker in self._workers]
            environment["CUDA_VISIBLE_DEVICES"] = min(self._gpus, key=taken.count)
        worker = _Worker(environment)
        self._workers.append(worker)
        assert worker.process.stdout is not None
        self._selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        return worker

    def _dismiss(self, worker: _Worker) -> None:
        self._selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        self._workers.remove(worker)
        worker.close()


def _gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(i) for i in range(count)]
