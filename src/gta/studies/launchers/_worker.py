"""A process that executes run folders, one after another: paths come in on stdin, and go out on stdout when they ended.

The packages are loaded once for all of them. It ends with its parent.
"""

import os
import sys
import threading
import time
from pathlib import Path


def end_with(parent: int) -> None:
    """Watch from a thread: a parent that is killed cannot say so."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main() -> None:
    threading.Thread(target=end_with, args=(int(sys.argv[1]),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogateescape", buffering=1)
    os.dup2(2, 1)  # what is printed goes into the log of its run
    from gta.memory import keep_freed_memory
    from gta.studies.execute import execute, log_file

    keep_freed_memory()
    for line in sys.stdin:
        folder = Path(line.rstrip("\n"))
        with log_file(folder).open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        execute(folder)
        sys.stdout.flush()
        sys.stderr.flush()
        print(folder, file=answers)


if __name__ == "__main__":
    main()
