"""How long to wait for clients that may come and go.

A node reports its progress every ten seconds while it works, and transferred bytes count too (see
`plait.rounds.channel.Liveness`). So a slow machine keeps its turn and a silent one does not. Knows neither clients nor
tasks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

_MINUTE_S = 60.0
_LATE_FACTOR = 2.0
_LATE_AT_LEAST_S = 5.0
_STAGE_CLIENT_S = 0.1
_STAGE_BYTES_PER_S = 1 << 14
_ALL_BYTES_PER_S = 1 << 20


def late_after_s(took_s: Sequence[float]) -> float | None:
    """Seconds after which a client counts as late where a run is shown: twice the median time of the others.

    Args:
        took_s: the times of those that have answered the same.

    Returns:
        At least 5 s; None without answers.
    """
    return max(_LATE_FACTOR * statistics.median(took_s), _LATE_AT_LEAST_S) if took_s else None


@dataclass(frozen=True)
class Patience:
    """Limits, in seconds.

    Attributes:
        silent_s: a client that was asked something and shows no progress for this long is given up.
        overdue_s: the same for one that was expected to have answered by now.
        stage_s: the same for a stage of a masked sum without training; and the least that it may take.
        slow_factor: once half of those asked have answered, the others have this multiple of their median time;
            infinite where they are not waited for.
        slow_s: they always have at least this long.
        gathering_s: once the run has begun, the total time to wait for missing clients between two rounds.
        return_s: the minimum of that for a server that has just restarted: its clients are on their way back.
        again_s: a client that was given up, or failed, is asked again after this long.
    """

    silent_s: float = 5 * _MINUTE_S
    overdue_s: float = _MINUTE_S
    stage_s: float = 2 * _MINUTE_S
    slow_factor: float = 10.0
    slow_s: float = 15 * _MINUTE_S
    gathering_s: float = 10 * _MINUTE_S
    return_s: float = _MINUTE_S
    again_s: float = 10 * _MINUTE_S

    def is_silent(self, *, asked_s: float, idle_s: float) -> bool:
        """Whether a client has shown no progress for too long."""
        return min(asked_s, idle_s) > self.silent_s

    def may_be_silent_s(self, *, idle_s: float) -> float:
        """How much longer a client may show no progress that was expected to have answered by now."""
        return min(self.overdue_s, self.silent_s) - idle_s

    def is_slow(self, *, asked_s: float, took_s: Sequence[float], asked: int) -> bool:
        """Whether a client takes far longer than the others.

        Args:
            asked_s: since it was asked.
            took_s: the times of those that have answered.
            asked: how many clients were asked, including this one.
        """
        # The median last: thousands may be waited for, and thousands have answered.
        if math.isinf(self.slow_factor) or 2 * len(took_s) < asked or asked_s <= self.slow_s:
            return False
        return asked_s > self.slow_factor * statistics.median_low(took_s)

    @property
    def for_stages(self) -> Patience:
        """For the stages of a masked sum."""
        return replace(self, silent_s=min(self.silent_s, self.stage_s))

    def most_stage_s(self, clients: int, *, task_bytes: int, all_bytes: int) -> float:
        """How long a stage of a masked sum may take, whatever progress a client reports.

        A client computes some keys, shares or signatures for each other, a millisecond's work on a small processor of
        its own, and is sent a message; so it has far longer than that, and than a slow line takes.

        Args:
            task_bytes: of the largest message to one of them.
        """
        sending_s = task_bytes / _STAGE_BYTES_PER_S + all_bytes / _ALL_BYTES_PER_S
        return self.stage_s + _STAGE_CLIENT_S * clients + sending_s

    def rest_s(self, waited_s: float) -> float:
        """How long a client that was given up is not asked again: it may cost a run at most a fifth of its time."""
        return max(self.again_s, 4 * waited_s)
