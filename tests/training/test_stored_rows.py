"""Stored source rows: complete or absent, never of another image, and the training they give."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import v2

import gta.acceleration.row_store as reuse_file
from gta.acceleration.attention import QuickAttention
from gta.acceleration.row_store import RowStore, check_replay
from gta.cli import main
from gta.data.reading import read_photos
from gta.data.transforms import TrainViews, normalised, view_seed
from gta.errors import GtaError
from gta.methods.compose import ComposedMethod, make_methods
from gta.methods.gta import GTA
from gta.sources.info import source_info
from gta.sources.loading import load_source, new_target
from gta.training.options import TrainOptions
from gta.training.stored_rows import rows_to_store, stored_rows
from tests.conftest import reference_rows, tiny_vit, write_photos

SHAPE = (3, 2, 5)


def rows_of(pairs: list[tuple[str, int]]) -> torch.Tensor:
    return torch.stack([torch.arange(30.0).view(SHAPE) + int(sha, 16) * 100 + view for sha, view in pairs])


def filled(root: Path, pairs: list[tuple[str, int]], **key: object) -> RowStore:
    store = RowStore(root, key, SHAPE)
    with store.filling():
        store.add(pairs, rows_of(pairs).split(2))
    return store


# --- the store ------------------------------------------------------------------------------------------------

PAIRS = [("1", 0), ("1", 1), ("2", 0), ("a", 3), ("2", 1)]


def test_what_is_stored_is_read_by_another(tmp_path):
    filled(tmp_path, PAIRS, source="x")
    other = RowStore(tmp_path, {"source": "x"}, SHAPE)
    assert other.missing([*PAIRS, ("a", 0), ("3", 0), ("3", 0)]) == [("a", 0), ("3", 0)]
    for pair in PAIRS:
        assert other.read(pair).dtype == torch.float16
        assert torch.equal(other.read(pair).float(), rows_of([pair])[0])


def test_another_key_or_shape_is_a_miss(tmp_path):
    filled(tmp_path, PAIRS, source="x", layers=[0, 1, 2])
    for key, shape in (
        ({"source": "y", "layers": [0, 1, 2]}, SHAPE),
        ({"source": "x", "layers": [0, 2]}, SHAPE),
        ({"source": "x", "layers": [0, 1, 2]}, (3, 2, 6)),
    ):
        assert RowStore(tmp_path, key, shape).missing(PAIRS) == PAIRS


def test_what_is_missing_is_added_beside_what_is_there(tmp_path):
    store = filled(tmp_path, PAIRS)
    more = [("7", 0), ("7", 1)]
    with store.filling():
        store.add(more, [rows_of(more)])
    assert store.missing([*PAIRS, *more]) == []
    for pair in (*PAIRS, *more):
        assert torch.equal(store.read(pair).float(), rows_of([pair])[0])


def test_a_stop_in_the_middle_leaves_nothing(tmp_path):
    store = RowStore(tmp_path, {}, SHAPE)

    def stopped():
        yield rows_of(PAIRS[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), store.filling():
        store.add(PAIRS, stopped())
    assert {p.name for p in store.folder.iterdir()} <= {"key.json", "lock"}
    assert RowStore(tmp_path, {}, SHAPE).missing(PAIRS) == PAIRS


def test_what_a_killed_process_left_is_not_read_and_is_removed(tmp_path):
    store = filled(tmp_path / "whole", PAIRS)
    (shard,) = (p.parent for p in store.folder.glob("*/pairs.json"))
    torn = RowStore(tmp_path / "torn", {}, SHAPE)
    left = torn.folder / f".{shard.name}.new"
    shutil.copytree(shard, left)
    with (left / "rows.npy").open("r+b") as file:
        file.truncate(200)
    assert torn.missing(PAIRS) == PAIRS
    with torn.filling():
        assert not left.exists()


def test_a_disk_that_cannot_hold_it_is_refused_with_the_size(tmp_path, monkeypatch):
    store = RowStore(tmp_path, {}, SHAPE)
    assert store.bytes_for(1000) == 1000 * (2 * 30 + 4)
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(reuse_file.shutil, "disk_usage", lambda _: usage(100_000, 40_000, 60_000))
    with pytest.raises(GtaError, match=r"1000 views take 64 kB.* has 60 kB left.*--views"):
        store.check_room(1000)
    store.check_room(900)


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(tmp_path, monkeypatch):
    store = RowStore(tmp_path, {}, SHAPE)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gta.files.os.fsync", full)
    with pytest.raises(GtaError, match="No space left"), store.filling():
        store.add(PAIRS, [rows_of(PAIRS)])
    assert {p.name for p in store.folder.iterdir()} <= {"key.json", "lock"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.full((5, *SHAPE), 7e4), "half precision"),
        (torch.full((5, *SHAPE), torch.nan), "half precision"),
        (torch.zeros(4, *SHAPE), "4 rows were given for 5"),
        (torch.zeros(6, *SHAPE), "do not fit"),
        (torch.zeros(5, 3, 2, 6), "do not fit"),
    ],
)
def test_rows_that_cannot_be_stored_are_refused(tmp_path, rows, words):
    store = RowStore(tmp_path, {}, SHAPE)
    with pytest.raises(GtaError, match=words), store.filling():
        store.add(PAIRS, [rows])
    assert store.missing(PAIRS) == PAIRS


def test_a_flipped_bit_is_found_on_reading(tmp_path):
    store = filled(tmp_path, PAIRS)
    (path,) = store.folder.glob("*/rows.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again = RowStore(tmp_path, {}, SHAPE)
    assert not again.missing(PAIRS)
    again.read(PAIRS[0])
    with pytest.raises(GtaError, match=r"not what was written.*Delete the folder"):
        again.read(PAIRS[-1])


@pytest.mark.parametrize("name", ["rows.npy", "sums.npy", "pairs.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[[1]]", b"[1]", b"\x93NUMPY\x01\x00"])
def test_damaged_shards_are_named_with_the_way_out(tmp_path, name, content):
    store = RowStore(tmp_path, {}, SHAPE)
    with store.filling():
        store.add(PAIRS, [torch.zeros(len(PAIRS), *SHAPE)])
    (path,) = store.folder.glob(f"*/{name}")
    path.write_bytes(content)
    again = RowStore(tmp_path, {}, SHAPE)

    def use() -> None:
        assert not again.missing(PAIRS)
        again.read(PAIRS[0])

    with pytest.raises(GtaError, match=r"Delete the folder"):
        use()


def test_replayed_rows_may_differ_by_rounding_only():
    rows = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0)) * 20
    fresh = list(rows.unbind(1))
    check_replay(rows.half(), fresh)
    wrong = rows.clone()
    wrong[3, 1, 0, 2] += 0.5
    with pytest.raises(GtaError, match=r"differ by 0\.[45]"):
        check_replay(wrong.half(), fresh)
    with torch.autocast("cpu", torch.bfloat16):
        check_replay(wrong.half(), fresh)
        wrong[3, 1, 0, 2] += 5
        with pytest.raises(GtaError, match=r"differ by 5\.[45]"):
            check_replay(wrong.half(), fresh)


# --- training -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("reuse")
    save_file(tiny_vit(num_classes=0).state_dict(), root / "source.safetensors")
    return write_photos(root / "photos", {"train": 4, "val": 2, "test": 2}), root / "source.safetensors"


def words(world: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    method = () if "--method" in more else ("--method", "gta")
    return ["train", "--data", str(world[0]), "--source", str(world[1]), "--out", str(out), "--image-size", "40",
            "--epochs", "2", "--batch-size", "4", "--workers", "0", "--lr", "1e-3", *method, *more]  # fmt: skip


def penalties(out: Path) -> list[float]:
    with (out / "metrics.csv").open() as file:
        return [float(row["penalty"]) for row in csv.DictReader(file)]


def test_a_run_is_given_the_rows_of_the_pixels_it_sees(world, tmp_path):
    """Each item's rows are the textbook's of that item's own pixels."""
    store = ("--reuse-dir", str(tmp_path / "rows"))
    assert main(words(world, tmp_path / "run", "--reuse", *store, "--precision", "32")) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["views"] == 8
    source = load_source(world[1], 40)
    info = source_info(source)
    photos = read_photos(world[0])
    key = json.loads(next((tmp_path / "rows").glob("*/key.json")).read_text())
    shape = key.pop("shape")
    views = TrainViews(photos.train, 40, seed=5, views=8)
    views.store = RowStore(tmp_path / "rows", key, shape)
    assert views.store.missing((s.sha256, v) for s in photos.train for v in (0, 1)) == []  # two epochs, two views
    for position in (0, 7, 12 + 3):
        image, label, rows = views[position]
        wanted = torch.cat(reference_rows(source, normalised(image[None], info.mean, info.std)))
        torch.testing.assert_close(rows.double(), wanted, rtol=1e-3, atol=1e-3)
        assert label == photos.train[position % 12].label
    assert not torch.equal(views[0][0], views[12][0])


