"""big_vision's .npz (github.com/google-research/big_vision), SigLIP's image tower (Zhai et al. 2023) among them."""

from gta.sources.checkpoints.augreg import COMMON, STEM, convert
from gta.sources.layout import Layout

LAYOUT = Layout("big_vision's .npz", convert, STEM, ("pos_embedding",), typical_keys=COMMON)
