"""Memory that was freed is taken again, not asked for again."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource

import numpy as np

from jaxmodels.experiment.malloc import keep_freed_memory

keep_freed_memory()
np.ones(2**24, np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    np.ones(2**24, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets the heap of glibc")
def test_the_same_pages_are_not_asked_for_again():
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 100, "an array of 64 MiB has 16,384 pages"
