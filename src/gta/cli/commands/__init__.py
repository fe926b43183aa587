"""One file per `gta COMMAND`, with a `gta.cli.parser.Command` of its name; a file dropped here adds one.

What takes long to import is imported inside a command's function, so that `gta --help` answers at once.
"""
