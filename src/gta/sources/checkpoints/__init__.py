"""Checkpoint layouts: one layout, one file with a `Layout` called LAYOUT; files whose name begins with _ are helpers.

A layout says by which keys a file is recognised, and renames its tensors to timm's. A new one is a new file here.
"""
