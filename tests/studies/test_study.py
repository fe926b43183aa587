"""Studies whose runs cost nothing: what is chosen, reported, kept, run again, and said of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from scipy import stats

from gta import GtaError
from gta.studies import execute
from gta.studies import identity as identity_file
from gta.studies import study as study_file
from gta.studies.comparison import Comparison
from gta.studies.identity import code_digest, data_digest, folder_name, identity, source_digest
from gta.studies.launchers.local import Local
from gta.studies.plan import make_plan
from gta.studies.run import run_study
from gta.studies.study import Study
from gta.training.finite import Diverged
from gta.training.options import TrainOptions

GRID = {"lr": [1e-4, 1e-3], "methods": {"plain": {}, "gta": {}, "soft": {"method": "gta", "weight": 0.1}}}
# validation prefers 1e-4, test 1e-3: whoever looks at test is found out
VAL = {("plain", 1e-4): 60.0, ("plain", 1e-3): 50.0, ("gta", 1e-4): 70.0, ("gta", 1e-3): 70.0}
LOSS = {("plain", 1e-4): 2.0, ("plain", 1e-3): 1.0, ("gta", 1e-4): 1.0, ("gta", 1e-3): 1.5}


class Arena:
    """Stands in for training: what is run is listed, and what it comes to is known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran: list[tuple[str, float, int]] = []
        self.broken: set[int] = set()  # seeds whose runs fail

    def train(self, options: TrainOptions, *, resume: bool, test: bool) -> dict:
        out = Path(options.out)
        assert resume
        assert test == (options.seed < 100)  # trials never see the test images
        self.ran.append((options.method, options.lr, options.seed))
        if options.seed in self.broken:
            raise RuntimeError("the disk is gone")
        out.mkdir(parents=True, exist_ok=True)
        for name in ("last.ckpt", "model.safetensors"):
            (out / name).write_text("large")
        if options.method == "gta" and options.lr == 1e-3 and options.weight == 0.1:
            raise Diverged("too fast")
        gained = options.seed + 1 if options.method == "gta" else 0
        results = {
            "val_top1": VAL[options.method, options.lr],
            "val_loss": LOSS[options.method, options.lr],
            "test_top1": (80 if options.lr == 1e-4 else 90) + options.seed + gained if test else None,
            "object_mass": 0.4, "jaccard": None, "drift": 0.01, "train_seconds": 5.0 + len(self.ran),
            "source_object_mass": 0.39 if options.method == "plain" else 0.6, "source_jaccard": 0.5,
        }  # fmt: skip
        (out / "results.json").write_text(json.dumps(results))
        return results

    def study(self, out: str = "out", retry_failed: bool = False, **change: object):
        content = {"data": {"d": "nowhere"}, "methods": GRID["methods"], "grid": {"lr": GRID["lr"]}} | change
        return run_study(make_plan(content), self.folder / out, Local(1), retry_failed=retry_failed)


@pytest.fixture
def arena(tmp_path, monkeypatch):
    arena = Arena(tmp_path)
    monkeypatch.setattr(execute, "train", arena.train)
    monkeypatch.setattr(
        study_file, "data_digest", lambda spec, download: f"digest of {spec}"
    )  # there are no photographs
    monkeypatch.setattr(study_file, "source_digest", lambda spec, heads: "digest of a source")
    monkeypatch.setattr(Study, "check", lambda self: None)
    monkeypatch.setattr(Study, "memory", lambda self: 1)
    return arena


def lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_validation_chooses_and_fresh_seeds_are_reported(arena, capsys):
    report = arena.study()
    told = capsys.readouterr().err
    assert told.startswith("6 trials, 9 runs to report; 0 of them there")
    assert "15 of 15, 0 running, 0 failed, 0 s left: d soft lr0.0001 seed 2: val 70.0, test 85.0" in told
    assert [row["settings"] for row in report.rows] == ["lr0.0001"] * 3  # what diverged never
    assert {seed for _, _, seed in arena.ran if seed >= 100} == {100}
    assert sorted(run for run in arena.ran if run[2] < 100) == sorted(
        (method, 1e-4, seed) for method in ("plain", "gta", "gta") for seed in range(3)
    )
    plain, gta, _ = report.rows
    assert plain["test"] == "81.0 ± 1.0"
    assert (gta["test"], gta["95 %"]) == ("83.0 ± 2.0", "[81.0, 85.0]")
    assert gta["− plain"].startswith("+2.0 [")  # 1, 2 and 3 points
    assert gta["effect"] == "+2.0"
    assert (plain["− plain"], plain["p"], plain["jaccard"]) == (None, None, None)
    p = stats.ttest_rel([81, 83, 85], [80, 81, 82]).pvalue
    assert gta["p"] == f"{2 * p:.3f}"  # two methods against plain
    assert "corrected for the 2 tests" in report.notes
    assert "better may lie beyond: plain lr 0.0001 (lowest), gta lr 0.0001 (lowest)" in report.notes
    assert "The source: object mass 0.39, jaccard 0.50." in report.notes
    assert [row["val"] for row in report.grid] == ["60.0", "50.0", "70.0", "70.0", "70.0", "diverged"]
    progress = json.loads((arena.folder / "out" / "progress.json").read_text())
    assert {key: progress[key] for key in ("runs", "done", "failed", "running")} == {
        "runs": 15, "done": 15, "failed": 0, "running": [],
    }  # fmt: skip


def test_of_trials_equally_often_right_the_lowest_loss_is_chosen(arena, monkeypatch):
    monkeypatch.setitem(LOSS, ("gta", 1e-3), 0.5)
    report = arena.study(methods={"plain": {}, "gta": {}})
    assert [row["settings"] for row in report.rows] == [
        "lr0.0001",
        "lr0.001",
    ]  # plain's loss is lower where it is wrong
    assert [row["val loss"] for row in report.grid] == ["2.000", "1.000", "1.000", "0.500"]


def test_the_source_is_described_by_what_it_sees_of_the_baselines_images(arena):
    report = arena.study(methods={"gta": {}, "plain": {}}, compare={"baseline": "plain"})
    assert "The source: object mass 0.39" in report.notes  # and not of another method's crops


def test_the_folder_keeps_what_was_chosen_from_and_all_runs(arena):
    arena.study()
    out = arena.folder / "out"
    trials = lines(out / "grid.csv")
    assert [(t["method"], t["lr"], t["chosen"]) for t in trials[:2]] == [
        ("plain", "0.0001", "True"), ("plain", "0.001", "False"),
    ]  # fmt: skip
    assert not any("test" in key for key in trials[0])
    runs = lines(out / "runs.csv")
    assert [(r["name"], r["seed"], r["state"]) for r in runs[:3]] == [("plain", str(s), "complete") for s in range(3)]
    assert len(runs) == 9
    table = lines(out / "table.csv")
    assert float(table[1]["difference"]) == 2.0
    assert float(table[1]["test_top1_sd"]) == 2.0
    text = (out / "table.md").read_text()
    assert "| plain | lr0.0001 | 3 |" in text
    assert "| d | 100 % | soft | lr0.001 | diverged | – |" in text
    assert r"81.0 $\pm$ 1.0" in (out / "table.tex").read_text()
    assert yaml.safe_load((out / "plan.yaml").read_text())["seeds"] == [0, 1, 2]
    assert not list(out.rglob("last.ckpt"))
    assert {p.parent.name for p in out.rglob("model.safetensors")} >= {run["folder"] for run in runs}
    described = json.loads((out / "runs" / f"{runs[0]['folder']}.json").read_text())
    assert folder_name(described["determined_by"]) == runs[0]["folder"]
    assert described["determined_by"]["data"] == "digest of nowhere"


