"""What each `gta COMMAND` does; where it is a function of plain arguments, signature and docstring are its options.

Heavy packages are imported inside, so that `gta --help` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace

from gta.benchmark.options import Bench
from gta.cli.console import cells, console, first_line, new_table, show
from gta.errors import GtaError
from gta.methods import METHODS
from gta.studies.comparison import Comparison
from gta.training.options import TrainOptions
from gta.worlds.options import WorldOptions

LISTED = 20  # pairs of duplicates printed


def evaluate(
    run: str,
    data: str | None = None,
    split: Literal["train", "val", "test"] = "test",
    as_json: bool = False,
) -> None:
    """Measure a trained run on a split: accuracy, attention, drift.

    Args:
        run: Run folder written by gta train.
        data: NAME:ROOT, a folder or a .csv file; by default the data the run was trained on.
        split: Which of its splits.
        as_json: Print JSON instead of a table.
    """
    from gta.training.predict import evaluate_run

    measures = evaluate_run(Path(run), data, split)
    show(measures, as_json, title=f"{run} on {split}")


def predict(run: str, images: list[str], as_json: bool = False) -> None:
    """Name the class of photographs.

    Args:
        run: Run folder written by gta train.
        images: Image files.
        as_json: Print JSON instead of a table.
    """
    from gta.training.predict import predict_images

    guesses = predict_images(Path(run), images)
    if as_json:
        print(json.dumps(guesses, ensure_ascii=False, indent=2))
        return
    table = new_table("image", "class", "probability")
    for guess in guesses:
        table.add_row(*cells(guess["image"], guess["class"], f"{guess['probability']:.3f}"))
    console().print(table)


def source(spec: str, image_size: int | None = None, heads: int | None = None, as_json: bool = False) -> None:
    """Say what a source is: its architecture and how its keys match.

    Args:
        spec: timm:NAME, hf:NAME, gta:butterflies, a checkpoint file as its authors publish it, or a folder of timm's
            or transformers'.
        image_size: Side of the images in px; by default the one it was trained at.
        heads: Attention heads, where they are not width / 64 and the file does not say.
        as_json: Print JSON instead of a table.
    """
    from gta.sources.info import digest, source_info
    from gta.sources.loading import load_source
    from gta.vit.attention_logits import anatomy

    model = load_source(spec, image_size, heads=heads)
    info = source_info(model)
    body = anatomy(model)
    found = {
        "spec": info.spec,
        "layout": info.layout,
        "architecture": info.architecture,
        **{f"  {k}": v for k, v in info.model_args.items()},
        "layers": body.depth,
        "heads": body.heads,
        "prefix_tokens": body.prefix_tokens,
        "patches": None if body.grid is None else f"{body.grid[0]}×{body.grid[1]}",
        "parameters": sum(p.numel() for p in model.parameters()),
        "mean": ", ".join(map(str, info.mean)),
        "std": ", ".join(map(str, info.std)),
        "matched_keys": len(info.matched),
        "missing_keys": list(info.missing),
        "unexpected_keys": list(info.unexpected),
        "coverage": f"{info.coverage:.1%}",
        "digest": digest(model),
    }
    if as_json:
        found = {k.strip(): v for k, v in found.items()}
    show(found, as_json, title="source")


def demo(out: str = "gta-demo", seeds: int = 1, overwrite: bool = False) -> None:
    """See plain and guided fine-tuning side by side, in three minutes, with nothing but this package.

    Args:
        out: Folder to write; finished runs in it are kept.
        seeds: Worlds to do it in; with more than one the difference is tested.
        overwrite: Start anew.
    """
    from gta.demo.run import run_demo
    from gta.report.demo import table, verdict

    found = run_demo(out, seeds, overwrite=overwrite)
    shown = new_table("", "source", "plain", "gta", title=f"{seeds} world{'s' * (seeds > 1)}")
    for label, texts in table(found):
        shown.add_row(*cells(label, *texts))
    console().print(shown)
    print(f"{verdict(found)}\nLook at {Path(out) / 'report.html'}")


def world(given: Namespace) -> None:
    from gta.worlds import write_world

    options = WorldOptions(**{k: v for k, v in vars(given).items() if k != "config"})
    write_world(options)
    each = f"{options.train} + {options.val} + {options.test}"
    print(f"{options.out}: {options.classes} species, {each} images of each")


def attention(
    spec: str,
    images: list[str],
    data: str | None = None,
    split: Literal["train", "val", "test"] = "test",
    protocol: Literal["dino", "merged", "wide", "foreground"] = "dino",
    frame: Literal["whole", "square"] = "whole",
    image_size: int | None = None,
    heads: int | None = None,
    out: str | None = None,
    as_json: bool = False,
) -> None:
    """Measure [cls] attention against object masks, or draw it over images.

    Args:
        spec: timm:NAME, a checkpoint, or a run folder.
        images: Image files to draw; needs --out.
        data: NAME:ROOT, such as cub:DIR or pets:DIR; a folder with masks; or a .csv file with a mask column.
        split: Which of its splits.
        protocol: dino (top 60 % of each head, best head of each object), merged (mean of the heads), wide (top 90 %
            at 512 px), foreground (all objects of an image as one).
        frame: whole images squeezed into a square, as the protocols have it, or the central square, as in results.json.
        image_size: Side of the images in px; by default the protocol's, or the one the model was trained at.
        heads: Attention heads, where they are not width / 64 and the file does not say.
        out: PNG file to draw the images' attention into, per head and their mean.
        as_json: Print JSON instead of a table.
    """
    if bool(images) == (data is not None):
        raise GtaError(
            "give either --data, to measure, or images and --out, to draw: gta attention SPEC IMAGE... --out X"
        )
    from gta.attention.survey import load_attentive, survey

    if data is not None:
        from gta.data.reading import read_photos

        show(
            survey(spec, read_photos(data).split(split), protocol, image_size, heads, frame), as_json, title="attention"
        )
        return
    if out is None:
        raise GtaError("--out is missing: give the PNG file to draw into.")
    from gta.attention.overlays import draw_overlays
    from gta.data.images import readable

    paths = readable(images)
    drawn, of_heads = draw_overlays(load_attentive(spec, image_size, heads), paths, Path(out))
    print(f"{out}: {drawn} images, {of_heads} heads and their mean")


def check(data: str, pictures: str = "data-check.png", download: bool = False, as_json: bool = False) -> None:
    """Verify a data set: official counts, every file readable, images that are in train and test; draw samples.

    Args:
        data: NAME:ROOT, such as cub:DIR; a folder with train/CLASS/*; or a .csv file.
        pictures: PNG file to draw sample pictures and the duplicates found into.
        download: Fetch a published data set into its ROOT first, where it is not there.
        as_json: Print JSON instead of a table.
    """
    from gta.data.checks import check_data

    found = check_data(data, Path(pictures), download)
    pairs = {"same_file": found.same, "look_alikes": found.alike}
    listed = {word: [[s.name, t.name] for s, t in of] for word, of in pairs.items()}
    if as_json:
        print(json.dumps({**found.summary, "unreadable": found.unreadable, **listed}, ensure_ascii=False, indent=2))
    else:
        show({**found.summary, "unreadable_files": len(found.unreadable)}, as_json, title="data")
        for word, of in listed.items():
            for train, test in of[:LISTED]:
                print(f"{word}: {train} and {test}")
            if len(of) > LISTED:
                print(f"{word}: {len(of) - LISTED} more pairs; --json lists all")
        print(f"Pictures {pictures}")
    if found.unreadable:
        listing = "\n".join(f"  {path}: {reason}" for path, reason in found.unreadable.items())
        raise GtaError(f"{len(found.unreadable)} files cannot be used:\n{listing}")


def manifest(data: str, out: str, fraction: float = 1.0, seed: int = 0) -> None:
    """Write the list of training images that a fraction and a seed choose, with their SHA-256.

    Args:
        data: NAME:ROOT, such as cub:DIR; a folder with train/CLASS/*; or a .csv file.
        out: File to write; gta train --subset-list takes it.
        fraction: Share of every class's training images, above 0 and up to 1; seeded and nested.
        seed: Of the choice, and of the validation images held out before it.
    """
    from gta.data.reading import write_manifest

    photos = write_manifest(data, Path(out), fraction=fraction, seed=seed)
    print(f"{out}: {len(photos.train)} images of {len(photos.classes)} classes, digest {photos.digests['train']}")


def methods(as_json: bool = False) -> None:
    """List the methods that gta train takes, with their papers and options.

    Args:
        as_json: Print JSON instead of a table.
    """
    from dataclasses import fields

    from gta.methods import METHODS, part_class

    kinds = {name: part_class(name) for name in METHODS}
    own = {n: {} if k.flat else {f"--{n}.{f.name}": f.default for f in fields(k)} for n, k in kinds.items()}
    if as_json:
        rows = [
            {"method": n, "description": first_line(k), "paper": k.paper, "options": own[n]} for n, k in kinds.items()
        ]
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    table = new_table("method", "what it does", "paper", "options")
    for name, kind in kinds.items():
        options = "\n".join(f"{flag} {default}" for flag, default in own[name].items())
        table.add_row(*cells(name, first_line(kind), kind.paper, options))
    console().print(table)
    print("a+b composes: gta train --method gta+transmix")


def compare(given: Namespace) -> None:
    from gta.studies.compare import compare as run

    comparison = Comparison(**{k: v for k, v in vars(given).items() if k != "config"})
    result, out = run(comparison), comparison.out
    _print_rows("trials", result.grid)
    _print_rows("comparison", result.table)
    print(f"{result.notes}\nTables {out}/table.md, {out}/table.csv, {out}/grid.csv; runs {out}/runs")


def bench(given: Namespace) -> None:
    from gta.benchmark.bench import bench as run
    from gta.files import write_json
    from gta.report.benchmark import tables, where, write_report

    options = Bench(**{k: v for k, v in vars(given).items() if k != "config"})
    folder = Path(options.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GtaError(f"--out {options.out} cannot be made: {error.strerror or error}.") from error
    found = run(options, say=lambda what: print(what, file=sys.stderr, flush=True))
    write_json(folder / "bench.json", found)
    write_report(folder)
    print(where(found))
    for title, rows, notes in tables(found):
        _print_rows(title, rows)
        print("\n".join(notes) + "\n")
    print(f"Results {folder / 'bench.json'}, tables {folder / 'bench.md'}, picture {folder / 'bench.png'}")


def _print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    table = new_table(*rows[0], title=title)
    for row in rows:
        table.add_row(*cells(*("–" if value is None else str(value) for value in row.values())))
    console().print(table)


def train(given: Namespace) -> None:
    from gta.training.fit import train as run

    values = {k: v for k, v in vars(given).items() if k not in ("config", "resume", "overwrite", *METHODS)}
    values["settings"] = _settings(given)
    results = run(TrainOptions(**values), resume=given.resume, overwrite=given.overwrite)
    if results is not None:
        out = Path(given.out)
        show(results, as_json=False, title=str(out))
        picture = out / "maps" / "attention.png"
        print(f"Model {out / 'model.safetensors'}" + (f", pictures {picture}" if picture.is_file() else ""))


def _settings(given: Namespace) -> dict[str, dict[str, Any]]:
    """The methods' own options: those of --settings and config.yaml, and over them the flags --NAME.FIELD."""
    settings = {name: dict(values) for name, values in given.settings.items()}
    for name in METHODS:
        flags = {k: v for k, v in vars(getattr(given, name, Namespace())).items() if v is not None}
        if flags:
            settings[name] = settings.get(name, {}) | flags
    return settings
