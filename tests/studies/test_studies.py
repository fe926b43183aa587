"""Comparisons: statistics by hand and against scipy, grids, and that the fight is fair and can be interrupted."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import yaml
from scipy import stats

from gta import GtaError
from gta.cli import main
from gta.methods import METHODS
from gta.studies import compare as compare_file
from gta.studies.compare import Comparison, compare
from gta.studies.grid import Trial, read_grid, same_budget, shipped_grid, trials_of
from gta.studies.statistics import Paired, holm, mean_and_spread, paired
from gta.tables import markdown, plus_minus
from gta.training.options import TrainOptions
from gta.training.run_folder import Diverged

# --- statistics -----------------------------------------------------------------------------------------------


def test_mean_and_spread_by_hand():
    assert mean_and_spread([1.0, 3.0, 5.0]) == (3.0, 2.0)
    assert mean_and_spread([4.0]) == (4.0, None)
    assert mean_and_spread([]) == (None, None)


def test_paired_by_hand_and_against_scipy():
    """Differences 1, 2, 3: mean 2, standard error 1/√3, t = 2√3 on 2 degrees of freedom."""
    first, second = [11.0, 22.0, 33.0], [10.0, 20.0, 30.0]
    found = paired(first, second)
    t = 2 * math.sqrt(3)
    assert (found.difference, found.pairs) == (2.0, 3)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t))  # Student's distribution for 2 degrees, closed form
    assert found.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert paired([1.0], [3.0]) == Paired(-2.0, None, None, None, 1)
    assert paired([1.0, 2.0], [0.0, 1.0]) == Paired(1.0, 1.0, 1.0, None, 2)  # equal differences: no test
    with pytest.raises(ValueError, match="no seed"):
        paired([], [])


def test_paired_of_five_by_hand():
    """Differences 1 to 5: mean 3, standard error sqrt(2.5 / 5), t = 4.2426 with 4 degrees of freedom."""
    found = paired([11, 22, 33, 44, 55], [10, 20, 30, 40, 50])
    assert (found.difference, found.pairs) == (3, 5)
    assert found.p == pytest.approx(0.013236, abs=1e-5)
    half = 2.776445 * 0.5**0.5
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-4)


def test_holm_by_hand():
    assert holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_cells():
    assert [plus_minus(63.26, 2.14), plus_minus(0.4, None), plus_minus(0.0181, 0.002), plus_minus(None, None)] == [
        "63.3 ± 2.1", "0.40", "0.0181 ± 0.0020", None,
    ]  # fmt: skip
    assert markdown([{"a": "x|y", "b": None}]) == "| a | b |\n| --- | --- |\n| x\\|y | – |\n"
    assert markdown([]) == ""


# --- grids ----------------------------------------------------------------------------------------------------


def test_the_shipped_grid_has_every_method_with_the_same_budget():
    grid = shipped_grid()
    assert {*METHODS, "gta_auto", "gta_attention", "gta_msa", "gta_block", "gta+transmix"} == set(grid["methods"])
    plan = {name: trials_of(grid, name) for name in grid["methods"]}
    assert {len(trials) for trials in same_budget(plan, None).values()} == {12}
    for trials in plan.values():
        assert {1e-5, 3e-5, 1e-4} <= {trial.values["lr"] for trial in trials}
        assert len({trial.label for trial in trials}) == 12


def test_a_trial_becomes_the_options_of_a_run():
    trial = Trial("x", "gta+l2_sp", {"lr": 3e-5, "l2_sp.alpha": 0.1}, {"weight": "auto"})
    assert trial.label == "lr3e-05,l2_sp.alpha0.1"
    assert trial.options(data="d", out="o", seed=4) == TrainOptions(
        data="d", out="o", seed=4, method="gta+l2_sp", lr=3e-5, weight="auto", settings={"l2_sp": {"alpha": 0.1}}
    )


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"epochs": [1, 2]}, "the same for all methods"),
        ({"reuse": [True]}, "the same for all methods"),
        ({"magic": [1]}, "not an option of gta train"),
        ({"bss.eta": [1]}, "does not have bss"),
        ({"weight": [-1]}, "0 or above"),
        ({"weight": ["much"]}, "0 or above"),
        ({"guide": "mlp"}, "logits, attention"),
        ({"lr": ["fast"]}, "wrong kind"),
        ({"method": "magic"}, "'magic' is not known"),
    ],
)
def test_entries_that_cannot_be_used_are_refused(entry, words):
    with pytest.raises(GtaError, match=words):
        trials_of({"lr": [1e-4], "methods": {"gta": entry}}, "gta")


@pytest.mark.parametrize(
    "text",
    ["lr: 1", "lr: [1]\nmethods: [gta]", "[", "lr: [1]\nmethods: {gta: 3}", "", "lr: [1]\nmethods: {}\nseeds: 3"],
)
def test_files_that_are_not_a_grid_are_refused(text, tmp_path):
    (tmp_path / "g.yaml").write_text(text)
    with pytest.raises(GtaError, match=r"is not a grid|cannot be read"):
        read_grid(tmp_path / "g.yaml")


def test_an_unequal_budget_is_refused_and_can_be_drawn():
    plan = {
        "a": [Trial("a", "gta", {"lr": i}) for i in range(9)],
        "b": [Trial("b", "gta", {"lr": i}) for i in range(4)],
    }
    with pytest.raises(GtaError, match=r"a 9, b 4.*--budget 4"):
        same_budget(plan, None)
    drawn = same_budget(plan, 3)
    assert [len(trials) for trials in drawn.values()] == [3, 3]
    assert drawn == same_budget(plan, 3)
    for budget in (0, 5):
        with pytest.raises(GtaError, match="1 to 4"):
            same_budget(plan, budget)


# --- comparisons ----------------------------------------------------------------------------------------------

GRID = {"lr": [1e-4, 1e-3], "methods": {"plain": {}, "gta": {}, "soft": {"method": "gta", "weight": 0.1}}}
# validation prefers 1e-4, test 1e-3: whoever looks at test is found out
VAL = {("plain", 1e-4): 60.0, ("plain", 1e-3): 50.0, ("gta", 1e-4): 70.0, ("gta", 1e-3): 70.0}
LOSS = {("plain", 1e-4): 2.0, ("plain", 1e-3): 1.0, ("gta", 1e-4): 1.0, ("gta", 1e-3): 1.5}


@pytest.fixture
def arena(tmp_path, monkeypatch):
    """A comparison whose runs cost nothing; `ran` lists them."""
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    ran: list[tuple[str, float, int]] = []

    def fake(options: TrainOptions, *, resume: bool, test: bool) -> dict:
        out = Path(options.out)
        assert resume
        assert test == (options.seed < 100)  # trials never see the test images
        if (out / "results.json").is_file():
            return json.loads((out / "results.json").read_text())
        out.mkdir(parents=True)
        for name in ("last.ckpt", "model.safetensors"):
            (out / name).write_text("large")
        ran.append((options.method, options.lr, options.seed))
        if options.method == "gta" and options.lr == 1e-3 and options.weight == 0.1:
            raise Diverged("too fast")
        gained = options.seed + 1 if options.method == "gta" else 0
        results = {
            "val_top1": VAL[options.method, options.lr],
            "val_loss": LOSS[options.method, options.lr],
            "test_top1": (80 if options.lr == 1e-4 else 90) + options.seed + gained,
            "object_mass": 0.4, "jaccard": None, "drift": 0.01, "train_seconds": 5.0,
            "source_object_mass": 0.39, "source_jaccard": 0.5,
        }  # fmt: skip
        (out / "results.json").write_text(json.dumps(results))
        return results

    monkeypatch.setattr(compare_file, "train", fake)
    monkeypatch.setattr(compare_file, "_check_input", lambda comparison: None)  # there are no photographs
    return tmp_path, ran


def comparison(folder: Path, **more: object) -> Comparison:
    values = {
        "data": "d",
        "out": "o",
        "source": "s",
        "methods": ["plain", "gta", "soft"],
        "grid": str(folder / "grid.yaml"),
    }
    return Comparison(**{**values, **more})


def test_validation_chooses_and_fresh_seeds_are_reported(arena, capsys):
    folder, ran = arena
    result = compare(comparison(folder, out=str(folder / "out")))
    assert capsys.readouterr().err.startswith("6 trials, then 9 final runs; ")
    assert [row["chosen"] for row in result.table] == ["lr0.0001"] * 3  # what diverged never
    trials = {run for run in ran if run[2] >= 100}
    assert {seed for _, _, seed in trials} == {100}
    assert sorted(run for run in ran if run[2] < 100) == sorted(
        (method, 1e-4, seed) for method in ("plain", "gta", "gta") for seed in range(3)
    )
    plain, gta, _ = result.table
    assert plain["test"] == "81.0 ± 1.0"
    assert gta["test"] == "83.0 ± 2.0"
    assert gta["− plain"].startswith("+2.0 [")  # 1, 2 and 3 points
    assert (plain["− plain"], plain["p"], plain["jaccard"]) == (None, None, None)
    p = stats.ttest_rel([81, 83, 85], [80, 81, 82]).pvalue
    assert gta["p"] == f"{2 * p:.3f}"  # two methods against plain
    assert "better may lie beyond: plain lr 0.0001 (lowest), gta lr 0.0001 (lowest)" in result.notes
    assert [row["val"] for row in result.grid] == ["60.0", "50.0", "70.0", "70.0", "70.0", "diverged"]


def test_of_trials_equally_often_right_the_lowest_loss_is_chosen(arena, monkeypatch):
    folder, _ = arena
    monkeypatch.setitem(LOSS, ("gta", 1e-3), 0.5)
    result = compare(comparison(folder, out=str(folder / "out"), methods=["plain", "gta"]))
    assert [row["chosen"] for row in result.table] == ["lr0.0001", "lr0.001"]  # plain's loss is lower where it is wrong
    assert [row["val loss"] for row in result.grid] == ["2.000", "1.000", "1.000", "0.500"]


def test_the_folder_keeps_the_grid_and_all_runs(arena):
    folder, _ = arena
    out = folder / "out"
    compare(comparison(folder, out=str(out)))
    trials = list(csv.DictReader((out / "grid.csv").open()))
    assert [(t["method"], t["lr"], t["chosen"]) for t in trials[:2]] == [
        ("plain", "0.0001", "True"),
        ("plain", "0.001", "False"),
    ]
    assert not any("test" in key for key in trials[0])
    runs = list(csv.DictReader((out / "runs.csv").open()))
    assert len(runs) == 9
    table = list(csv.DictReader((out / "table.csv").open()))
    assert float(table[1]["difference"]) == 2.0
    text = (out / "table.md").read_text()
    assert "| plain | lr0.0001 | 3 |" in text
    assert "| soft | lr0.001 | diverged | – |" in text
    assert yaml.safe_load((out / "grid.yaml").read_text()) == GRID
    assert not list(out.rglob("last.ckpt"))
    models = {str(p.parent.relative_to(out / "runs")) for p in out.rglob("model.safetensors")}
    assert models == {f"{name}/lr0.0001-seed{seed}" for name in ("plain", "gta", "soft") for seed in range(3)}


def test_what_was_run_is_not_run_again(arena, monkeypatch):
    folder, ran = arena
    first = compare(comparison(folder, seeds=2, out=str(folder / "out")))
    done = len(ran)
    assert compare(comparison(folder, seeds=2, out=str(folder / "out"))) == first
    assert len(ran) == done
    compare(comparison(folder, seeds=3, out=str(folder / "out")))
    assert len(ran) == done + 3
    with pytest.raises(GtaError, match=r"epochs=15, but epochs=3"):
        compare(comparison(folder, epochs=3, out=str(folder / "out")))


def test_what_cannot_be_compared_is_refused_before_anything_runs(arena):
    folder, ran = arena
    (folder / "full").mkdir()
    (folder / "full" / "letter.txt").write_text("dear mum")
    for more, out, words in (
        ({"methods": ["plain", "magic"]}, "out", "no method 'magic'"),
        ({"methods": ["plain", "plain"]}, "out", "each method once"),
        ({"seeds": 0}, "out", "--seeds 0"),
        ({"epochs": 0}, "out", "--epochs 0"),
        ({"budget": 7}, "out", "1 to 2"),
        ({}, "full", "no compare.yaml"),
    ):
        with pytest.raises(GtaError, match=words):
            compare(comparison(folder, **more, out=str(folder / out)))
    assert not ran
    assert not (folder / "out").exists()


def test_a_method_that_always_diverges_is_told(arena, monkeypatch):
    folder, _ = arena

    def diverge(options: TrainOptions, *, resume: bool, test: bool) -> dict:
        Path(options.out).mkdir(parents=True)
        raise Diverged("too fast")

    monkeypatch.setattr(compare_file, "train", diverge)
    for _ in range(2):  # the second time from what was written
        with pytest.raises(GtaError, match="all 2 trials of plain diverged"):
            compare(comparison(folder, out=str(folder / "out")))


def test_a_comparison_from_photographs_to_tables(photos, source_file, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text("lr: [1e-3]\nmethods:\n  plain: {}\n  mine: {method: gta+bss, bss.k: 2}\n")
    words = ["compare", "--data", str(photos), "--source", str(source_file), "--out", str(tmp_path / "out"),
             "--methods", "plain,mine", "--seeds", "1", "--image-size", "40", "--epochs", "1", "--batch-size", "4",
             "--grid", str(tmp_path / "grid.yaml")]  # fmt: skip
    for wrong in ("--data", "--source"):
        assert main([*words, wrong, str(tmp_path / "nowhere.pth")]) == 2
        assert "nowhere" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "mine" in printed
    assert "The source: object mass" in printed
    runs = list(csv.DictReader((tmp_path / "out" / "runs.csv").open()))
    assert [(r["name"], r["method"], r["seed"], r["bss.k"]) for r in runs] == [
        ("plain", "plain", "0", ""), ("mine", "gta+bss", "0", "2"),
    ]  # fmt: skip
    (trial,) = (tmp_path / "out" / "runs" / "plain").glob("*seed100/results.json")
    tried = json.loads(trial.read_text())
    assert tried["val_top1"] is not None
    assert {tried[k] for k in ("test_top1", "test_digest", "object_mass", "drift")} == {None}
