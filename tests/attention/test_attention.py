"""Attention as segmentation and localisation, by hand and against DINO's own loop; and the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import gta
from gta.attention import plots as draw
from gta.attention.localisation import correct_localisation, entropy, pointing_game, tight_boxes
from gta.attention.metrics import jaccard, object_mass, patch_attention
from gta.attention.segmentation import PROTOCOLS, object_jaccard, object_masks
from gta.cli import main
from gta.data.images import open_objects
from gta.data.reading import read_photos
from gta.data.sample import Sample
from gta.data.transforms import ObjectViews
from gta.sources.info import source_info
from gta.training.evaluate import measure
from gta.training.run_folder import save_weights
from gta.vit.foreground import largest_part
from tests.attention.test_metrics import dino_overlap
from tests.conftest import TINY, reference_rows, tiny_vit

DINO, MERGED, WIDE, FOREGROUND = (PROTOCOLS[name] for name in ("dino", "merged", "wide", "foreground"))

# 2×2 patches of 2×2 px. Top 60 % of head 0: patches 0 and 1 (0.5 + 0.3); of head 1: patch 3 (0.7).
HEADS = torch.tensor([[[0.5, 0.3, 0.15, 0.05], [0.1, 0.1, 0.1, 0.7]]])


def scene(*rows: str) -> torch.Tensor:
    """Objects drawn with digits, (1, height, width)."""
    return torch.tensor([[[int(c) for c in row] for row in rows]])


def test_every_object_has_its_best_head_and_the_mean_is_over_objects():
    two = scene("1111", "1111", "0022", "0022")
    assert object_jaccard(HEADS, two, (2, 2), DINO).item() == 1.0  # head 0 for the first, head 1 for the second
    # The first object: head 0 covers 8 px, 4 of them on it, union 8; head 1 none. The second: head 1 whole.
    half = scene("1100", "1100", "0033", "0033")
    assert object_jaccard(HEADS, half, (2, 2), DINO).item() == pytest.approx((4 / 8 + 1) / 2)


def test_all_objects_as_one_foreground():
    # Head 0: 8 px, 4 on the 8 px of the two objects, union 12; head 1: 4 px, 4 on them, union 8.
    half = scene("1100", "1100", "0033", "0033")
    assert object_jaccard(HEADS, half, (2, 2), FOREGROUND).item() == pytest.approx(4 / 8)


def test_heads_merged_before_the_threshold():
    # Mean: 0.3, 0.2, 0.125, 0.375: the top 60 % are patches 3 and 0 (0.375 + 0.3).
    assert object_jaccard(HEADS, scene("1100", "1100", "0011", "0011"), (2, 2), MERGED).item() == 1.0
    assert object_jaccard(HEADS, scene("1111", "1111", "0000", "0000"), (2, 2), MERGED).item() == pytest.approx(4 / 12)


def test_a_wider_mass_keeps_more_patches():
    # Top 90 %: 0.05 is left out of head 0 and only 0.1 of head 1 (0.1 is not more than 1 − 0.9, twice 0.1 is).
    kept_by_head_0 = scene("1111", "1111", "1100", "1100")
    assert object_jaccard(HEADS, kept_by_head_0, (2, 2), WIDE).item() == 1.0
    assert (WIDE.mass, WIDE.image_size) == (0.9, 512)


def test_images_without_an_object_count_for_nothing():
    both = torch.cat([scene("1111", "1111", "0000", "0000"), torch.zeros(1, 4, 4, dtype=torch.int64)])
    scores = object_jaccard(HEADS.expand(2, -1, -1), both, (2, 2), DINO)
    assert scores[0] == 1.0
    assert scores[1].isnan()
    assert pointing_game(HEADS.expand(2, -1, -1), both, (2, 2))[1].isnan()
    assert correct_localisation(HEADS.expand(2, -1, -1), both, (2, 2))[1].isnan()


@pytest.mark.parametrize("mass", [0.6, 0.9])
def test_dinos_loop_over_objects(mass):
    """The published evaluation written out in numpy: per object the best head, mean over objects, then images."""
    rng = np.random.default_rng(0)
    attention, objects = rng.random((3, 5, 12)) ** 4, rng.integers(0, 4, (3, 12, 16))
    expected = [
        np.mean([max(dino_overlap(head, numbers == n, mass) for head in image) for n in np.unique(numbers)[1:]])
        for image, numbers in zip(attention, objects, strict=True)
    ]
    ours = object_jaccard(torch.tensor(attention), torch.tensor(objects), (3, 4), replace(DINO, mass=mass))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6)


def test_one_object_is_what_training_reports():
    attention = torch.rand(4, 3, 25) ** 3
    objects = (torch.rand(4, 40, 40) > 0.7).long()
    torch.testing.assert_close(
        object_jaccard(attention, objects, (5, 5), DINO), jaccard(attention, objects.float(), (5, 5))
    )


def test_the_pointing_game_by_hand():
    # The mean's largest patch is 3: its centre is (30, 30) of 40×40 px.
    objects = torch.zeros(1, 40, 40, dtype=torch.int64)
    objects[0, 29, 18] = 1  # its centre (29.5, 18.5) is 11.51 px away
    assert pointing_game(HEADS, objects, (2, 2)).item() == 1.0
    assert pointing_game(HEADS, objects, (2, 2), tolerance=11.0).item() == 0.0
    objects[0, 29, 29] = 2  # any object counts
    assert pointing_game(HEADS, objects, (2, 2), tolerance=1.0).item() == 1.0


def test_parts_and_boxes_by_hand():
    mask = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 0]]).bool()  # corners do not connect
    part = largest_part(mask)
    assert part.long().tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]]
    assert tight_boxes(torch.stack([part, mask])).tolist() == [[1, 1, 3, 3], [0, 0, 4, 3]]  # edges, not pixels
    # of two as large the one that begins further up, then further left
    assert largest_part(torch.tensor([[1, 0], [0, 1]]).bool()).long().tolist() == [[1, 0], [0, 0]]
    upper = torch.tensor([[0, 0, 0, 1], [1, 1, 0, 1]]).bool()
    assert largest_part(upper).long().tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert not largest_part(torch.zeros(2, 3, dtype=torch.bool)).any()
    assert object_masks(scene("0330", "0050")[0]).long().tolist() == [[[0, 1, 1, 0], [0] * 4], [[0] * 4, [0, 0, 1, 0]]]


def test_correct_localisation_by_hand():
    # 3×3 patches of 10 px; the mean keeps patches 0, 1, 3 and the lone 8: the box is that of the first two rows.
    attention = torch.tensor([[[0.2, 0.2, 0.05, 0.2, 0.05, 0.02, 0.03, 0.05, 0.2]]])
    objects = torch.zeros(1, 30, 30, dtype=torch.int64)
    objects[0, 0:20, 0:20] = 1
    assert correct_localisation(attention, objects, (3, 3), mass=0.75).item() == 1.0
    objects[0, 0:20, 0:20] = 0
    objects[0, 0:10, 0:20] = 1  # half the box: exactly 0.5
    assert correct_localisation(attention, objects, (3, 3), mass=0.75).item() == 1.0
    assert correct_localisation(attention, objects, (3, 3), mass=0.75, overlap=0.51).item() == 0.0
    objects[0, 20:30, 20:30] = 2  # one of the objects is enough; what is not connected does not count
    assert correct_localisation(attention, objects, (3, 3), mass=0.75).item() == 1.0
    assert correct_localisation(attention, objects * (objects == 2), (3, 3), mass=0.75).item() == 0.0


def test_entropy_by_hand():
    assert entropy(torch.full((1, 2, 4), 0.2)).item() == pytest.approx(1.0)  # the prefix has the rest
    one = torch.tensor([[[0.0, 0.7, 0.0, 0.0], [0.25, 0.25, 0.0, 0.0]]])
    assert entropy(one).item() == pytest.approx((0 + math.log(2) / math.log(4)) / 2)


def test_objects_of_a_palette_are_told_apart(tmp_path):
    numbers = np.zeros((9, 9), dtype=np.uint8)
    numbers[1:3, 1:3], numbers[5:8, 5:8], numbers[4, :] = 1, 2, 255  # Pascal VOC: 255 is the border
    image = Image.fromarray(numbers, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 747)
    image.save(tmp_path / "voc.png")
    read = np.asarray(open_objects(tmp_path / "voc.png"))
    assert (read == np.where(numbers == 255, 0, numbers)).all()
    Image.fromarray((numbers > 0).astype(np.uint8) * 255).save(tmp_path / "grey.png")
    assert set(np.asarray(open_objects(tmp_path / "grey.png")).ravel()) == {0, 1}
    Image.new("RGB", (9, 9)).save(tmp_path / "image.png")
    views = ObjectViews([Sample(tmp_path / "image.png", "x", 0, tmp_path / "voc.png")], 9, (0.0,) * 3, (1.0,) * 3)
    assert views[0][1].tolist() == read.tolist()


def last_rows(images: torch.Tensor) -> torch.Tensor:
    """Softmax of the textbook's rows of all tokens; `reference_rows` drops the prefix, so it is told there is none."""
    model = tiny_vit(num_classes=0).eval()
    model.num_prefix_tokens = 0
    hooked = reference_rows(model, images)
    return hooked[-1].float()


