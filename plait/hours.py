"""Hours of the day as users write them, such as ``22-6``. Knows no clock."""

from __future__ import annotations

from functools import lru_cache

from plait.errors import ConfigError

_DAY = range(24)


@lru_cache(maxsize=1024)
def hours_of(text: str) -> frozenset[int]:
    """The hours of the day in ``FROM-TO``, which may pass midnight; all of them for an empty text.

    Raises:
        ConfigError: it is not two different hours from 0 to 24.
    """
    if not text:
        return frozenset(_DAY)
    start, _, end = text.partition("-")
    if not all(part.isascii() and part.isdigit() and len(part) < 3 and int(part) <= 24 for part in (start, end)):
        raise ConfigError(f"hours are {text!r}, expected FROM-TO in hours of the day, such as 22-6")
    first, last = int(start), int(end)
    if first == last:
        raise ConfigError(f"hours are {text!r}, expected two different hours, or none for the whole day")
    return frozenset((first + hour) % 24 for hour in range((last - first) % 24 or 24))
