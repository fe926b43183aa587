"""The guide inside other people's training loops, one file per loop."""
