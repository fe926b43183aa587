"""The page of a study: its numbers from the study's tables, marks, charts, links to runs."""

import pytest
import yaml

from gta.errors import GtaError
from gta.report.charts import chart, ticks
from gta.report.study import content
from gta.report.write import write_report
from gta.studies.statistics import bootstrap, mean_and_spread
from gta.tables import write_csv
from tests.report.folders import AWKWARD
from tests.report.test_pages import Tags

PLAN = {
    "seeds": [0, 1, 2], "methods": {"plain": {}, "gta": {}}, "report": ["test_top1", "drift"],
    "compare": {"measure": "test_top1"},  # the tables say what the baseline is
}  # fmt: skip


def write_study(folder, names=("plain", "gta"), data=("world",), fractions=(0.5, 1.0), weights=(1, 10, 100)):
    """Plain has 50, 52, 54 of its seeds on every share, the others 10, 20, … more; the guided ones by λ."""
    folder.mkdir(parents=True)
    rows, runs = [], []
    for place in [{"data": d, "fraction": f} for d in data for f in fractions]:
        for i, name in enumerate(names):
            values = [50 + 10 * i + 2 * seed for seed in range(3)]
            mean, spread = mean_and_spread(values)
            low, high = bootstrap(values)
            row = {**place, "method": name, "settings": "lr0.001", "runs": 3, "diverged": 0, "failed": 0, "drift": 0.5}
            row |= {"test_top1": mean, "test_top1_sd": spread, "test_top1_low": low, "test_top1_high": high}
            if i:
                row |= {"baseline": "plain", "pairs": 3, "difference": 10.0 * i, "difference_low": 8.0,
                        "difference_high": 12.0, "effect": 3.0, "p": 0.001, "p_holm": 0.004}  # fmt: skip
            rows.append(row)
            for seed, value in enumerate(values):
                of_method = {"method": "gta", "weight": weights[seed % len(weights)]} if i else {"method": "plain"}
                runs.append({**place, "name": name, "settings": "lr0.001", "seed": seed, "state": "complete",
                             "folder": f"digest{len(runs)}", "test_top1": value, "drift": 0.1 * (seed + 1),
                             "train_seconds": 10 + i, **of_method})  # fmt: skip
    write_csv(folder / "table.csv", rows)
    write_csv(folder / "runs.csv", runs)
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    return folder


def test_the_page_has_the_tables_numbers_with_marks_and_opens_the_runs(tmp_path):
    folder = write_study(tmp_path / "study")
    (folder / "runs" / "digest0").mkdir(parents=True)
    (folder / "runs" / "digest0" / "report.html").write_text("a page")
    path = write_report([folder])
    assert path == folder / "report.html"
    text = path.read_text()
    tags = Tags(text)
    assert "62.0" in text
    assert "+10.0**" in text
    assert "p = 0.004" in text
    assert "62.0</b> <small>± 2.0</small>" in text
    assert "− <bdi>plain</bdi>" in text
    assert ("href", "runs/digest0/report.html") in tags.attributes
    assert not [v for n, v in tags.attributes if n == "href" and "digest1" in v]
    opened = {v[1:] for n, v in tags.attributes if n == "href" and v.startswith("#runs-")}
    assert opened == {v for n, v in tags.attributes if n == "id" and v.startswith("runs-")} - {"runs-title"}


def test_what_is_drawn_depends_on_what_was_studied(tmp_path):
    titles = [c.title for c in content(write_study(tmp_path / "all"), PLAN)["charts"]]
    assert titles == [
        "test_top1", "test_top1 by λ", "test_top1 against drift", "test_top1 against seconds of training",
    ]  # fmt: skip
    one = content(write_study(tmp_path / "one", fractions=(1.0,), weights=(10,)), PLAN)
    assert [c.title for c in one["charts"]] == [
        "test_top1 against drift", "test_top1 against seconds of training",
    ]  # fmt: skip
    (group,) = one["groups"]
    assert group.scale == (50, 70)
    assert [(bar.name, bar.point, bar.seeds) for bar in group.bars] == [
        ("gta", 60, [50, 60, 70]), ("plain", 10, [0, 10, 20]),
    ]  # fmt: skip
    several = content(write_study(tmp_path / "several", data=("a", "b")), PLAN)
    assert [group.title for group in several["groups"]] == [
        f"{data}, {share} % of the training images" for data in "ab" for share in (50, 100)
    ]


def test_unfinished_studies_and_awkward_names_have_a_page(tmp_path):
    folder = write_study(tmp_path / "study", names=AWKWARD, data=AWKWARD[:2])
    rows = (folder / "table.csv").read_text()
    missing = {"data": "world", "fraction": 1.0, "method": "lora", "settings": "2 of 4 trials missing", "runs": 0}
    write_csv(tmp_path / "more.csv", [missing])
    tags = Tags(write_report([folder]).read_text())
    assert tags.tags.count("script") == 1
    assert "textarea" not in tags.tags
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    write_csv(folder / "table.csv", [missing])
    assert rows
    assert "2 of 4 trials missing" in write_report([folder]).read_text()
    (folder / "plan.yaml").write_text("{")
    with pytest.raises(GtaError, match="damaged"):
        write_report([folder])


def test_ticks_are_round_and_charts_stay_in_their_frame():
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert ticks(3, 97) == [20, 40, 60, 80]
    assert ticks(5, 5) == [5]
    drawn = chart("t", "x", {"a": [(1, -3), (10, float("nan")), (100, 8)]}, bands={"a": [(1, -4, -2)]}, log=True)
    assert [t.text for t in drawn.x_ticks] == ["1", "10", "100"]
    numbers = [float(n) for n in drawn.lines[0].path.replace("M", " ").replace("L", " ").split()]
    assert all(0 <= x <= 420 for x in numbers[::2])
    assert all(0 <= y <= 200 for y in numbers[1::2])
    assert numbers[2] - numbers[0] == pytest.approx(420 - 46 - 12)
    words = chart("t", "x", {"a": [(1, 1)], "b": [(1, 1.001)], "c": [(9, 5)]}, joined=False).words
    (_, first, _), (_, second, _) = sorted(word for word in words if word[2] != "c")
    assert abs(first - second) >= 11
