"""The options of `gta compare`, which are changes of the shipped plan `compare`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gta.errors import GtaError
from gta.training.options import TrainOptions

if TYPE_CHECKING:
    from gta.studies.plan import Plan

FIRST_TRIAL_SEED = 100


@dataclass(frozen=True)
class Comparison:
    """Compare methods fairly: settings chosen on validation, the same budget for each, results over seeds.

    An interrupted comparison goes on where it was when the command is given again. gta study runs more than one data
    set or share, and elsewhere than on this machine.

    Args:
        data: Data, as of gta train.
        out: Folder for the runs and tables.
        methods: Names in the grid, separated by commas.
        source: Pre-trained ViT, as of gta train.
        seeds: Final runs of each method.
        grid: YAML file of what is tried of each method; by default the one shipped, which OUT/grid.yaml shows.
        grid_seeds: Runs of each trial; their mean validation accuracy chooses, of equals their loss.
        budget: Trials of each method, drawn from its grid; by default all.
        image_size: Side of the images in px, a multiple of the patch size.
        heads: Attention heads of the source, where they are not width / 64 and its file does not say.
        fraction: Share of every class's training images to use.
        epochs: Passes over the training images.
        batch_size: Images per step.
        precision: "auto" takes bf16 autocast where the device computes it faster, else float32.
        reuse: Give every image a fixed number of views, and compute the source's rows of them once for all runs.
        views: How many views (reuse).
        views_seed: Which views (reuse): the same for all runs; null: for each seed its own.
        reuse_dir: Where rows are kept (reuse); by default gta/rows in the user's cache folder.
        workers: Processes that load images. -1: none where the CPU trains, else one per core, at most 8.
        skip_unreadable: Leave unreadable images out instead of refusing to train.
        processes: Runs at a time; 0: as many as this machine's cores and memory, or GPUs, hold.
    """

    data: str
    out: str
    methods: list[str] | str = "plain,l2_sp,bss,attention_only,gta"
    source: str = TrainOptions.source
    seeds: int = 3
    grid: str | None = None
    grid_seeds: int = 1
    budget: int | None = None
    image_size: int = 224
    heads: int | None = None
    fraction: float = 1.0
    epochs: int = 15
    batch_size: int = 32
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    reuse: bool = False
    views: int = 8
    views_seed: int | None = 0
    reuse_dir: str | None = None
    workers: int = -1
    skip_unreadable: bool = False
    processes: int = 0

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names) or not all(self.names):
            raise GtaError(f"--methods {','.join(self.names)} cannot be used: name each method once.")
        for name in ("seeds", "grid_seeds"):
            if getattr(self, name) < 1:
                raise GtaError(f"--{name.replace('_', '-')} {getattr(self, name)} cannot be used: write 1 or more.")

    @property
    def names(self) -> list[str]:
        """The methods' names, in the order given."""
        return self.methods.split(",") if isinstance(self.methods, str) else list(self.methods)

    def plan(self) -> "Plan":
        """The shipped plan, of this data and these methods.

        Raises:
            GtaError: what no study can use.
        """
        from gta.studies.grid import OPTIONS, read_grid  # these import torch, for which `gta --help` does not wait
        from gta.studies.plan import make_plan, merged, plan_content

        same = OPTIONS & {field.name for field in fields(self)}
        options = {key: value for key, value in asdict(self).items() if key in same - {"data", "out", "fraction"}}
        change = {
            "data": {"data": self.data},
            "fractions": [self.fraction],
            "options": options,
            "methods": self.names,
            "budget": self.budget,
            "trial_seeds": list(range(FIRST_TRIAL_SEED, FIRST_TRIAL_SEED + self.grid_seeds)),
            "seeds": list(range(self.seeds)),
        }
        content = merged(plan_content("compare"), change)
        if self.grid is not None:
            content |= self._of_grid(read_grid(Path(self.grid)))
        return make_plan(content, refused=frozenset(same | {"val_every", "subset_list"}))

    def _of_grid(self, grid: Mapping[str, Any]) -> dict[str, Any]:
        for name in self.names:
            if name not in grid["methods"]:
                raise GtaError(
                    f"the grid has no method {name!r}: it has {', '.join(grid['methods'])}. Write an entry for it into "
                    "a file and give that with --grid."
                )
        return {"grid": {"lr": grid["lr"]}, "methods": {name: grid["methods"][name] for name in self.names}}
