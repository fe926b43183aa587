from gta.cli.parser import Command
from gta.worlds.options import WorldOptions


@Command
def world(options: WorldOptions) -> None:
    """Write it, and say what it holds."""
    from gta.worlds.folder import write_world

    write_world(options)
    each = f"{options.train} + {options.val} + {options.test}"
    print(f"{options.out}: {options.classes} species, {each} images of each")
