"""What is known of the machine."""

import os

from gta.devices import cores, free_memory


def test_a_machine_is_known():
    assert 1 <= cores() <= (os.cpu_count() or 1)
    assert 10**6 < free_memory() < 10**15
