"""How far a study is: on the terminal, and in `progress.json` for whoever looks from elsewhere."""

import sys
import time
from typing import Any

from gta.files import write_json
from gta.studies.study import Run, Study

FILE = "progress.json"
EVERY = 1.0  # s between two of its states


class Progress:
    """Counts what ends. A terminal has a bar; elsewhere every run that ended is a line."""

    def __init__(self, study: Study, processes: str) -> None:
        self._study, self._processes = study, processes
        self._began = time.time()
        self._ended = 0  # in this session
        self._written = 0.0
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("")
            self._bar.start()

    def show(self, running: list[str], just: Run | None = None) -> None:
        """After a run has ended (`just`), or others were started."""
        study = self._study
        states = study.states()
        total = sum(study.total)
        failed, over = states.count("failed"), len(states) - states.count("missing")
        self._ended += just is not None
        left = None
        if self._ended:
            left = (time.time() - self._began) / self._ended * (total - over)
        if time.time() - self._written > EVERY or not running:
            self._write(running, total, over, failed, left)
        line = f"{len(running)} running, {failed} failed" + ("" if left is None else f", {readable(left)} left")
        if self._bar is not None:
            self._bar.update(self._task, completed=over, total=total, description=line)
        elif just is not None:
            print(f"{over} of {total}, {line}: {just}: {self.outcome(just)}", file=sys.stderr, flush=True)

    def _write(self, running: list[str], total: int, over: int, failed: int, left: float | None) -> None:
        self._written = time.time()
        found: dict[str, Any] = {
            "runs": total, "done": over - failed, "running": running, "failed": failed,
            "seconds": round(time.time() - self._began, 1), "seconds_left": None if left is None else round(left),
            "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "launcher": self._processes,
        }  # fmt: skip
        write_json(self._study.out / FILE, found)

    def outcome(self, run: Run) -> str:
        """What a run came to, in a few words."""
        state = self._study.state(run)
        if state != "complete":
            return state
        results = self._study.results(run)
        shown = {name: results[f"{name}_top1"] for name in ("val", "test")}
        return ", ".join(f"{name} {value:.1f}" for name, value in shown.items() if value is not None)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def readable(seconds: float) -> str:
    """3 min; 2 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
