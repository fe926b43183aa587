"""Plans and grids: what a file says, what is refused, and that every shipped plan is one."""

from __future__ import annotations

import re

import pytest
import yaml

from gta import GtaError
from gta.methods import METHODS
from gta.studies.grid import Trial, read_grid, same_budget, shipped_grid, trials_of
from gta.studies.plan import PLANS, header, make_plan, outline, read_plan
from gta.training.options import TrainOptions

# --- grids ----------------------------------------------------------------------------------------------------


def test_the_shipped_grid_has_every_method_with_the_same_budget():
    grid = shipped_grid()
    assert {*METHODS, "gta_auto", "gta_attention", "gta_msa", "gta_block", "gta+transmix"} == set(grid["methods"])
    plan = {name: trials_of(name, entry, {"lr": grid["lr"]}) for name, entry in grid["methods"].items()}
    assert {len(trials) for trials in same_budget(plan, None).values()} <= {1, 12}
    for trials in plan.values():
        assert len({trial.label for trial in trials}) == len(trials)
        if len(trials) > 1:
            assert {1e-5, 3e-5, 1e-4} <= {trial.values["lr"] for trial in trials}


def test_a_trial_becomes_the_options_of_a_run():
    trial = Trial("x", "gta+l2_sp", {"lr": 3e-5, "l2_sp.alpha": 0.1}, {"weight": "auto"})
    assert trial.label == "lr3e-05,l2_sp.alpha0.1"
    assert trial.options(data="d", out="o", seed=4) == TrainOptions(
        data="d", out="o", seed=4, method="gta+l2_sp", lr=3e-5, weight="auto", settings={"l2_sp": {"alpha": 0.1}}
    )


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
        "as it is": [Trial("as it is", "gta", {})],  # nothing to choose: no favour
    }
    with pytest.raises(GtaError, match=r"a 9, b 4.*budget of 4"):
        same_budget(plan, None)
    drawn = same_budget(plan, 3)
    assert [len(trials) for trials in drawn.values()] == [3, 3, 1]
    assert drawn == same_budget(plan, 3)
    for budget in (0, 5):
        with pytest.raises(GtaError, match="1 to 4"):
            same_budget(plan, budget)


# --- plans ----------------------------------------------------------------------------------------------------

PLAN = {"data": {"d": "photos"}, "methods": {"plain": {}, "gta": {"weight": "1e1"}}, "grid": {"lr": ["1e-4", 1e-3]}}


def test_a_plan_is_completed_and_its_options_go_over_each_other():
    plan = make_plan(
        PLAN
        | {
            "data": {"d": "photos", "w": {"world": {"val": 3}, "epochs": 7, "precision": 32}},
            "fractions": {0.5: {"batch_size": 5, "epochs": 3}, 1.0: {}},
            "options": {"batch_size": 9, "weight_decay": "1e-3"},
        }
    )
    assert (plan.seeds, plan.trial_seeds, plan.baseline, plan.compared) == ([0, 1, 2], [100], "plain", ["gta"])
    options = plan.trials["gta"][1].options(data="", out="", **plan.base("w", 0.5))
    assert (options.lr, options.weight, options.batch_size, options.epochs) == (1e-3, 10.0, 5, 3)
    assert (options.precision, options.fraction, options.weight_decay, options.devices) == ("32", 0.5, 1e-3, 1)
    assert plan.trials["plain"][0].options(data="", out="", **plan.base("w", 1.0)).epochs == 7
    assert plan.is_chosen("gta")
    assert [(row["trials"], row["runs to report"]) for row in outline(plan)] == [(8, 12), (8, 12)]


