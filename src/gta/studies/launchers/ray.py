"""Ray: the machines of a cluster that is there, or this one. A run whose worker is lost goes on with another."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gta.errors import GtaError
from gta.studies.execute import execute
from gta.studies.launchers import Launcher, needs, set_threads, thread_variables


def _execute(run: str, threads: int) -> None:
    set_threads(threads)
    execute(Path(run))


@dataclass
class Ray(Launcher):
    """Tasks of a Ray cluster, which keeps its processes from run to run.

    Args:
        address: Of a cluster, such as auto or ray://HOST:10001; by default one of this machine alone is started.
        cpus: Cores, and threads, of each run.
        gpus: GPUs of each run; 0.25 lets four share one.
        workers: Cores of the cluster that is started; 0: all of this machine.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0.0
    workers: int = 0

    def open(self, folder: Path, runs: int, memory: int) -> str:
        try:
            import ray
        except ImportError as error:
            raise needs("ray") from error
        started: dict[str, Any] = {"include_dashboard": False}
        if self.address is None:
            started["num_cpus"] = self.workers or None
            os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # Ray's own default from its next release on
        environment = {"env_vars": thread_variables(self.cpus)}
        try:
            ray.init(
                address=self.address, runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False,
                **(started if self.address is None else {}),
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise GtaError(f"--ray.address {self.address}: no Ray cluster answers there: {error}") from error
        self._ray = ray
        # Lost runs are given out again by the study, which counts them.
        self._task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(_execute)
        self._runs: dict[Any, Path] = {}
        found = ray.cluster_resources()
        where = "a local cluster" if self.address is None else self.address
        share = f", {self.gpus:g} of a GPU" if self.gpus else ""
        return (
            f"Ray, {where} of {found.get('CPU', 0):g} cores and {found.get('GPU', 0):g} GPUs; {self.cpus} "
            f"core{'s' if self.cpus > 1 else ''}{share} a run"
        )

    def submit(self, runs: Sequence[Path]) -> None:
        for run in runs:
            self._runs[self._task.remote(str(run), self.cpus)] = run

    def wait(self, seconds: float) -> list[Path]:
        done, _ = self._ray.wait(list(self._runs), num_returns=1, timeout=seconds)
        return [self._runs.pop(reference) for reference in done]

    def running(self) -> list[Path]:
        room = max(1, int(self._ray.cluster_resources().get("CPU", 1) // self.cpus))
        return list(self._runs.values())[:room]

    def close(self) -> None:
        for reference in self._runs:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()
