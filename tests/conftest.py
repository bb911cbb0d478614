"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine takes its time over an example, which says nothing of the code.
settings.register_profile("plait", deadline=None)
settings.load_profile("plait")