def test_what_was_run_is_not_run_again_and_a_plan_can_be_extended(arena):
    first = arena.study(seeds=[0, 1])
    done = len(arena.ran)
    assert arena.study(seeds=[0, 1]) == first
    assert len(arena.ran) == done
    arena.study(seeds=[0, 1, 2, 3])
    assert sorted(arena.ran[done:]) == sorted((m, 1e-4, s) for m in ("plain", "gta", "gta") for s in (2, 3))
    done = len(arena.ran)
    arena.study(
        seeds=[0, 1],
        methods={**GRID["methods"], "gta10": {"method": "gta", "weight": 10.0}, "gta5": {"method": "gta", "weight": 5}},
    )
    assert len(arena.ran) == done + 4  # gta10 is gta by another name
    done = len(arena.ran)
    arena.study(seeds=[0, 1], options={"epochs": 3}, methods={"plain": {}})
    assert len(arena.ran) == done + 4
    arena.study(seeds=[0, 1])
    assert len(arena.ran) == done + 4  # those of the first plan are there still


def test_another_choice_needs_other_runs(arena, monkeypatch):
    arena.study(methods={"plain": {}}, seeds=[0])
    monkeypatch.setitem(VAL, ("plain", 1e-3), 90.0)  # of a second trial seed, which turns the choice
    done = len(arena.ran)
    report = arena.study(methods={"plain": {}}, seeds=[0], trial_seeds=[100, 101])
    assert arena.ran[done:] == [("plain", 1e-4, 101), ("plain", 1e-3, 101), ("plain", 1e-3, 0)]
    assert report.rows[0]["settings"] == "lr0.001"


def test_a_failed_run_is_kept_with_its_cause_and_stops_no_other(arena):
    arena.broken = {1}
    report = arena.study()
    assert [row["runs"] for row in report.rows] == ["2, 1 failed"] * 3
    assert report.rows[1]["p"] == "not enough seeds"
    assert set(report.failed.values()) == {"RuntimeError: the disk is gone"}
    assert list(report.failed) == [f"d {name} lr0.0001 seed 1" for name in GRID["methods"]]
    text = (arena.folder / "out" / "table.md").read_text()
    assert "- failed: d plain lr0.0001 seed 1: RuntimeError: the disk is gone" in text
    (cause, *_) = (arena.folder / "out" / "runs").glob("*.failed")
    assert "Traceback" in cause.read_text()
    done = len(arena.ran)
    arena.broken = set()
    assert arena.study() == report
    assert len(arena.ran) == done
    repaired = arena.study(retry_failed=True)
    assert [row["runs"] for row in repaired.rows] == [3, 3, 3]
    assert len(arena.ran) == done + 3
    assert not repaired.failed


def test_a_method_with_a_failed_trial_is_not_chosen_from(arena):
    arena.broken = {100}
    report = arena.study()
    assert [row["settings"] for row in report.rows] == ["2 of 2 trials failed"] * 3
    assert {seed for *_, seed in arena.ran} == {100}


def test_a_method_that_always_diverges_is_told(arena):
    report = arena.study(methods={"plain": {}, "soft": {"method": "gta", "weight": 0.1, "lr": [1e-3, "1e-3"]}})
    assert report.rows[1]["settings"] == "all diverged"
    assert report.rows[1]["runs"] == 0


def test_without_a_choice_every_setting_is_reported_beside_the_baselines_with_the_same_rate(arena):
    report = arena.study(methods={"plain": {}, "gta": {}}, choose=[])
    assert not report.grid
    assert [(row["method"], row["settings"], row["test"]) for row in report.rows] == [
        ("plain", "lr0.0001", "81.0 ± 1.0"), ("plain", "lr0.001", "91.0 ± 1.0"),
        ("gta", "lr0.0001", "83.0 ± 2.0"), ("gta", "lr0.001", "93.0 ± 2.0"),
    ]  # fmt: skip
    assert [row["− plain"] and row["− plain"][:4] for row in report.rows] == [None, None, "+2.0", "+2.0"]
    assert len(arena.ran) == 12


