"""Files appear whole or not at all."""

from __future__ import annotations

import pytest

from gta.files import atomic_write, write_text


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
