"""Where errors stop: what lies outside the program is told in a sentence; its own faults keep their traceback."""

import errno
import os
import sys

_WAYS_OUT = {
    errno.ENOSPC: "Free some space there.",
    errno.EDQUOT: "Your quota there is used up: free some space.",
    errno.EFBIG: "No larger file is allowed there (ulimit -f, or the file system).",
    errno.EACCES: "Change its permissions, or give another place.",
    errno.EPERM: "Change its permissions, or give another place.",
    errno.EROFS: "Give a place that can be written.",
    errno.ENOENT: "It was moved or deleted: put it back.",
    errno.ENAMETOOLONG: "Give a shorter name.",
    errno.EMFILE: "Allow more open files (ulimit -n), or give fewer --workers.",
    errno.ENOMEM: "Free memory, or give a smaller --batch-size or --image-size.",
}
_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
_LOADERS = ("DataLoader worker",)


def outside_cause(error: BaseException) -> str | None:
    """What outside of the program made it fail, with a way out; None for a fault of its own."""
    if isinstance(error, OSError):
        where = "a file or stream" if error.filename is None else error.filename
        where = os.fsdecode(where) if isinstance(where, bytes) else where
        said = error.strerror or in_own_words(error)
        return f"{where}: {said}. {_WAYS_OUT.get(error.errno or 0, '')}".rstrip()
    text = str(error).strip()
    line = text.partition("\n")[0][:200] or type(error).__name__
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _MEMORY):
        return f"the memory does not suffice ({line}): give a smaller --batch-size or --image-size, or fewer --workers."
    if isinstance(error, RuntimeError) and any(words in text for words in _LOADERS):
        return f"a process that loads images was ended from outside ({line}): give fewer --workers."
    return None


def in_own_words(error: BaseException) -> str:
    """What an error says, without the traceback that torch puts before it if it comes from a loader's process."""
    text = str(error).strip()
    return text.rpartition(f"{type(error).__name__}: ")[2] if "Original Traceback" in text else text


def open_streams() -> None:
    """Let printing never fail for a letter that the terminal lacks, nor for a stream that is closed."""
    for number in range(3):  # or the next file that is opened would take the number, and get what is printed
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="replace"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
