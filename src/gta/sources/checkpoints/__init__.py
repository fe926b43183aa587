"""Checkpoints by the file as their authors publish it: read without running anything, recognised, renamed to timm's.

One short file per family. A family is a `Layout`: the keys it is recognised by, and a function that renames its
tensors. Adding one is a file and its line in `LAYOUTS` of `recognise.py`.
"""
