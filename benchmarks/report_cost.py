"""What a run's evidence and its page cost, in seconds of CPU time.

    python benchmarks/report_cost.py RUN

Measures a complete run's model again as its training did, on the run's own data, into a folder that is thrown away.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from gta.data.reading import read_photos
from gta.report.write import write_report
from gta.sources.info import source_info
from gta.sources.loading import load_source
from gta.tables import markdown
from gta.training.evaluate import measure
from gta.training.evidence import KeptAttention, Watch, whole_attention, write_evidence, write_predictions
from gta.training.run_folder import load_weights, read_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    options, (model, _) = read_options(run), load_weights(run)
    photos = read_photos(options.data, fraction=options.fraction, seed=options.seed, subset_list=options.subset_list)
    source = load_source(options.source, options.image_size, heads=options.heads)
    info, watches, rows = source_info(source), {}, []

    def timed(what: str, act: Callable[[], object]) -> None:
        began = time.process_time()
        act()
        rows.append({"": what, "CPU seconds": f"{time.process_time() - began:.2f}"})

    timed("warming up", lambda: measure(model, source, info, photos.test[:32]))
    for split in ("val", "test"):
        if samples := getattr(photos, split):
            watches[split] = watch = Watch(model, source)
            again = partial(measure, model, source, info, samples, watch=watch)
            timed(f"measuring {len(samples)} {split} images", again)
    with TemporaryDirectory() as folder:
        out = Path(folder)
        timed("predictions.csv", lambda: write_predictions(out, photos, watches))
        count = len(photos.train)
        timed(
            f"features of {count} training images, attention, pictures",
            lambda: write_evidence(out, model, source, info, photos, watches, 0, 0),
        )
        kept = KeptAttention(out, photos, info, 12)
        timed("--keep-attention 12, an epoch", lambda: whole_attention(model, kept._images))
        timed("the page", lambda: write_report([run], out / "page.html"))
        sizes = [f"{path.name} {path.stat().st_size / 1e6:.2f} MB" for path in sorted(out.iterdir()) if path.is_file()]
    print(f"{markdown(rows)}\n{', '.join(sizes)}")


if __name__ == "__main__":
    main()
