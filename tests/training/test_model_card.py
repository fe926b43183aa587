"""What a run says of its model."""

import pytest

from gta.training.model_card import model_card, source_licence, wilson


def test_the_card_has_counts_digests_and_intervals_and_no_path(finished):
    card, results = (finished.folder / "README.md").read_text(), finished.results
    assert card == model_card(finished.options, results)
    for split, images, key in (("train", 18, "data_digest"), ("val", 12, "val_digest"), ("test", 15, "test_digest")):
        assert f"| {split} | {images} | `{results[key]}` |\n" in card
    _, low, high = wilson(results["test_top1"], 15)
    assert f"{results['test_top1']:.1f} [{low:.1f}, {high:.1f}] |\n" in card
    assert "- `plain`: " in card
    assert "`source.safetensors`; licence\nof its weights: not said" in card
    assert "test has 15 images only" in card
    assert f"temperature of\n{results['temperature']:.3g}," in card
    assert str(finished.folder.parent) not in card
    assert "\n\n\n" not in card
    assert 'gta.Run.load("this-folder")' in card
    assert "local-dir" not in card


def test_the_card_says_what_was_not_measured(finished):
    nothing = {f"{split}_{key}": None for split in ("val", "test") for key in
               ("top1", "balanced_accuracy", "macro_f1", "ece_before", "ece_after", "digest")}  # fmt: skip
    results = {**finished.results, **nothing, "temperature": None, "val_images": 0, "test_images": 0}
    card = model_card(finished.options, {**results, "smallest_class": 2, "largest_class": 90})
    assert "None: the data has neither validation nor test images." in card
    assert "very different size" in card
    assert "temperature of" not in card


def test_wilson_by_hand():
    """8 of 10: (p + z²/2n ± z·sqrt(p(1 − p)/n + z²/4n²)) / (1 + z²/n), z = 1.96 (Wilson 1927)."""
    assert wilson(80, 10) == pytest.approx((80, 49.02, 94.33), abs=0.01)
    assert wilson(100, 5)[2] == pytest.approx(100)


def test_licences():
    assert source_licence("gta:butterflies") == "apache-2.0"
    assert source_licence("timm:vit_base_patch16_224.mae") == "cc-by-nc-4.0"
    assert source_licence("somewhere/model.pth") is None
