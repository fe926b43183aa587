"""When the checkpoint is written."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gta.training import recorder as recorder_file
from gta.training.recorder import Recorder


@pytest.mark.parametrize(
    ("seconds", "written"), [([0, 1, 2, 3], [0, 3]), ([0, 50, 61, 100, 130, 140], [0, 2, 4, 5]), ([7], [0])]
)
def test_last_ckpt_is_written_first_last_and_once_a_minute(tmp_path, monkeypatch, seconds, written):
    settled, saved = [], []
    recorder = Recorder(SimpleNamespace(path=tmp_path, id="", settle=lambda: settled.append(list(saved))))
    for epoch, now in enumerate(seconds):
        monkeypatch.setattr(recorder_file.time, "perf_counter", lambda now=now: float(now))
        trainer = SimpleNamespace(
            current_epoch=epoch,
            max_epochs=len(seconds),
            is_global_zero=True,
            strategy=SimpleNamespace(broadcast=lambda due: due),
            save_checkpoint=lambda path, epoch=epoch: (saved.append(epoch), path.write_text(str(epoch))),
        )
        recorder._save(trainer)
        assert (tmp_path / "metrics.csv").is_file()
    assert saved == written
    assert settled == [written[: n + 1] for n in range(len(written))]  # each time after the checkpoint
    assert (tmp_path / "last.ckpt").read_text() == str(written[-1])
