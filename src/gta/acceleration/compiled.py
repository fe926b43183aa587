"""The source's pass up to its rows as one compiled graph.

The pass is traced once, with everything that captures and lower precision do to it: the graph ends at the last row and
holds nothing that no row needs. torch.compile then fuses it, with the weights as constants and, on a GPU, as a CUDA
graph. A plain torch.compile of the same pass casts them anew: 0.01 to 0.03 of a bf16 training step (docs/cost.md).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_map_only

from gta.errors import GtaError

Read = Callable[[Tensor], list[Any]]


class CompiledSource:
    """Compiled passes of a source, one for each shape of the images and way to run it."""

    def __init__(self, source: nn.Module) -> None:
        self._source = source
        self._passes: dict[tuple[Any, ...], Read] = {}
        self._weights: tuple[Any, ...] = ()

    def __getstate__(self) -> dict[str, Any]:  # a copy has a source of its own to compile
        return {**self.__dict__, "_passes": {}}

    def rows(self, run: Read, images: Tensor, way: str) -> list[Any]:
        """What `run` captures of the source.

        Args:
            run: the source's pass, without autograd; the same computation whenever shape, autocast and `way` are.
            images: (B, C, height, width).
            way: names what else `run` depends on.

        Raises:
            GtaError: torch.compile failed.
        """
        tensors = chain(self._source.parameters(), self._source.buffers())
        weights = tuple((p.data_ptr(), p._version, p.dtype) for p in tensors)
        if weights != self._weights:  # they are constants of the graphs
            self._passes.clear()
            self._weights = weights
        device = images.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        key = (way, tuple(images.shape), images.stride(), images.dtype, images.device, low)
        as_constants: AbstractContextManager[Any] = nullcontext()
        if key not in self._passes:
            graph, options = traced(run, images), {"triton.cudagraphs": True}
            self._passes[key] = torch.compile(graph.forward, dynamic=False, options=options)  # type: ignore[arg-type]
            from torch._inductor import config

            as_constants = config.patch(freezing=True)  # among the options it would come too late for dynamo
        # casts are in the graph, autocast's too
        with as_constants, torch.no_grad(), torch.autocast(device, enabled=False):
            try:
                found = self._passes[key](images)
            except Exception as error:  # of many kinds: no C++ compiler, a disk that is full, …
                what = " ".join((type(error).__name__, *str(error).strip().splitlines()[:1]))
                raise GtaError(
                    f"the source could not be compiled ({what}): leave --source-compile (source_compile=True) out, or "
                    "see that torch.compile works here."
                ) from error
        # a CUDA graph writes its next results over these
        return tree_map_only(Tensor, Tensor.clone, found) if device == "cuda" else found  # type: ignore[no-any-return]

    def bytes(self) -> int:
        """Of the weights that the graphs hold, counted as a bf16 copy of each linear layer's; in float32 it is more."""
        linears = (m for m in self._source.modules() if isinstance(m, nn.Linear))
        return sum(2 * m.weight.numel() for m in linears) if self._passes else 0


def traced(run: Read, images: Tensor) -> GraphModule:
    """The graph of what `run` captures."""
    from torch.fx.experimental.proxy_tensor import make_fx  # half a second that nobody else needs

    with torch.no_grad():
        graph = make_fx(lambda images: run(images))(images)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
