"""Files appear whole or not at all."""

from __future__ import annotations

import pytest

from gta.files import atomic_folder, atomic_write, write_text


def test_whoever_reads_sees_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with path.open() as reader:
        write_text(path, "new and longer")
        assert reader.read() == "old"  # another file took its place; this one was not written into
    assert path.read_text() == "new and longer"


def test_what_fails_half_way_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")

    def half() -> None:
        with atomic_write(path) as new:
            new.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "old"


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    path = tmp_path / "run"

    def fill(word: str) -> None:
        with atomic_folder(path) as new:
            (new / "config").write_text(word)
            assert not path.exists() or (path / "config").read_text() != word
            if word == "half":
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill("half")
    assert not list(tmp_path.iterdir())
    fill("first")
    with pytest.raises(OSError, match="not empty"):
        fill("second")  # what is there is not to be replaced
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert (path / "config").read_text() == "first"
    (tmp_path / ".next.new" / "half").mkdir(parents=True)  # of a process that was killed
    with atomic_folder(tmp_path / "next") as new:
        assert not list(new.iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["next", "run"]