def test_plans_extend_others_and_are_changed_in_passing(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(PLAN | {"options": {"epochs": 3, "batch_size": 5}}))
    (tmp_path / "mine.yaml").write_text("# Mine.\nextends: base.yaml\noptions: {epochs: 4}\nmethods: {plain: null}\n")
    plan = read_plan(str(tmp_path / "mine.yaml"), ["seeds=[0,1,2,3,4]", "data.e.world.seed=run", "options.clip=2"])
    assert plan.options == {"epochs": 4, "batch_size": 5, "clip": 2}
    assert list(plan.trials) == ["gta"]
    assert (plan.baseline, plan.compared, len(plan.seeds)) == ("gta", [], 5)
    assert plan.data["e"].world == {"seed": "run"}
    assert header(tmp_path / "mine.yaml") == "Mine."
    assert make_plan(plan.content).content == plan.content  # OUT/plan.yaml is a plan
    (tmp_path / "base.yaml").write_text("extends: mine.yaml\n")
    with pytest.raises(GtaError, match="extends itself"):
        read_plan(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dat": {}}, "no dat: it has data"),
        ({"data": {}}, "needs a data set"),
        ({"data": {"d": {"epochs": 3}}}, "needs a path"),
        ({"data": {"d": {"path": "x", "world": {}}}}, "needs a path"),
        ({"data": {"d": {"world": {"size": 3}}}}, "--size must be at least 8"),
        ({"data": {"d": {"world": {"colour": 3}}}}, "no colour"),
        ({"data": {"d": {"path": "x", "seed": 3}}}, "cannot set seed: the plan says it elsewhere"),
        ({"options": {"magic": 3}}, "not an option of gta train"),
        ({"options": {"method": "gta"}}, "elsewhere"),
        ({"options": {"epochs": 0}}, "--epochs 0"),
        ({"options": [3]}, "write a mapping"),
        ({"fractions": []}, "fractions cannot be"),
        ({"fractions": [2]}, "--fraction 2"),
        ({"grid": {"lr": 3}}, "grid cannot be"),
        ({"seeds": []}, "needs seeds"),
        ({"seeds": [0, 0]}, "each once"),
        ({"seeds": [-1]}, "each once"),
        ({"seeds": 3}, "write a list"),
        ({"trial_seeds": [2]}, "seeds and trial_seeds both have 2"),
        ({"choose": ["test_top1"]}, "chosen on validation"),
        ({"report": "test_top1"}, "write a list"),
        ({"compare": {"baseline": "magic"}}, "not among the methods"),
        ({"compare": {"methods": ["magic"]}}, "not among the methods"),
        ({"compare": {"against": "plain"}}, "no against"),
        ({"budget": 7}, "1 to 2"),
        ({"methods": ["plain", "magic"]}, "no method 'magic'"),
        ({"methods": ["plain", "plain"]}, "each once"),
        ({"methods": {"gta": 3}}, "write {OPTION"),
        ({"methods": {"gta": None}}, "all are taken out"),
        ({"methods": "all but magic"}, "no method 'magic'"),
        ({"methods": {"gta": {"magic": [1]}}}, "not an option of gta train"),
        ({"methods": {"gta": {"bss.eta": [1]}}}, "does not have bss"),
        ({"methods": {"gta": {"weight": [-1]}}}, "from 0 to 1e30"),
        ({"methods": {"gta": {"weight": ["much"]}}}, "much cannot be used: write a number or auto"),
        ({"methods": {"gta": {"guide": "mlp"}}}, "logits, attention"),
        ({"methods": {"gta": {"lr": ["fast"]}}}, "fast cannot be used: write a number"),
        ({"methods": {"gta": {"method": "magic"}}}, "'magic' is not known"),
        ({"methods": {"gta": {"seed": 3}}}, "same for all methods"),
        ({"methods": {"plain": {}, "gta": {"weight": [1, 2]}}}, "would favour them"),
    ],
)
def test_what_no_study_can_use_is_refused(change, words):
    with pytest.raises(GtaError, match=words):
        make_plan(PLAN | change)


def test_methods_are_taken_out_of_a_list_and_of_all():
    everything = read_plan("world-methods", ["methods=all"]).trials
    assert {*everything} - {*read_plan("world-methods").trials} == {"co_tuning", "lwf"}
    assert {*everything} - {*read_plan("world-methods", ["methods=all but gta, lora"]).trials} == {"gta", "lora"}
    left = [name for name in everything if name not in ("bss", "co_tuning", "lwf")]
    assert [*read_plan("world-methods", ["methods.bss=null"]).trials] == left
    assert [*read_plan("compare", ["data.mine=x", "methods.bss=null"]).trials] == [
        "plain", "l2_sp", "attention_only", "gta"
    ]  # fmt: skip


def test_files_and_changes_that_cannot_be_used_are_refused(tmp_path):
    (tmp_path / "list.yaml").write_text("[3]")
    (tmp_path / "broken.yaml").write_text("{")
    for name, changes, words in (
        ("magic", [], "no plan magic: give a file, or one of .*world-methods"),
        (str(tmp_path / "list.yaml"), [], "is not a plan"),
        (str(tmp_path / "broken.yaml"), [], "cannot be read"),
        ("compare", [], "needs data"),
        ("compare", ["seeds"], "KEY=VALUE"),
        ("compare", ["seeds=["], "seeds="),
    ):
        with pytest.raises(GtaError, match=words):
            read_plan(name, changes)


@pytest.mark.parametrize("name", PLANS)
def test_every_shipped_plan_is_one_and_says_what_it_costs(name):
    text = header(PLANS[name])
    needs_data = "data.mine=photos" in text and "needs data" in text
    plan = read_plan(name, ["data.mine=photos"] if needs_data else [])
    assert "Cost: " in text
    told = re.findall(r"([\d,]+) (trials|runs)", text.partition("Cost:")[2])
    numbers = {word: int(count.replace(",", "")) for count, word in told}
    if numbers and "runs a method" not in text:
        rows, sets = outline(plan), len(plan.data) if "on each data set" in text else 1
        assert numbers.get("trials", 0) == sum(row["trials"] for row in rows) / sets
        assert numbers.get("runs", 0) == sum(row["runs to report"] for row in rows) / sets
