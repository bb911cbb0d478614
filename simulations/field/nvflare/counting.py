"""The filter nearest to the network on a client, which counts what passes; the model that the server begins with."""

import json
from pathlib import Path

import torch
from nvflare.apis.filter import Filter
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.fuel.utils import fobs
from work import Work, state_of


class Count(Filter):
    """Counts a message as NVFlare serialises it."""

    def __init__(self, configuration: str, out: str, direction: str) -> None:
        super().__init__()
        self.configuration, self.out, self.direction = configuration, out, direction

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Let it pass unchanged."""
        work = Work(json.loads(Path(self.configuration).read_text()), Path(self.out))
        number = int(shareable.get_header("current_round", shareable.get_header("contribution_round", -1))) + 1
        work.sent(number, fl_ctx.get_identity_name(), self.direction, fobs.dumps(dict(shareable)))
        return shareable


class Adapter(torch.nn.Module):
    """A module whose state is the fresh adapter's."""

    def __init__(self, configuration: str) -> None:
        super().__init__()
        self.configuration = configuration
        work = Work(json.loads(Path(configuration).read_text()), Path(configuration).parent)
        self._state = state_of(work.model())

    def state_dict(self, *_: object, **__: object) -> dict[str, torch.Tensor]:
        """The adapter's tensors."""
        return self._state

    def load_state_dict(self, state_dict: dict[str, torch.Tensor], *_: object, **__: object) -> None:
        """Take other ones."""
        self._state = dict(state_dict)
