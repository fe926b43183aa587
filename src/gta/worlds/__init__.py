"""A procedural world of butterflies: small photograph-like scenes, each with its object mask.

`butterflies.render` draws them; `folder.write_world` writes them as a data folder that `gta train` takes;
`butterflies.safetensors` is a small ViT pre-trained on other species of this world (source spec `gta:butterflies`).
"""
