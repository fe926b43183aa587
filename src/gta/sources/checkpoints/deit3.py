"""DeiT-III (Touvron et al. 2022, github.com/facebookresearch/deit): timm's filter renames its layer scale."""

from gta.sources.layout import Layout

LAYOUT = Layout("DeiT-III", required_keys=("blocks.0.gamma_1",), precedence=1)
