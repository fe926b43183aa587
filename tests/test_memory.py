"""Freed memory is kept: asked of the system, in a process of its own."""

import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from gta.memory import keep_freed_memory

{keep}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(30):
    torch.ones(16_000_000)
before = faults()
for _ in range(10):
    torch.ones(16_000_000)  # 64 MB, 15,625 pages
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_large_tensor_s_memory_is_used_again():
    def faults(keep: str) -> int:
        code = CODE.format(keep=keep)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    if faults("") < 10_000:
        pytest.skip("this system's malloc keeps freed memory by itself")
    assert faults("keep_freed_memory()") < 2_000