def test_several_sets_and_shares_are_put_side_by_side_and_ranked(arena):
    data = {"a": "a", "b": {"path": "b", "epochs": 3}}
    report = arena.study(data=data, fractions={0.5: {}, 1.0: {"epochs": 5}}, methods={"plain": {}, "gta": {}})
    assert report.overview == [
        {"method": "plain", **dict.fromkeys(("a 50 %", "a 100 %", "b 50 %", "b 100 %"), "81.0 ± 1.0"), "rank": "2.00"},
        {"method": "gta", **dict.fromkeys(("a 50 %", "a 100 %", "b 50 %", "b 100 %"), "83.0 ± 2.0"), "rank": "1.00"},
    ]
    assert "more than 0.98 apart (Nemenyi), which these do: gta and plain" in report.notes  # 1.96 · sqrt(2·3/(6·4))
    assert [(row["data"], row["share"]) for row in report.rows[::2]] == [
        ("a", "50 %"), ("a", "100 %"), ("b", "50 %"), ("b", "100 %"),
    ]  # fmt: skip
    epochs = [json.loads(p.read_text())["options"]["epochs"] for p in arena.folder.glob("out/runs/*.json")]
    assert {n: epochs.count(n) for n in epochs} == {15: 10, 5: 20, 3: 10}


def test_a_process_that_ends_without_a_word_is_tried_again_and_then_told(arena, monkeypatch):
    tries: list[int] = []

    def vanish(folder):
        given = json.loads(folder.with_name(f"{folder.name}.json").read_text())
        seed = given["options"]["seed"]
        tries.append(seed)
        if seed == 1 or tries.count(seed) < 3:
            return  # killed
        real(folder)

    real = execute.execute
    monkeypatch.setattr("gta.studies.launchers.local.execute", vanish)
    report = arena.study(methods={"plain": {}}, grid={"lr": [1e-4]}, seeds=[0, 1])
    assert [tries.count(seed) for seed in (0, 1)] == [3, 3]
    assert report.rows[0]["runs"] == "1, 1 failed"
    assert "ended 3 times without a word" in next(iter(report.failed.values()))


def test_folders_that_hold_something_else_are_left_alone(arena):
    (arena.folder / "full").mkdir()
    (arena.folder / "full" / "letter.txt").write_text("dear mum")
    with pytest.raises(GtaError, match=r"no plan\.yaml"):
        arena.study("full")
    assert not arena.ran


# --- what determines a run ------------------------------------------------------------------------------------


def test_a_run_is_named_by_what_determines_it_and_by_nothing_else():
    options = TrainOptions(data="d", out="o", method="gta", lr=1e-4)

    def name(*, data="x", source="y", test=True, **change):
        return folder_name(identity(TrainOptions(**{**vars(options), **change}), data, source, test=test))

    same = name()
    for change in ({"data": "moved"}, {"out": "p"}, {"workers": 3}, {"devices": 2}, {"source": "moved"}):
        moved = TrainOptions(**{**vars(options), **change})
        assert folder_name(identity(moved, "x", "y", test=True)) == same
    others = [
        name(data="z"), name(source="z"), name(test=False), name(seed=1), name(lr=2e-4), name(method="plain"),
        name(epochs=3), name(method="bss", settings={"bss": {"eta": 0.5}}), name(method="bss"),
    ]  # fmt: skip
    assert len({same, *others}) == 10
    assert name(look_source="gta:butterflies") not in {same, *others}
    assert name(method="bss", settings={"bss": {"eta": 0.001}}) == name(method="bss")  # its default, said


