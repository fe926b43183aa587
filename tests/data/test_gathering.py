"""The images that words name."""

import pytest

from gta.data.gathering import image_paths
from gta.errors import GtaError
from tests.conftest import write_photos


@pytest.fixture
def shots(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "shots", {"a": 1, "b": 1}, classes=2, masks=False)
    (tmp_path / "shots" / ".hidden").mkdir()
    (tmp_path / "shots" / ".hidden" / "no.jpg").write_bytes(b"")
    (tmp_path / "shots" / "notes.txt").write_text("no image")
    return [f"shots/{split}/class {c}/000.jpg" for split in "ab" for c in (0, 1)]


def test_folders_patterns_tables_and_lists(shots, tmp_path):
    assert image_paths(["shots"]) == shots
    assert image_paths(["shots/**/*.jpg"]) == shots
    assert image_paths(["shots/b/*"]) == shots[2:]
    assert image_paths([shots[1], "shots/a", shots[1]]) == [shots[1], shots[0]]  # each once
    (tmp_path / "shots" / "list.csv").write_text("path,label\na/class 1/000.jpg,x\nb/class 0/000.jpg,y\n")
    assert image_paths(["shots/list.csv"]) == shots[1:3]
    assert image_paths(["-", shots[0]], ["shots/b\n", "\n", f"{shots[1]}\r\n"]) == [
        shots[2],
        shots[3],
        shots[1],
        shots[0],
    ]
    assert image_paths(["nowhere.jpg", "no*where.jpg"]) == ["nowhere.jpg", "no*where.jpg"]  # told when read


def test_a_file_whose_name_looks_like_a_pattern(shots, tmp_path):
    (tmp_path / "shots" / "[1].jpg").write_bytes(b"")
    assert image_paths(["shots/[1].jpg"]) == ["shots/[1].jpg"]


def test_what_names_nothing_is_refused(shots, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(GtaError, match="empty holds no image"):
        image_paths(["empty"])
    (tmp_path / "t.csv").write_text("image\nx.jpg\n")
    with pytest.raises(GtaError, match="column called path"):
        image_paths(["t.csv"])