def test_the_command_measures(photos, source_file, capsys):
    assert main(["attention", str(source_file), "--data", str(photos), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["objects"], found["image_size"], found["protocol"]) == (9, 9, 40, "dino")
    info = gta.load_source(source_file).info
    views = ObjectViews(read_photos(photos).test, 40, info.mean, info.std)
    images, objects = map(torch.stack, zip(*(views[i] for i in range(9)), strict=True))
    attention = patch_attention(last_rows(images), 1)
    for name, values in (
        ("object_mass", object_mass(attention, objects.float(), (5, 5))),
        ("jaccard", object_jaccard(attention, objects, (5, 5), DINO)),
        ("entropy", entropy(attention)),
        ("pointing_game", pointing_game(attention, objects, (5, 5))),
        ("corloc", correct_localisation(attention, objects, (5, 5))),
    ):
        assert found[name] == pytest.approx(values.mean().item(), rel=1e-4), name


def test_a_run_is_measured_with_its_own_weights_as_training_reports_it(photos, source_file, tmp_path, capsys):
    about = {"architecture": "vit_tiny_patch16_224", "model_args": {**TINY, "img_size": 40, "num_classes": 3}}
    about |= {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225", "classes": ["a", "b", "c"]}
    tuned, source = tiny_vit(seed=4, num_classes=3), gta.load_source(source_file)
    (tmp_path / "run").mkdir()
    save_weights(tmp_path / "run", tuned, about)
    reported = measure(tuned.eval(), source, source.info, read_photos(photos).test)
    for spec, prefix in ((tmp_path / "run", ""), (source_file, "source_")):
        assert main(["attention", str(spec), "--data", str(photos), "--json", "--frame", "square"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["jaccard"] == pytest.approx(reported[f"{prefix}jaccard"], rel=1e-4)
        assert found["object_mass"] == pytest.approx(reported[f"{prefix}object_mass"], rel=1e-4)
    assert reported["object_mass"] != pytest.approx(reported["source_object_mass"], rel=1e-4)


def test_whole_images_are_measured_and_the_central_square_on_request(make_photos, source_file, capsys):
    """The object lies at the left edge of wide images: the published protocols, which crop nothing, see it."""
    root = make_photos(splits={"train": 2, "test": 2})
    for image in (root / "test").rglob("*.jpg"):
        wide = Image.open(image).resize((90, 30))
        wide.save(image)
        mask = np.zeros((30, 90), dtype=np.uint8)
        mask[:, :20] = 255
        Image.fromarray(mask).save((root / "masks" / image.relative_to(root)).with_suffix(".png"))
    assert main(["attention", str(source_file), "--data", str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["frame"], found["images"]) == ("whole", 6)
    views = ObjectViews(read_photos(root).test, 45, (0.0,) * 3, (1.0,) * 3)
    assert (views[0][1] == (torch.arange(45) < 10).long()).all()
    pixels = np.asarray(Image.open(read_photos(root).test[0].path).convert("RGB").resize((45, 45), 3)) / 255
    np.testing.assert_allclose(views[0][0].permute(1, 2, 0).numpy(), pixels, atol=1e-6)
    assert main(["attention", str(source_file), "--data", str(root), "--frame", "square"]) == 2
    assert "no mask shows an object in the frame (square)" in capsys.readouterr().err


@pytest.fixture
def small_wide():
    PROTOCOLS.add("wide", replace(WIDE, image_size=51))
    yield
    PROTOCOLS.add("wide", WIDE)


@pytest.mark.usefixtures("small_wide")
def test_a_protocols_size_becomes_the_nearest_one_the_patches_divide(photos, source_file, capsys):
    for more, size in (([], 48), (["--image-size", "64"], 64)):  # 8 px patches
        assert main(["attention", str(source_file), "--data", str(photos), "--json", "--protocol", "wide", *more]) == 0
        assert json.loads(capsys.readouterr().out)["image_size"] == size


def test_the_command_draws_heads_and_their_mean(photos, source_file, tmp_path, capsys):
    files = [str(photos / f"test/class {c}/000.jpg") for c in (0, 1)]
    assert main(["attention", str(source_file), *files, "--out", str(tmp_path / "maps/a.png")]) == 0
    assert "2 images, 2 heads and their mean" in capsys.readouterr().out
    with Image.open(tmp_path / "maps/a.png") as sheet:
        assert sheet.width > sheet.height  # photograph, mean and two heads beside each other


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give either --data"),
        (["a.jpg", "--data", "x"], "give either --data"),
        (["a.jpg"], "--out is missing"),
        (["nowhere.jpg", "--out", "x.png"], "nowhere.jpg: no such file"),
    ],
)
def test_what_the_command_refuses(source_file, capsys, words, told):
    assert main(["attention", str(source_file), *words]) == 2
    assert told in capsys.readouterr().err


def test_data_without_masks_is_refused(make_photos, source_file, capsys):
    root = make_photos(splits={"train": 3, "test": 2}, masks=False)
    assert main(["attention", str(source_file), "--data", str(root)]) == 2
    assert "none of the images has a mask" in capsys.readouterr().err


def test_pictures_say_green_what_was_recognised_and_red_what_it_was_taken_for(
    photos, source_file, tmp_path, monkeypatch
):
    source = gta.load_source(source_file, image_size=40)
    data = read_photos(photos)
    model = gta.new_target(source, len(data.classes))
    with torch.no_grad():  # whatever it sees
        model.head.weight.zero_()
        model.head.bias.copy_(torch.eye(len(data.classes))[1])
    sheets = []
    monkeypatch.setattr(draw, "_sheet", lambda groups, path, **_: (path.touch(), sheets.append(groups)))
    draw.draw_maps(source, {"tuned": model}, source_info(source), data.test, data.classes, tmp_path / "maps.png")
    (groups,) = sheets
    told = {(panels[0].title, panels[2].title, panels[2].line, panels[2].colour) for panels in groups}
    always = data.classes[1]
    assert told == {
        (name, "tuned", "✓ recognised", draw.GREEN) if name == always else (name, "tuned", f"✗ {always}", draw.RED)
        for name in data.classes
    }