def test_the_code_that_counts_is_what_a_method_imports(monkeypatch, tmp_path):
    real, written = identity_file._path, tmp_path / "changed.py"

    def digests(changed: str = "", text: str = "") -> list[str]:
        if changed:
            written.write_text(real(changed).read_text() + text)
        monkeypatch.setattr(identity_file, "_path", lambda module: written if module == changed else real(module))
        identity_file._code.cache_clear()
        return [code_digest(method) for method in ("gta", "bss", "bss+mixup")]

    before = digests()
    assert len({*before}) == 3
    for changed, which in (
        ("gta.methods.bss", [False, True, True]), ("gta.training.fit", [True] * 3), ("gta.methods.base", [True] * 3),
        ("gta.methods.lora", [False] * 3), ("gta.studies.study", [False] * 3), ("gta.report.demo", [False] * 3),
    ):  # fmt: skip
        assert [now != then for now, then in zip(digests(changed, "\nmore = 3\n"), before, strict=True)] == which
        assert digests(changed, "\n# a comment\n") == before
    monkeypatch.undo()
    identity_file._code.cache_clear()


def test_data_is_known_by_its_files_names_labels_and_masks(make_photos, tmp_path):
    root = make_photos(splits={"train": 2, "test": 1})
    first = data_digest(str(root))
    moved = root.rename(tmp_path / "moved")
    assert data_digest(str(moved)) == first
    image = moved / "train" / "class 0" / "000.jpg"
    content = image.read_bytes()
    image.write_bytes(content + b"\0")
    assert data_digest(str(moved)) != first
    image.write_bytes(content)
    assert data_digest(str(moved)) == first
    image.rename(moved / "train" / "class 1" / "007.jpg")
    assert data_digest(str(moved)) != first
    (moved / "train" / "class 1" / "007.jpg").rename(image)
    (moved / "masks" / "train" / "class 0" / "000.png").unlink()
    assert data_digest(str(moved)) != first


def test_a_source_is_known_by_its_weights(source_file, tmp_path):
    elsewhere = tmp_path / "copy.safetensors"
    elsewhere.write_bytes(source_file.read_bytes())
    assert source_digest(str(elsewhere), None) == source_digest(str(source_file), None)
    assert source_digest("gta:butterflies", None) != source_digest(str(source_file), None)


# --- gta compare ----------------------------------------------------------------------------------------------


def test_a_comparison_is_a_plan(tmp_path):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    comparison = Comparison("d", "o", methods="plain,soft", seeds=2, grid_seeds=3, epochs=4, fraction=0.5,
                            grid=str(tmp_path / "grid.yaml"))  # fmt: skip
    plan = comparison.plan()
    assert (plan.seeds, plan.trial_seeds, list(plan.trials)) == ([0, 1], [100, 101, 102], ["plain", "soft"])
    assert plan.trials["soft"][1] == make_plan(
        {"data": {"d": "d"}, "methods": GRID["methods"], "grid": {"lr": GRID["lr"]}}
    ).trials["soft"][1]  # fmt: skip
    assert list(plan.fractions) == [0.5]
    assert plan.base("data", 0.5)["epochs"] == 4
    shipped = Comparison("d", "o").plan()
    assert {len(trials) for trials in shipped.trials.values()} == {12}
    assert {len(t) for t in Comparison("d", "o", budget=5).plan().trials.values()} == {5}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": ["plain", "magic"]}, "no method 'magic'"),
        ({"methods": ["plain", "plain"]}, "each method once"),
        ({"seeds": 0}, "--seeds 0"),
        ({"epochs": 0}, "--epochs 0"),
        ({"budget": 13}, "1 to 12"),
    ],
)
def test_comparisons_that_cannot_be_made_are_refused(change, words):
    with pytest.raises(GtaError, match=words):
        Comparison("d", "o", **change).plan()


def test_a_grid_may_not_give_one_method_other_epochs(tmp_path):
    (tmp_path / "grid.yaml").write_text("lr: [1e-3]\nmethods: {gta: {epochs: [1, 2]}}\n")
    with pytest.raises(GtaError, match="the same for all methods"):
        Comparison("d", "o", methods="gta", grid=str(tmp_path / "grid.yaml")).plan()
    with pytest.raises(GtaError, match="no method 'plain'"):
        Comparison("d", "o", methods="plain", grid=str(tmp_path / "grid.yaml")).plan()
