"""What follows from how fast clients are: whether rounds wait, steps by speed, and simulated fleets."""

import math
import re
from collections.abc import Iterator
from typing import Literal, cast

from pydantic import field_validator

from plait.settings.table import SettingsTable
from plait.settings.tables import Cohort
from plait.settings.traits import Stated, Trait

MOST_TIMES = 4
"""Steps of a client in a round at most, as a multiple of `local_steps`, where they follow its speed."""
_FORM = re.compile(r"sync|async(:[1-9][0-9]{0,6})?")


class Asynchronous(SettingsTable, table="asynchronous", heading="Asynchronous rounds", optional=True):
    """Whether rounds wait."""

    rounds_mode: str = "sync"
    """sync: a round waits for its cohort; async:K: clients train whenever they are free, and a round aggregates a
    buffer of K updates once it is full; async: K is a quarter of the clients at work, at least two
    """

    @field_validator("rounds_mode")
    @classmethod
    def _check_form(cls, mode: str) -> str:
        if not _FORM.fullmatch(mode):
            raise ValueError("expected sync, async, or async:K such as async:5")
        return mode

    def check_clients(self, clients: int, cohort: int) -> None:
        """Refuse a buffer that waits for others than those at work."""
        del clients
        size = buffer_size(self.rounds_mode, cohort)
        if size > cohort:
            raise ValueError(
                f"rounds-mode is '{self.rounds_mode}' and {cohort} clients are at work at once, expected at most as "
                "many updates: a client has one in a buffer at most"
            )
        if size == 1 < cohort:
            raise ValueError(
                f"rounds-mode is '{self.rounds_mode}', expected at least 2 updates: norm checks compare those of a "
                "buffer"
            )

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.rounds_mode != "sync":
            across = "updates of several rounds are added"
            needs = {
                Trait.LINEAR: across,
                Trait.SAME_FACTORS: across,
                Trait.SAME_SIDES: across,
                Trait.RELEASED: "a client that began too long ago is",
            }
            yield self.states("rounds_mode", needs=needs, removes={Trait.WAITS: "asynchronous rounds do not wait"})


def buffer_size(rounds_mode: str, cohort: int) -> int:
    """Updates per round where so many clients are at work; 0 where rounds wait."""
    mode, _, size = rounds_mode.partition(":")
    return 0 if mode == "sync" else int(size) if size else max(min(2, cohort), math.ceil(cohort / 4))


class Fleets(SettingsTable, table="fleets", heading="Clients of unequal speed", optional=True):
    """What follows from how fast clients are."""

    fleet: str = ""
    """TOML file with the devices of a simulated fleet: on the run's virtual clock, downloads, training and uploads take
    as long as on these devices
    """
    step_budget: Literal["equal", "speed"] = "equal"
    """steps of a client in a round: local-steps for all, or by the speed measured in earlier rounds, so that all answer
    together: local-steps on average, 1 to 4 times as many for each
    """

    @property
    def most_times(self) -> int:
        """Most steps of a client in a round, as a multiple of `local_steps`."""
        return MOST_TIMES if self.step_budget == "speed" else 1

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.step_budget == "speed":
            needs = {
                Trait.WAITS: "it gives every client the slowest one's time",
                Trait.LOCAL_STEPS: "they are the average",
                Trait.LINEAR: "updates of different numbers of steps are normalised",
                Trait.SAME_FACTORS: "updates of different numbers of steps are normalised",
            }
            yield self.states("step_budget", needs=needs, removes={Trait.EQUAL_STEPS: "faster ones take more"})
        if self.fleet:
            needs = {Trait.FIGURES: "the times of the virtual clock follow from the clients' data"}
            yield self.states("fleet", needs=needs)
            if cast("Cohort", self).deadline_s:
                # On a virtual clock a released device has not trained.
                yield self.states("deadline_s", needs={Trait.RELEASED: "a device of the fleet may be late"})
