"""The library's way in: what the command line does, as calls.

>>> run = gta.fit("photos", out="runs/first", source="timm:vit_small_patch14_dinov2.lvd142m", lr=3e-5)
>>> run.results["test_top1"]
>>> [p.label for p in run.predict(["new.jpg"])]
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gta.errors import GtaError
from gta.export.run import export_run
from gta.files import atomic_write
from gta.training.evidence import PREDICTIONS
from gta.training.fit import train
from gta.training.measure_run import evaluate_run
from gta.training.options import TrainOptions
from gta.training.predict import Picture, Prediction, predict
from gta.training.run_folder import RESULTS, is_complete, read_options, read_results
from gta.training.trained import Trained
from gta.training.trainer import is_first_process

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Run:
    """A complete run folder; from `gta.fit` or `Run.load`.

    Attributes:
        folder: where it lies.
    """

    folder: Path

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """A run that was trained before, here or by `gta train`.

        Raises:
            GtaError: no complete run there.
        """
        folder = Path(folder)
        read_options(folder)
        if not is_complete(folder):
            raise GtaError(f"{folder} holds an unfinished run (no {RESULTS}): go on with gta.fit(…, resume=True).")
        return cls(folder)

    @property
    def page(self) -> Path:
        """report.html, which `gta.fit` writes and `report` writes anew."""
        return self.folder / "report.html"

    @property
    def options(self) -> TrainOptions:
        """What the run was made with."""
        return read_options(self.folder)

    @property
    def results(self) -> dict[str, Any]:
        """Settings and measures, as in results.json; docs/measures.md defines each."""
        return read_results(self.folder)

    def trained(self) -> Trained:
        """The model, its classes, and how it is shown an image."""
        return Trained.load(self.folder)

    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        abstain: float = 0.0,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Prediction]:
        """Name the class of photographs, decoded on all cores.

        Args:
            images: a path, an image of Pillow's, or any number of them; `gta.image_paths` has those of folders.
            abstain: name no class whose probability is below this, 0 to 1.
            progress: called with the number of images done, a batch at a time.

        Returns:
            One each, in their order; of an unreadable file one with an `error`.

        Raises:
            GtaError: `abstain` out of range.
        """
        from PIL import Image

        several = [images] if isinstance(images, (str, Path, Image.Image)) else images
        return list(predict(self.trained(), several, abstain=abstain, progress=progress))

    def predictions(self) -> "pandas.DataFrame":
        """What the model says of every val and test image, as in predictions.csv: split, path, label, guess, `p:CLASS`.

        Raises:
            GtaError: pandas is not installed, or the data has neither val nor test.
        """
        try:
            import pandas
        except ImportError as error:
            raise GtaError("predictions() gives a DataFrame, which pandas makes: pip install pandas.") from error
        path = self.folder / PREDICTIONS
        if not path.is_file():
            raise GtaError(f"{self.folder} has no {PREDICTIONS}: its data has neither val nor test.")
        text = dict.fromkeys(("split", "path", "label", "guess"), str)
        return pandas.read_csv(path, dtype=text, keep_default_na=False, encoding_errors="surrogateescape")

    def evaluate(self, data: str | Path | None = None, split: str = "test") -> dict[str, Any]:
        """Accuracy, attention and drift on a split of the run's data, or of other data with the same classes.

        Raises:
            GtaError: no such split, or other classes than the model's.
        """
        return evaluate_run(self.folder, None if data is None else str(data), split)

    def export(
        self,
        to: str,
        out: str | Path | None = None,
        *,
        data: str | None = None,
        int8: bool = False,
        whole_images: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Write the model for others to run, once it was seen to give what PyTorch gives on real images.

        Args:
            to: onnx, torchscript, hf (transformers) or timm.
            out: folder to write; by default export/FORM in the run's.
            data: other data with the same classes for the comparison, where the run's own is no longer there.
            int8: write an ONNX model with weights of 8 bits as well.
            whole_images: of a run that shows its model parts of images (`attention_crop`), export it for whole ones.
            overwrite: replace what is in `out`.

        Returns:
            The folder.

        Raises:
            GtaError: packages or images that are missing, `out` in use, or a result that differs by more than 1e-4.
        """
        place = None if out is None else Path(out)
        more = {"int8": int8, "whole_images": whole_images, "overwrite": overwrite}
        return export_run(self.folder, to, place, data=data, **more)[0]

    def report(self, out: str | Path | None = None) -> Path:
        """Write the page that shows it all, as `gta report` does, and return its path.

        Args:
            out: HTML file; by default report.html in the run folder.

        Raises:
            GtaError: it cannot be written.
        """
        from gta.report.write import write_report

        return write_report([self.folder], None if out is None else Path(out))


def fit(
    data: "str | Path | pandas.DataFrame",
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    keep_finite: bool = False,
    **options: Any,
) -> Run:
    """Fine-tune a pre-trained ViT on photographs, measure it, and write the run folder and its page.

    Args:
        data: folder with train/CLASS/*, a .csv file, NAME:ROOT of a published set, or a DataFrame with the columns
            path, label and optionally split and mask, which is written to OUT.csv.
        out: run folder to write.
        resume: go on with an unfinished run in `out`; a complete one is returned as it is.
        overwrite: replace a run in `out`, once the new one has a checkpoint.
        keep_finite: where the training diverges, end with the weights of its last finite epoch instead of an error.
        options: fields of `TrainOptions`, as on the command line: lr=3e-5, method="plain", epochs=30.

    Raises:
        GtaError: an option that is not known, or bad input; nothing is written then.
    """
    known = [field.name for field in fields(TrainOptions) if field.name not in ("data", "out")]
    strange = [name for name in options if name not in known]
    if strange:
        raise GtaError(f"option {strange[0]!r} is not known: use one of {', '.join(known)}.")
    if not isinstance(data, (str, Path)):
        data = _written(data, Path(f"{out}.csv"), overwrite)
    chosen = TrainOptions(data=str(data), out=str(out), **options)
    return fit_options(chosen, resume=resume, overwrite=overwrite, keep_finite=keep_finite)


def _written(frame: "pandas.DataFrame", path: Path, overwrite: bool) -> Path:
    """A DataFrame as a .csv file with absolute paths."""
    where = {name: frame[name].map(_absolute) for name in ("path", "mask") if name in frame}
    text = frame.assign(**where).to_csv(index=False)
    if path.exists() and not overwrite and path.read_text(encoding="utf-8") != text:
        raise GtaError(f"{path} is there already, with other images than these: give another out, or overwrite=True.")
    with atomic_write(path, "out") as new:
        new.write_text(text, encoding="utf-8")
    return path


def _absolute(path: Any) -> Any:
    return str(Path(path).resolve()) if isinstance(path, (str, Path)) and str(path) else path


def fit_options(
    options: TrainOptions, *, resume: bool = False, overwrite: bool = False, keep_finite: bool = False
) -> Run:
    """`fit`, given the options as one."""
    train(options, resume=resume, overwrite=overwrite, keep_finite=keep_finite)
    run = Run(Path(options.out))
    if is_first_process() and not run.page.is_file():  # of a run that was complete before, it is left as it is
        run.report()
    return run
