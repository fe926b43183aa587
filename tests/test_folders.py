"""Only what we wrote is replaced or deleted, and only by one process at a time."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from gta import GtaError
from gta.files import locked, read_json, write_json
from gta.folders import MARKER, Kind, beside, check_replaceable, mark, put_in_place, recover, remove

THING = Kind("thing", ("a.txt", "parts", "parts/*.png"))


def a_thing(folder, word="old"):
    (folder / "parts").mkdir(parents=True)
    mark(folder, THING)
    for name in ("a.txt", "a.txt.new", "parts/0.png"):
        (folder / name).write_text(word)
    return folder


def test_what_is_ours_is_replaceable_and_removed_whole(tmp_path):
    thing = a_thing(tmp_path / "thing")
    check_replaceable(thing, THING)
    remove(thing, THING)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["notes.md", "parts/a.txt", "parts/deep/0.png", "a.txt~", "link", "empty"])
def test_foreign_content_is_named_and_survives(tmp_path, name):
    thing = a_thing(tmp_path / "thing")
    path = thing / name
    path.parent.mkdir(exist_ok=True)
    if name == "link":
        (tmp_path / "mine").mkdir()
        path.symlink_to(tmp_path / "mine")
    elif name == "empty":
        path.mkdir()
    else:
        path.write_text("mine")
    with pytest.raises(GtaError, match=name):
        check_replaceable(thing, THING)
    remove(thing, THING)  # even then
    left = {p.relative_to(thing).as_posix() for p in thing.rglob("*")}
    assert name in left
    assert left <= {name, "parts", "parts/deep"}


def test_a_folder_is_ours_by_its_marker_alone(tmp_path):
    thing = a_thing(tmp_path / "thing")
    with pytest.raises(GtaError, match="no other that gta wrote"):
        check_replaceable(thing, Kind("other", THING.files))
    write_json(thing / MARKER, {"kind": "thing", "version": 99})
    with pytest.raises(GtaError, match="another version"):
        check_replaceable(thing, THING)
    (thing / MARKER).write_text("{")
    with pytest.raises(GtaError, match=r"gta\.json cannot be read"):
        check_replaceable(thing, THING)
    (thing / MARKER).unlink()
    with pytest.raises(GtaError, match="is not overwritten"):
        check_replaceable(thing, THING)


def test_where_one_works_and_lives_is_never_replaced(tmp_path, monkeypatch):
    thing = a_thing(tmp_path / "thing")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for here in (thing, thing / "parts"):
        monkeypatch.chdir(here)
        for name in (thing, os.path.relpath(thing)):
            with pytest.raises(GtaError, match="working or home directory"):
                check_replaceable(type(thing)(name), THING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(thing / "parts"))
    with pytest.raises(GtaError, match="working or home directory"):
        check_replaceable(thing, THING)
    with pytest.raises(GtaError, match="working or home directory"):
        check_replaceable(type(thing)("/"), THING)


@pytest.mark.parametrize("killed_at", ["before", "between", "after", "never"])
def test_a_kill_while_folders_are_swapped_leaves_one_of_them(tmp_path, monkeypatch, killed_at):
    thing = a_thing(tmp_path / "thing")
    a_thing(beside(thing, "new"), "new")
    if killed_at == "between":
        thing.rename(beside(thing, "old"))
    elif killed_at == "after":
        thing.rename(beside(thing, "old"))
        beside(thing, "new").rename(thing)
    elif killed_at == "never":
        put_in_place(thing, THING)
    recover(thing, THING)
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]
    assert (thing / "a.txt").read_text() == ("old" if killed_at == "before" else "new")


def test_one_process_holds_a_folder_and_a_killed_one_lets_go(tmp_path):
    path, lock = tmp_path / "a" / "run", tmp_path / "a" / ".run.lock"
    code = "import sys, time\nfrom pathlib import Path\nfrom gta.files import locked\n"
    code += "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    said = read_json(lock)
    assert (said["pid"], said["host"]) == (other.pid, socket.gethostname())
    with pytest.raises(GtaError, match=f"in use by process {other.pid} on .* since {said['since']}"), locked(path):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert lock.exists()  # stale, and known to be
    with locked(path):
        assert read_json(lock)["pid"] == os.getpid()
        with pytest.raises(GtaError, match="by this process"), locked(path):
            pass
    assert not lock.exists()
    path.parent.rmdir()
    with locked(path):
        pass
    assert not list(tmp_path.iterdir())  # nor the folder that the lock needed


def test_a_lock_of_another_machine_is_believed(tmp_path):
    path = tmp_path / "run"
    holder = {"pid": 7, "host": "elsewhere", "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    (tmp_path / ".run.lock").write_text(json.dumps(holder))
    with pytest.raises(GtaError, match=r"process 7 on elsewhere.*delete .*\.run\.lock"), locked(path):
        pass
    (tmp_path / ".run.lock").write_text("damaged")
    with locked(path):
        pass