def test_runs_of_other_views_see_other_pixels(world, tmp_path):
    """And none of a seed's views is one of another's."""
    samples = read_photos(world[0]).train

    def seen(views_seed: int) -> list[bytes]:
        views = TrainViews(samples, 40, seed=0, views=2, views_seed=views_seed)
        return [views[epoch * len(samples)][0].numpy().tobytes() for epoch in range(4)]

    first, second = seen(0), seen(1)
    assert first[:2] == first[2:]
    assert len({*first, *second}) == 4
    for options, number in ((("--views-seed", "3"), 3), (("--views-seed", "null", "--seed", "4"), 4)):
        out, store = tmp_path / str(number), ("--reuse", "--reuse-dir", str(tmp_path / "rows"))
        assert main(words(world, out, *store, "--epochs", "1", *options)) == 0
        assert json.loads((out / "results.json").read_text())["views_seed"] == number


def test_training_goes_as_it_does_online_on_the_same_views(world, tmp_path, monkeypatch):
    """λ = 0.01 leaves the course nearly alone: what is added must be the same to half precision."""
    store = ("--reuse-dir", str(tmp_path / "rows"))
    assert main(words(world, tmp_path / "replayed", "--reuse", *store, "--weight", "0.01", "--precision", "32")) == 0
    monkeypatch.setattr(TrainViews, "__getitem__", _without_rows(TrainViews.__getitem__))
    assert main(words(world, tmp_path / "online", "--reuse", *store, "--weight", "0.01", "--precision", "32")) == 0
    replayed, online = penalties(tmp_path / "replayed"), penalties(tmp_path / "online")
    assert len(online) == 6
    assert online[1:] == pytest.approx(replayed[1:], rel=0.01)


