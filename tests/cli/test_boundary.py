"""What lies outside the program is told in a sentence; its own faults keep their traceback."""

import errno
import os
import subprocess
import sys

import pytest

from gta.cli import main
from gta.cli.parser import COMMANDS, Command

RUNNING = "import sys\nfrom gta.cli.parser import COMMANDS, Command, main\n"


@pytest.fixture
def failing():
    """A command that raises what it is given."""

    def add(error: BaseException) -> None:
        def fail() -> None:
            raise error

        COMMANDS.add("fail", Command(fail))

    yield add
    COMMANDS.remove("fail")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/a/last.ckpt"), "runs/a/last.ckpt: No space left"),
        (OSError(errno.EACCES, "Permission denied", b"caf\xe9"), "Change its permissions"),
        (OSError("no number"), "no number"),
        (FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0.\nOriginal Traceback (most recent "
                           "call last):\n  File x\nFileNotFoundError: [Errno 2] No such file: 'a.png'"), "'a.png'"),
        (MemoryError(), "the memory does not suffice"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "--batch"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "--workers"),
    ],
)  # fmt: skip
def test_the_world_outside_is_told_without_a_traceback(failing, capsys, error, words):
    failing(error)
    assert main(["fail"]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.startswith("gta fail: ")
    assert "Traceback" not in told


def test_our_own_faults_keep_their_traceback_and_say_whose_they_are(failing, capsys):
    failing(KeyError("oops"))
    assert main(["fail"]) == 70
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "a fault of gta-vit" in told


@pytest.mark.parametrize("streams", ["ascii", "closed", "full"])
def test_nothing_that_is_printed_can_break_a_command(streams, tmp_path):
    code = RUNNING + "COMMANDS.add('talk', Command(lambda: print('λ – caf\\udce9')))\nsys.exit(main(['talk']))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"} if streams == "ascii" else dict(os.environ)
    command = [sys.executable, "-c", code]
    if streams == "closed":
        done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, check=False)
    elif streams == "full":
        if not os.path.exists("/dev/full"):
            pytest.skip("no /dev/full here")
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    else:
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == (2 if streams == "full" else 0), done.stderr
    assert b"Traceback" not in done.stderr


def test_a_wrong_option_is_told_without_the_list_of_all(capsys):
    for words, message in (
        (["--lr", "nan"], "gta train: --lr nan cannot be used: write a number."),
        (["--epochs", "1.5"], "gta train: --epochs 1.5 cannot be used: write a whole number."),
        (["--lrr", "1"], "unrecognized arguments: --lrr"),
        (["--rows", "magic"], "gta train: --rows magic cannot be used: write cls or patches or all or pool."),
        (["--lora.rank", "many"], "gta train: --lora.rank many cannot be used: write a whole number."),
        (["--weight", "much"], "gta train: --weight much cannot be used: write a number or auto."),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["train", "--data", "x", "--out", "y", *words])
        assert stop.value.code == 2
        told = capsys.readouterr().err
        assert message in told
        assert len(told.splitlines()) <= 3
    assert main(["train", "--data", "x", "--out", "y", "--method", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("gta train: method 'nonsense' is not known")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[1, 2]", b"{", b"- " * 5000, b"[" * 100_000])
def test_a_config_that_is_none_is_named(tmp_path, capsys, content):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    assert main(["train", "--data", "x", "--out", str(tmp_path / "y"), "--config", str(path)]) == 2
    told = capsys.readouterr().err
    assert f"{path} cannot be read as YAML of options" in told
    assert len(told.splitlines()) == 1
