"""What NVFlare's processes load here: the filter nearest to the network, which counts; a persistor that keeps rounds.

Without CUDA `Tensor.cuda` does nothing: NVFlare's quantizer calls it, and bitsandbytes quantizes on a CPU as well.
"""

import json
from pathlib import Path

import torch
from nvflare.apis.filter import Filter
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey
from nvflare.app_opt.pt.file_model_persistor import PTFileModelPersistor
from nvflare.fuel.utils import fobs
from work import Work, state_of

if not torch.cuda.is_available():
    torch.Tensor.cuda = lambda self, *_, **__: self


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


class Keep(PTFileModelPersistor):
    """NVFlare's persistor; also keeps each round's adapter as the field wants it."""

    def __init__(self, configuration: str, out: str) -> None:
        super().__init__(model=Adapter(configuration))
        self.configuration, self.out = configuration, out
        self._kept = 0

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        """The fresh adapter."""
        found = super().load_model(fl_ctx)
        self._keep(found)
        return found

    def save_model(self, ml: ModelLearnable, fl_ctx: FLContext) -> None:
        """Save an adapter after a round."""
        super().save_model(ml, fl_ctx)
        self._kept += 1
        self._keep(ml)

    def _keep(self, learned: ModelLearnable) -> None:
        work = Work(json.loads(Path(self.configuration).read_text()), Path(self.out))
        work.finished(
            self._kept, {name: torch.as_tensor(each) for name, each in learned[ModelLearnableKey.WEIGHTS].items()}
        )
