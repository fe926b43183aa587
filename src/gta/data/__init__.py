"""Photographs on disk, and the tensors made of them."""
