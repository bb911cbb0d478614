"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# As the command line has it; numpy reads it when it is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A busy machine takes its time over an example, which says nothing of the code.
settings.register_profile("plait", deadline=None)
settings.load_profile("plait")
