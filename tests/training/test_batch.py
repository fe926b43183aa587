"""`--batch-size auto`: what is found, what is made of it, and that a resumed run goes on with it."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from gta.errors import GtaError
from gta.methods.compose import ComposedMethod, make_methods
from gta.sources.loading import load_source, new_target
from gta.training import batch
from gta.training.batch import Batch, fits, largest, most_sensible, scaled_rate
from gta.training.fit import train
from gta.training.options import TrainOptions
from gta.training.recorder import Recorder

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("room", "most", "found"), [(1000, 32, 32), (1000, 512, 512), (100, 512, 64), (5, 512, 4), (64, 64, 64)]
)
def test_the_largest_that_fits(room, most, found):
    tried = []

    def fit(size: int) -> bool:
        tried.append(size)
        return size <= room

    assert largest(most, fit) == found
    assert max(tried) <= max(most, 32)


def test_not_even_one():
    with pytest.raises(GtaError, match="smaller --image-size"):
        largest(512, lambda size: False)


def test_a_training_keeps_its_steps():
    assert most_sensible(images=360, epochs=15) == 32
    assert most_sensible(images=32 * 2 * 10, epochs=15) == 64
    assert most_sensible(images=32 * 2 * 10 - 1, epochs=15) == 32  # a last small batch is left out
    assert most_sensible(images=10**6, epochs=15) == 65536
    assert scaled_rate(1e-4, 128) == 2e-4


class Memory:
    """A GPU of so many images."""

    def __init__(self, monkeypatch, images: int) -> None:
        self.room, self.used, self.given_back = images, 0, 0
        cuda = {
            "mem_get_info": lambda device: (images, 2 * images), "reset_peak_memory_stats": lambda device: None,
            "memory_reserved": lambda device: 0, "max_memory_reserved": lambda device: self.used,
            "empty_cache": self.give_back,
        }  # fmt: skip
        for name, function in cuda.items():
            monkeypatch.setattr(torch.cuda, name, function)
        steps = batch._steps

        def tried(size, *rest):
            self.used = size
            if size > images:
                raise torch.OutOfMemoryError
            steps(min(size, 6), *rest)

        monkeypatch.setattr(batch, "_steps", tried)

    def give_back(self) -> None:
        self.given_back += 1


@pytest.mark.parametrize("method", ["gta", "co_tuning+bss", "lora+mixup+lp_ft"])
def test_steps_are_tried_on_a_copy(method, finished, monkeypatch):
    """On the CPU, as on a GPU that holds 100 images: 64 fit, 96 of 100 would leave too little."""
    memory = Memory(monkeypatch, 100)
    options = TrainOptions(data="", out="", method=method, image_size=40)
    source = load_source(finished.folder / "model.safetensors", 40)  # has a classifier, which co_tuning needs
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}

    def compose(source):
        return ComposedMethod(new_target(source, 3), source, make_methods(options))

    found = [size for size in (64, 96, 128) if fits(size, options, source, compose, CPU)]
    assert found == [64]
    assert memory.given_back == 3
    assert all(torch.equal(before[name], tensor) for name, tensor in source.state_dict().items())


def test_on_a_gpu_the_rate_goes_with_the_batch(finished, monkeypatch):
    monkeypatch.setattr(batch, "default_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(batch, "fits", lambda size, *rest: size <= 300)
    options = TrainOptions(data="", out="", method="plain", batch_size="auto")
    limited = Batch.of(None, options, torch.nn.Linear(2, 2), None, images=10**5)
    assert (limited.batch_size, "do not fit the memory of this CUDA" in limited.reason) == (256, True)
    assert limited.applied(options).lr == pytest.approx(1e-4 * math.sqrt(8))
    short = Batch.of(None, replace(options, lr=1e-3), torch.nn.Linear(2, 2), None, images=1300)
    assert (short.batch_size, "fewer than 150 steps" in short.reason) == (128, True)
    assert "learning rate 0.001 · √(128 / 32) = 0.002" in short.reason
    with pytest.raises(GtaError, match="add --devices 1"):
        Batch.of(None, replace(options, devices=2), None, None, images=1)


def test_a_cpu_takes_32_or_what_its_memory_holds(finished, monkeypatch):
    options, source = TrainOptions(data="", out="", batch_size="auto"), load_source(finished.options.source, 40)
    assert Batch.of(None, options, source, None, images=10**5).batch_size == 32
    monkeypatch.setattr(batch, "free_memory", lambda: 2.3 * batch.step_bytes(source, 10))
    few = Batch.of(None, options, source, None, images=10**5)
    assert (few.batch_size, "this CPU" in few.reason) == (8, True)
    assert few.applied(options).lr == pytest.approx(5e-5)


def test_a_resumed_run_goes_on_with_what_was_found(finished, tmp_path, monkeypatch, capsys):
    """The memory that the second session has is another one."""
    data, source = str(finished.folder.parent / "photos"), finished.options.source
    options = TrainOptions(data=data, out=str(tmp_path / "whole"), source=source, image_size=40, epochs=2, lr=1e-3,
                           method="plain", batch_size="auto")  # fmt: skip
    monkeypatch.setattr(batch, "step_bytes", lambda source, size: batch.free_memory() * size / 10)
    results = train(options, test=False)
    assert (results["batch_size"], results["lr"]) == (4, pytest.approx(1e-3 * math.sqrt(4 / 32)))
    assert "batches of 4 images: more do not fit" in results["reasons"]
    assert results["reasons"] in capsys.readouterr().err
    ends = Recorder.on_train_epoch_end

    def stop(self, trainer, module):
        ends(self, trainer, module)
        raise KeyboardInterrupt

    stopped = replace(options, out=str(tmp_path / "stopped"))
    monkeypatch.setattr(Recorder, "on_train_epoch_end", stop)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, test=False)
    monkeypatch.undo()
    again = train(stopped, resume=True, test=False)
    assert [again[name] for name in ("batch_size", "lr", "reasons")] == [4, results["lr"], results["reasons"]]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert json.loads((tmp_path / "whole" / "batch.json").read_text())["batch_size"] == 4
    anew = train(options, overwrite=True, test=False)  # without what was found before
    assert anew["batch_size"] == 32


def test_a_study_takes_it(tmp_path):
    from gta.studies.plan import make_plan
    from gta.studies.study import Study

    plan = make_plan({"data": {"w": {"world": {}}}, "methods": {"plain": {}}, "grid": {}, "options": {
        "batch_size": "auto", "source": "gta:butterflies", "image_size": 96}})  # fmt: skip
    study = Study(plan, tmp_path)
    assert study.memory() > 1e9
    with pytest.raises(GtaError, match="--batch-size 0 cannot be used: write a number at least 1, or auto"):
        TrainOptions(data="", out="", batch_size=0)
    with pytest.raises(GtaError, match="--batch-size many cannot be used"):
        TrainOptions(data="", out="", batch_size="many")
