"""Slurm, by submitit: job arrays. A job that is cut off at its time limit is put into the queue again, and goes on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gta.studies.execute import execute, state
from gta.studies.launchers import Launcher, needs, set_threads

POLL = 1.0  # s between two looks at the disk
REQUEUES = 1000


class _Job:
    """Several runs, one after another, so that the packages are loaded once for all of them."""

    def __call__(self, runs: Sequence[str], threads: int) -> None:
        set_threads(threads)
        for run in runs:
            execute(Path(run))

    def checkpoint(self, runs: Sequence[str], threads: int) -> Any:
        """Called by submitit before the time limit: the same again; what is done is not done again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, runs, threads)


@dataclass
class Slurm(Launcher):
    """Jobs of a Slurm cluster.

    Args:
        partition: Of the cluster; by default its own.
        minutes: Time limit of a job.
        cpus: Cores, and threads, of a job.
        gpus: GPUs of a job, 0 or more.
        memory: Of a job, such as 16GB; by default the cluster's.
        runs_per_job: Runs that a job takes one after another.
        at_once: Jobs of an array that may run at the same time.
        cluster: slurm, or local to try it without one.
    """

    partition: str | None = None
    minutes: int = 240
    cpus: int = 4
    gpus: int = 0
    memory: str | None = None
    runs_per_job: int = 4
    at_once: int = 64
    cluster: Literal["slurm", "local"] = "slurm"

    def open(self, folder: Path, runs: int, memory: int) -> str:
        try:
            import submitit
        except ImportError as error:
            raise needs("slurm") from error
        requeue: dict[str, Any] = {"slurm_max_num_timeout": REQUEUES} if self.cluster == "slurm" else {}
        self._executor = submitit.AutoExecutor(folder / "slurm", cluster=self.cluster, **requeue)
        given = {"slurm_partition": self.partition, "slurm_mem": self.memory}
        self._executor.update_parameters(
            name="gta", timeout_min=self.minutes, cpus_per_task=self.cpus, gpus_per_node=self.gpus,
            slurm_array_parallelism=self.at_once, slurm_setup=[f"export OMP_NUM_THREADS={self.cpus}"],
            slurm_additional_parameters={"open_mode": "append"},  # what is requeued keeps its log
            **{key: value for key, value in given.items() if value is not None},
        )  # fmt: skip
        self._jobs: dict[Path, Any] = {}
        limits = f"{self.cpus} cores, {self.gpus} GPUs, {self.minutes} minutes"
        return f"Slurm: jobs of {limits}, {self.runs_per_job} runs each"

    def submit(self, runs: Sequence[Path]) -> None:
        parts = [runs[i : i + self.runs_per_job] for i in range(0, len(runs), self.runs_per_job)]
        if not parts:
            return
        jobs = self._executor.map_array(_Job(), [list(map(str, part)) for part in parts], [self.cpus] * len(parts))
        for part, job in zip(parts, jobs, strict=True):
            self._jobs |= dict.fromkeys(part, job)

    def wait(self, seconds: float) -> list[Path]:
        end = time.monotonic() + seconds
        while True:
            over = {job for job in set(self._jobs.values()) if job.done()}
            ended = [run for run, job in self._jobs.items() if state(run) != "missing" or job in over]
            if ended or time.monotonic() > end:
                break
            time.sleep(POLL)
        for run in ended:
            del self._jobs[run]
        return ended

    def running(self) -> list[Path]:
        return [run for run, job in self._jobs.items() if job.state == "RUNNING"]

    def close(self) -> None:
        for job in self._jobs.values():
            job.cancel()
