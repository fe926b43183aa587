"""The command line itself."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, fields

import pytest
import yaml

import gta
from gta.cli import main
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
    for command in ("train", "evaluate", "predict", "source", "world", "demo"):
        assert command in done.stdout


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
        ["train", "--data", "x", "--out", "y", "--method", "magic"],
        ["nonsense"],
    ],
)
def test_wrong_words_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "error" in capsys.readouterr().err


def test_unknown_keys_in_a_config_are_refused(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("data: x\nout: y\nlearning_rate: 1\n")
    with pytest.raises(SystemExit):
        main(["train", "--config", str(tmp_path / "c.yaml")])
    assert "learning_rate" in capsys.readouterr().err


def test_options_survive_the_config(tmp_path):
    options = TrainOptions(data=str(tmp_path), out=str(tmp_path / "o"), source="timm:x", layers="0,-1", lr=3e-5)
    assert options.layers == [0, -1]
    assert TrainOptions(**yaml.safe_load(config_text(options)), out=options.out) == options
    assert asdict(options)["lr"] == 3e-5


def test_public_api():
    assert gta.guide.__module__ == "gta.guidance"
    assert set(gta.__all__) <= set(dir(gta))
    with pytest.raises(AttributeError, match="nothing"):
        _ = gta.nothing
