"""What the process does with memory that is free again."""

import ctypes
from contextlib import suppress

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
KEPT = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB that is free again, and large tensors in it; elsewhere nothing.

    By default it gives the memory of every large tensor back to the system, which clears it page by page for the next
    one: docs/cost.md has what that takes. For commands, whose process is theirs; a library has no business here.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for threshold in (TRIM_THRESHOLD, MMAP_THRESHOLD):
            mallopt(threshold, KEPT)
