"""What follows from how fast clients are."""

from collections.abc import Iterator
from typing import ClassVar, Literal, cast

from plait.settings import Cohort
from plait.settings.table import Table
from plait.traits import Stated, Trait

MOST = 4
"""Steps of a client in a round at most, as a multiple of `local_steps`, where they follow its speed."""


class Fleets(Table):
    """What follows from how fast clients are."""

    table: ClassVar[str] = "fleets"
    heading: ClassVar[str] = "Clients of unequal speed"

    fleet: str = ""
    """TOML file with the devices of a simulated fleet: on the run's virtual clock, downloads, training and uploads take
    as long as on these devices
    """
    step_budget: Literal["equal", "speed"] = "equal"
    """steps of a client in a round: local-steps for all, or by the speed measured in earlier rounds, so that all answer
    together: local-steps on average, 1 to 4 times as many for each
    """

    def most_steps_of(self, local_steps: int) -> int:
        """Steps that one client may be asked for in a round, where all would take so many."""
        return local_steps * (MOST if self.step_budget == "speed" else 1)

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.step_budget == "speed":
            needs = {
                Trait.WAITS: "it gives every client the slowest one's time",
                Trait.LINEAR: "updates of different numbers of steps are normalised",
                Trait.SAME_FACTORS: "updates of different numbers of steps are normalised",
            }
            yield self.says("step_budget", needs=needs, takes={Trait.EQUAL_STEPS: "faster ones take more"})
        if self.fleet:
            needs = {
                Trait.FIGURES: "the times of the virtual clock follow from the clients' data",
            }
            yield self.says("fleet", needs=needs)
            if cast("Cohort", self).deadline_s:
                # On a virtual clock a released device has not trained.
                yield self.says("deadline_s", needs={Trait.RELEASED: "a device of the fleet may be late"})
