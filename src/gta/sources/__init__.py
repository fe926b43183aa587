"""A frozen source from a name or a file."""
