from gta.cli.console import print_values
from gta.cli.parser import Command


@Command
def source(spec: str, *, image_size: int | None = None, heads: int | None = None, json: bool = False) -> None:
    """Say what a source is: its architecture and how its keys match.

    Args:
        spec: timm:NAME, hf:NAME, gta:butterflies, a checkpoint file as its authors publish it, or a folder of timm's
            or transformers'.
        image_size: Side of the images in px; by default the one it was trained at.
        heads: Attention heads, where they are not width / 64 and the file does not say.
        json: Print JSON instead of a table.
    """
    from gta.sources.info import digest, source_info
    from gta.sources.loading import load_source
    from gta.vit.structure import vit_info

    model = load_source(spec, image_size, heads=heads)
    info = source_info(model)
    vit = vit_info(model)
    indent = "" if json else "  "
    found = {
        "spec": info.spec,
        "layout": info.layout,
        "architecture": info.architecture,
        **{f"{indent}{k}": v for k, v in info.model_args.items()},
        "layers": vit.depth,
        "heads": vit.heads,
        "prefix_tokens": vit.prefix_tokens,
        "patches": None if vit.grid is None else f"{vit.grid[0]}×{vit.grid[1]}",
        "parameters": sum(p.numel() for p in model.parameters()),
        "mean": ", ".join(map(str, info.mean)),
        "std": ", ".join(map(str, info.std)),
        "matched_keys": len(info.matched),
        "missing_keys": list(info.missing),
        "unexpected_keys": list(info.unexpected),
        "coverage": f"{info.coverage:.1%}",
        "digest": digest(model),
    }
    print_values(found, "source", json)
