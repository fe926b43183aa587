"""Plain fine-tuning: all weights train, cross-entropy alone. The baseline of every comparison."""

from dataclasses import dataclass

from gta.methods.base import Method


@dataclass
class Plain(Method):
    """Fine-tune every weight on cross-entropy alone."""
