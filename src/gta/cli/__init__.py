"""The command line: `gta COMMAND`. Nobody imports this room."""

from gta.cli.parser import main as main
