"""Where runs are executed: one file a launcher. A launcher maps run folders to machines, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from gta.errors import GtaError
from gta.registry import Registry


@dataclass
class Launcher:
    """Executes run folders (`gta.studies.execute.execute`). Its fields are options, `--NAME.FIELD`."""

    def open(self, folder: Path, runs: int, memory: int) -> str:
        """Get ready.

        Args:
            folder: the study's, on a disk that every machine sees.
            runs: number of runs that will be submitted at most.
            memory: bytes that a process takes, about.

        Returns:
            A line that says what was chosen.

        Raises:
            GtaError: a package or an option that is missing or cannot be used.
        """
        raise NotImplementedError

    def submit(self, runs: Sequence[Path]) -> None:
        """Have these executed as soon as there is room."""
        raise NotImplementedError

    def wait(self, seconds: float) -> list[Path]:
        """The runs that ended since the last call, well or not; waits for one at most so many seconds."""
        raise NotImplementedError

    def running(self) -> list[Path]:
        """The runs that are being executed."""
        raise NotImplementedError

    def close(self) -> None:
        """End what is being executed, and let everything go."""


def _class_in(module: ModuleType) -> type[Launcher]:
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Launcher) and value.__module__ == module.__name__
    )


LAUNCHERS: Registry[type[Launcher]] = Registry("launcher", package=__name__, entry=_class_in, first=("local",))


def needs(package: str) -> GtaError:
    """What to say where an extra is not installed."""
    return GtaError(f'--launcher {package} needs a package: pip install "gta-vit[{package}]"')


def set_threads(count: int) -> int:
    """Of this process, from now on; 0 leaves them. How many there were, or 0 where they were left."""
    import torch

    if not count:
        return 0
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    return before


def thread_variables(count: int) -> dict[str, str]:
    """Environment of a process that shall compute with so many threads; read when its libraries are loaded."""
    return {name: str(count) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
