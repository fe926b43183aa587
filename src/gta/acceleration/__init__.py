"""The same numbers for less: the heart works without this room."""