def _without_rows(item):
    return lambda self, position: item(self, position)[:2]


def test_many_runs_pay_for_the_source_once(world, tmp_path, monkeypatch, capsys):
    """Seeds, weights, methods and loader processes do not matter; another layer, transform or file does."""
    photos = tmp_path / "photos"
    shutil.copytree(world[0], photos)
    computed: list[int] = []
    add = RowStore.add

    def counted(self, pairs, rows):
        computed.append(len(pairs))
        add(self, pairs, rows)

    monkeypatch.setattr(RowStore, "add", counted)
    runs = iter(range(99))

    def run(*more: str) -> list[int]:
        computed.clear()
        out = tmp_path / f"run{next(runs)}"
        arguments = ("--reuse", "--views", "2", "--reuse-dir", str(tmp_path / "rows"), *more)
        assert main(words((photos, world[1]), out, *arguments)) == 0
        return list(computed)

    assert run() == [24]
    assert "24 views" in capsys.readouterr().err
    assert run("--seed", "3", "--weight", "1", "--method", "gta+l2_sp") == []
    assert run("--workers", "1", "--weight", "auto") == []
    assert run("--method", "plain") == []  # sees the same views and needs no rows
    assert run("--layers", "last") == [24]
    assert run("--layers", "0") == [24]  # as many, but others
    assert run("--fraction", "0.5") == []  # images that are there already
    assert run("--views", "3", "--epochs", "3") == [12]
    assert run("--views-seed", "3") == [24]
    assert run("--views-seed", "null", "--seed", "3") == []  # the same views
    assert run("--views-seed", "null", "--seed", "4") == [24]
    changed = next((photos / "train").rglob("*.jpg"))
    Image.fromarray(np.asarray(Image.open(changed)) // 2).save(changed)
    assert run() == [2]


def test_another_version_or_source_is_a_miss(world, tmp_path, monkeypatch):
    arguments = ("--reuse", "--reuse-dir", str(tmp_path / "rows"))
    assert main(words(world, tmp_path / "a", *arguments)) == 0
    monkeypatch.setattr("gta.training.stored_rows.version", lambda package: "9.9")
    assert main(words(world, tmp_path / "b", *arguments)) == 0
    other = tmp_path / "other.safetensors"
    save_file(tiny_vit(seed=1, num_classes=0).state_dict(), other)
    assert main(words((world[0], other), tmp_path / "c", *arguments)) == 0
    assert len(list((tmp_path / "rows").iterdir())) == 3


AUGMENT, FLIP = v2.RandAugment, v2.RandomHorizontalFlip


@pytest.mark.parametrize(
    ("where", "other"),
    [
        ("gta.data.transforms.v2.RandAugment", lambda **_: AUGMENT(num_ops=2, magnitude=8)),
        ("gta.data.transforms.v2.RandomHorizontalFlip", lambda: FLIP(0.9)),
        ("gta.data.transforms.reduced", lambda image, size: image),
        ("gta.data.transforms.view_seed", lambda sha, view: view),
    ],
)
def test_views_made_in_another_way_are_a_miss(world, tmp_path, monkeypatch, where, other):
    """Also where neither the version nor the transform's description tells it."""
    before = TrainViews(read_photos(world[0]).train, 40, seed=0, views=2).fingerprint()
    assert before == TrainViews((), 40, seed=1, views=3).fingerprint()
    monkeypatch.setattr(where, other)
    assert before != TrainViews((), 40, seed=0, views=2).fingerprint()


def test_the_key_names_all_that_rows_depend_on(world, tmp_path):
    """Each of these alone makes another store."""
    options = TrainOptions(data=str(world[0]), source=str(world[1]), out="", method="gta", reuse=True, epochs=1,
                           image_size=40, reuse_dir=str(tmp_path / "rows"))  # fmt: skip
    photos = read_photos(world[0])

    def stores(options: TrainOptions = options, mean: float = 0.5, fingerprint: str = "") -> int:
        source = load_source(world[1], options.image_size)
        info = replace(source_info(source), mean=(mean,) * 3)
        views = TrainViews(photos.train, options.image_size, seed=0, views=8)
        if fingerprint:
            views.fingerprint = lambda: fingerprint
        parts = make_methods(options)
        method = ComposedMethod(new_target(source, 3), source, parts)
        stored_rows(options, parts, photos, info, views, method, 0)
        return len(list((tmp_path / "rows").iterdir()))

    assert stores() == 1
    assert stores() == 1
    assert stores(mean=0.4) == 2
    assert stores(fingerprint="other") == 3
    assert stores(replace(options, layers=[0])) == 4
    assert stores(replace(options, layers=[1])) == 5  # as many rows, but others
    assert stores(replace(options, image_size=48)) == 6
    with torch.autocast("cpu", torch.bfloat16):
        assert stores() == 7
    assert stores(replace(options, lr=1.0, weight=3.0, seed=9, views=1)) == 7


@pytest.mark.parametrize("low", [False, True])
def test_stored_rows_are_the_target_s_own_at_the_start(world, low):
    """Rows of another rounding would pull before anything is learnt (in DINOv2, bf16: as hard as the loss)."""
    source = load_source(world[1], 40)
    torch.manual_seed(1)
    images, labels = torch.randn(4, 3, 40, 40), torch.tensor([0, 1, 2, 0])
    part = GTA(weight=1.0)
    composed = ComposedMethod(new_target(source, 3).train(), source, [part], attention=QuickAttention())
    composed.begin_step(0, 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        own = {"gta": rows_to_store(part, source, images, composed.attention)}
        assert composed(images, labels, own).penalty.item() == 0
        with torch.autocast("cpu", enabled=False):
            exact = {"gta": rows_to_store(part, source, images)}
        assert (composed(images, labels, exact).penalty.item() > 0) == low


@pytest.mark.parametrize(("precision", "autocast"), [("32", None), ("bf16", "torch.bfloat16")])
def test_a_run_stores_rows_in_its_own_precision(world, tmp_path, precision, autocast):
    store = ("--reuse", "--reuse-dir", str(tmp_path / "rows"), "--precision", precision, "--layers", "0")
    assert main(words(world, tmp_path / "run", *store, "--epochs", "1")) == 0
    assert json.loads(next((tmp_path / "rows").glob("*/key.json")).read_text())["autocast"] == autocast
    assert penalties(tmp_path / "run")[0] < 1e-5


def test_rows_of_other_pixels_stop_the_run(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gta.data.transforms.view_seed", lambda sha, view: view_seed(sha, view) + 1)
    assert main(words(world, tmp_path / "run", "--reuse", "--reuse-dir", str(tmp_path / "rows"))) == 2
    assert "not the source's of these images" in capsys.readouterr().err


def test_a_killed_filling_leaves_no_half_store(world, tmp_path):
    """Killed while it computes; the next run computes everything and says so."""
    slow = (
        "import time, sys, gta.training.stored_rows as s\n"
        "rows = s.rows_to_store\n"
        "s.rows_to_store = lambda *given: (time.sleep(0.5), rows(*given))[1]\n"
        "from gta.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    arguments = words(world, tmp_path / "run", "--reuse", "--reuse-dir", str(tmp_path / "rows"))
    process = subprocess.Popen([sys.executable, "-c", slow, *arguments], stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not list((tmp_path / "rows").glob("*/.*.new/rows.npy")):
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "rows").glob("*/*/pairs.json"))
    assert not (tmp_path / "run").exists()
    assert main(arguments) == 0
    assert len(list((tmp_path / "rows").glob("*/[!.]*/pairs.json"))) == 1
    assert not list((tmp_path / "rows").glob("*/.*.new"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--method", "gta+cutmix"), "with cutmix: pixels are mixed across images"),
        (("--method", "transmix"), "with transmix: pixels are mixed"),
        (("--guide", "msa"), "--guide msa needs more"),
        (("--rows", "all"), "--rows all needs more"),
        (("--views", "0"), "--views 0"),
    ],
)
def test_what_cannot_be_replayed_is_refused(world, tmp_path, capsys, more, message):
    assert main(words(world, tmp_path / "run", "--reuse", "--reuse-dir", str(tmp_path / "rows"), *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "rows").exists()


def test_a_comparison_shares_the_rows(world, tmp_path):
    (tmp_path / "grid.yaml").write_text("lr: [1e-3]\nmethods:\n  plain: {}\n  gta: {}\n  mixed: {method: cutmix}\n")
    arguments = ["compare", "--data", str(world[0]), "--source", str(world[1]), "--out", str(tmp_path / "out"),
                 "--seeds", "2", "--image-size", "40", "--epochs", "1", "--batch-size", "4",
                 "--grid", str(tmp_path / "grid.yaml"), "--reuse", "--reuse-dir", str(tmp_path / "rows")]  # fmt: skip
    assert main([*arguments, "--methods", "plain,mixed"]) == 2  # before anything is run
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--methods", "plain,gta"]) == 0
    (pairs,) = (tmp_path / "rows").glob("*/*/pairs.json")
    assert len(json.loads(pairs.read_text())) == 12  # one epoch sees one view
