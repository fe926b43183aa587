"""Plain ViTs under timm's names: timm, DeiT, DINO, iBOT, and what Lightning, lightly and lightly-train save of them.

DINO (Caron et al. 2021, github.com/facebookresearch/dino) and iBOT (Zhou et al. 2022, github.com/bytedance/ibot) name
tensors as timm does, alone or as `teacher`/`student` with `backbone.` before and projection heads beside them.
"""

from gta.sources.layout import Layout

LAYOUT = Layout("a plain ViT under timm's names (timm, DeiT, DINO, iBOT)", precedence=0)
