"""The command line itself."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import pytest
import yaml

import gta
from gta.cli import main
from gta.cli.parser import COMMANDS, Command, parse
from gta.errors import GtaError
from gta.training.options import TrainOptions
from gta.training.run_folder import config_text


def test_help_imports_no_heavy_package():
    """--help answers at once because nothing that takes long is imported."""
    code = (
        "import sys, contextlib\nfrom gta.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "heavy = {'torch', 'timm', 'lightning', 'torchvision', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = " ".join(done.stdout.split())
    files = {path.stem for path in (Path(gta.__file__).parent / "cli" / "commands").glob("[!_]*.py")}
    assert set(COMMANDS) == files >= {"train", "evaluate", "predict", "source", "world", "demo"}
    for name, command in COMMANDS.items():
        assert f" {name} {command.help} " in f"{listed} "


def test_help_names_every_option_with_its_meaning(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for field in fields(TrainOptions):
        assert f"--{field.name.replace('_', '-')}" in text
    assert "AdamW" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--out", "x"],
        ["train", "--data", "x", "--out", "y", "--learning-rate", "1"],
        ["train", "--data", "x", "--out", "y", "--epochs", "many"],
        ["train", "--data", "x", "--out", "y", "--rows", "magic"],
        ["train", "--data", "x", "--out", "y", "--lora.rank", "many"],
        ["predict", "run"],
        ["data", "manifest", "x"],
        ["data"],
        ["nonsense"],
    ],
)
def test_wrong_words_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("gta")
    assert told.endswith("--help lists what it takes.\n")


def test_methods_that_are_not_known_are_refused(capsys):
    for method in ("magic", "gta+magic", "gta+gta"):
        assert main(["train", "--data", "x", "--out", "y", "--method", method]) == 2
        error = capsys.readouterr().err
        assert error.startswith("gta train: method ")
        assert "magic" not in method or ("'magic'" in error and "linear_probe" in error)


def test_unknown_keys_in_a_config_are_refused(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("data: x\nout: y\nlearning_rate: 1\n")
    with pytest.raises(SystemExit):
        main(["train", "--config", str(tmp_path / "c.yaml")])
    assert "learning_rate" in capsys.readouterr().err


def test_options_survive_the_config(tmp_path):
    options = TrainOptions(data=str(tmp_path), out=str(tmp_path / "o"), source="timm:x", method="gta", layers="0,-1",
                           lr=3e-5)  # fmt: skip
    assert options.layers == [0, -1]
    assert TrainOptions(**yaml.safe_load(config_text(options)), out=options.out) == options
    assert asdict(options)["lr"] == 3e-5


@dataclass(frozen=True)
class Greeting:
    """Greet people.

    Args:
        word: What to say.
        at_noon: Whether it is noon.
        layers: Any.
    """

    word: str
    at_noon: bool = False
    layers: list[int] | None = None

    def __post_init__(self) -> None:
        if self.word == "boo":
            raise GtaError("--word boo cannot be used: write hello.")


@pytest.fixture
def added():
    """Adds commands at run time, and takes them away again."""
    names: list[str] = []

    def add(name: str, command: Command) -> None:
        names.append(name)
        COMMANDS.add(name, command)

    yield add
    for name in names:
        COMMANDS.remove(name)


def test_a_command_can_be_added_at_run_time(added, capsys):
    seen = []

    def look(
        side: Literal["left", "right"],
        far: int,
        things: list[str],
        *,
        image_size: int,
        mode: Literal["a", "b"] = "a",
        fast: bool = False,
    ) -> None:
        """Look at things.

        Args:
            side: Where.
            far: In m.
            things: What to look at.
            image_size: In px.
            mode: Of looking.
            fast: In a hurry.
        """
        seen.append((side, far, things, image_size, mode, fast))

    added("look", Command(look))
    assert main(["look", "left", "7", "x", "y", "--image-size", "3"]) == 0
    assert main(["look", "--fast", "--mode=b", "--image_size=5", "right", "11", "x"]) == 0
    assert seen == [("left", 7, ["x", "y"], 3, "a", False), ("right", 11, ["x"], 5, "b", True)]
    for wrong in (
        "left 7 --image-size 3",
        "left 7 x",
        "left far x --image-size 3",
        "up 7 x --image-size 3",
        "left 7 x --image-size 3 --mode c",
    ):
        with pytest.raises(SystemExit) as stop:
            main(["look", *wrong.split()])
        assert stop.value.code == 2
    capsys.readouterr()
    for words, expected in ((["--help"], "look Look at things."), (["look", "--help"], "--fast In a hurry.")):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0
        assert expected in " ".join(capsys.readouterr().out.split())


def test_a_command_may_take_a_dataclass_any_number_of_words_and_more_options(added, capsys):
    seen = []

    def greet(options: Greeting, *people: int, loud: bool = False, **others: int):
        """Unseen: the options say it.

        Args:
            people: Whom, by number.
            loud: Or not.
        """
        seen.append((options, people, loud, others["times"]))

    def times(parser, words):
        assert "greet" not in words
        parser.add_argument("--times", type=int, default=1, help="How often.")

    added("greet", Command(greet, add_options=times))
    assert COMMANDS["greet"].help == "Greet people."
    assert main(["greet", "--word", "hi"]) == 0
    assert main(["greet", "13", "17", "--word=hi", "--at-noon", "--loud", "--times=3", "--layers=[1,2]"]) == 0
    assert seen == [(Greeting("hi"), (), False, 1), (Greeting("hi", True, [1, 2]), (13, 17), True, 3)]
    assert main(["greet", "--word", "boo"]) == 2
    assert capsys.readouterr().err == "gta greet: --word boo cannot be used: write hello.\n"


def test_ctrl_c_says_how_to_go_on_where_the_command_knows(added, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    added("stop", Command(lambda: stop()))
    assert main(["stop"]) == 130
    assert capsys.readouterr().err == "\ngta stop: stopped.\n"
    monkeypatch.setattr("gta.studies.run.run_study", stop)
    assert main(["compare", "--data", "x", "--out", "y"]) == 130
    assert capsys.readouterr().err == "\ngta compare: stopped.\nGive the same command again to go on.\n"


def test_a_reader_that_leaves_is_no_failure():
    code = (
        "import sys\nfrom gta.cli.parser import COMMANDS, Command, main\n"
        "COMMANDS.add('talk', Command(lambda: print('word ' * 100_000)))\nsys.exit(main(['talk']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0


def test_resume_takes_the_runs_own_options_first(tmp_path):
    run, other = tmp_path / "run[1]", tmp_path / "other.yaml"  # no pattern
    run.mkdir()
    (run / "config.yaml").write_text("data: cub:x\nlr: 0.5\nepochs: 3\nreuse: true\nsettings: {lora: {rank: 4}}\n")
    other.write_text("epochs: 4\n")

    def read(*words: str) -> tuple:
        command, given = parse(["train", *words])
        bound = command.bind(given).arguments
        options = bound["options"]
        assert (options.data, options.out, options.reuse, bound["resume"]) == ("cub:x", str(run), True, True)
        assert options.settings == {"lora": {"rank": 4}}
        return options.lr, options.epochs

    out = f"--out={run}"
    assert read("--out", str(run), "--resume") == (0.5, 3)
    assert read("--resume", out) == (0.5, 3)
    assert read("--lr", "7", "--resume", out) == (7, 3)
    assert read("--config", str(other), out, "--resume") == (0.5, 4)
    assert read("--resume", "--config", str(other), out, "--epochs", "5") == (0.5, 5)
    for words in ([out], ["--resume", "--out"]):
        with pytest.raises(SystemExit):
            parse(["train", *words])
    with pytest.raises(gta.GtaError, match="holds no run"):
        parse(["train", "--resume", f"--out={tmp_path}"])


def test_public_api():
    assert gta.guide.__module__ == "gta.guided"
    assert set(gta.__all__) <= set(dir(gta))
    with pytest.raises(AttributeError, match="nothing"):
        _ = gta.nothing
