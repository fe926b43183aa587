"""Pages: what they say, that nothing from disk becomes markup, and what is refused."""

import json
import re
from html.parser import HTMLParser

import pytest

from gta.cli import main
from gta.errors import GtaError
from gta.report.run import RunFiles
from gta.report.runs import content
from gta.report.write import write_report
from tests.report.folders import AWKWARD, write_run


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.data, self.text, self._raw = [], [], {}, "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._raw = dict(attrs).get("id") if tag == "script" else None

    def handle_endtag(self, tag):
        self._raw = None

    def handle_data(self, data):
        if self._raw:
            self.data[self._raw] = json.loads(data)
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    folder = write_run(root / '<b onclick="x">run')
    out = write_report([folder], root / "page.html")
    text = out.read_text(encoding="utf-8")
    return folder, text, Tags(text)


def test_names_from_disk_inject_nothing(page):
    _, text, tags = page
    assert tags.tags.count("script") == 3  # the data, the explorer's, and the page's own
    assert "textarea" not in tags.tags
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "49" not in re.findall(r"<bdi>(.*?)</bdi>", text)  # {{ 7 * 7 }} stays what it is
    assert tags.data["data"]["classes"] == AWKWARD


def test_the_page_asks_nothing_of_a_network_and_runs_its_own_script_only(page):
    _, _, tags = page
    addresses = [value for name, value in tags.attributes if name in ("src", "href", "action")]
    assert all(value.startswith(("#", "data:")) for value in addresses)
    policy = next(v for n, v in tags.attributes if n == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    script = policy.split("script-src")[1].split(";")[0]
    assert "sha256-" in script
    assert "unsafe" not in script


def test_the_page_has_every_image_with_its_guess_and_the_mistakes_first(page):
    folder, _, tags = page
    shown = RunFiles(folder).shown
    items = tags.data["data"]["items"]
    assert {item["path"] for item in items} == set(shown.paths)
    wrong = [item["guesses"][0][0][0] != item["label"] for item in items]
    assert sum(wrong) == tags.data["data"]["mistakes"] == (~shown.right).sum() > 0
    assert all(wrong[: sum(wrong)])
    sure = [item["guesses"][0][0][1] for item in items][: sum(wrong)]
    assert sure == sorted(sure, reverse=True)
    assert all(len(item["near"]) == 3 for item in items[: sum(wrong)])
    place = shown.paths.index(items[0]["path"])
    assert items[0]["guesses"][0][0] == [int(shown.guesses[place]), pytest.approx(shown.confidence[place], abs=1e-4)]
    assert len(tags.data["data"]["pictures"]) >= len(items)
    explored = tags.data["explored"]
    assert (explored["layers"], explored["heads"], explored["epochs"]["numbers"]) == (3, 2, [[1, 2]])
    assert [model["name"] for model in explored["models"]] == ["source", folder.name]


def test_several_runs_are_compared_on_the_same_images(tmp_path):
    better, worse = (
        write_run(tmp_path / "a" / "run", accuracy=0.9),
        write_run(tmp_path / "b" / "run", seed=1, accuracy=0.2),
    )
    found = content([RunFiles(better), RunFiles(worse)])
    assert found["comparable"]
    assert found["lines"][0].p is None
    assert found["lines"][1].difference < -40
    assert found["lines"][1].p < 1e-4
    assert found["lines"][1].settings == {"seed": 1}  # nothing else differs
    text = write_report([better, worse], tmp_path / "page.html").read_text()
    assert "a/run" in text
    assert "***" in text
    other = write_run(tmp_path / "other", {"train": 5, "val": 3, "test": 5})
    apart = content([RunFiles(better), RunFiles(other)])
    assert not apart["comparable"]
    assert (apart["lines"][1].p, "items" in apart["data"]) == (None, False)
    assert "not measured on the" in write_report([better, other], tmp_path / "page.html").read_text()


@pytest.mark.parametrize("left_out", ["images.zip", "features.npz", "attention.npz", "predictions.csv", "metrics.csv"])
def test_runs_that_lack_a_file_have_a_page_too(tmp_path, left_out):
    folder = write_run(tmp_path / "run")
    (folder / left_out).unlink()
    text = write_report([folder], tmp_path / "page.html").read_text()
    assert ("What came out" in text) == (left_out != "predictions.csv")
    assert ("left no" in text) == (left_out == "predictions.csv")


def test_the_page_of_a_run_without_test_is_about_val(tmp_path):
    text = write_report([write_run(tmp_path / "run", {"train": 5, "val": 4})], tmp_path / "page.html").read_text()
    assert "There is no test split" in text


def test_what_cannot_be_shown_is_refused(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text("data: x\n")
    for words, says in (
        ([str(tmp_path / "nothing")], "is no folder"),
        ([str(unfinished)], "--resume"),
        ([str(run), str(run)], "twice"),
        ([str(run), "--out", str(tmp_path)], "cannot be written"),
    ):
        assert main(["report", *words]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("features.npz", b"PK\x03\x04 broken"),
        ("attention.npz", b""),
        ("images.zip", b"PK\x03\x04 broken"),
        ("predictions.csv", b"split,path\ntest,x\n"),
        ("config.yaml", b"{"),
        ("config.yaml", b"a string"),
        ("results.json", b"[1]"),
        ("results.json", b"\xff\xfe"),
    ],
)
def test_damaged_files_are_told_in_one_message(tmp_path, name, content):
    run = write_run(tmp_path / "run")
    (run / name).write_bytes(content)
    with pytest.raises(GtaError, match=r"run cannot be shown: a file in it is damaged"):
        write_report([run])
    assert not (run / "report.html").exists()


def test_the_command_writes_into_the_folder_and_prints_where(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"Page {run / 'report.html'}\n"
    before = (run / "report.html").read_bytes()
    assert main(["report", str(run), "--out", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").read_bytes() == before
