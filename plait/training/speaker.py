"""Text from a base with an adapter, or from the base alone, for one caller at a time.

Tokens are made by the engine of `plait.training.serving`. Knows no run directory and no terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

from plait.adapters import AdapterSpec, AdapterState, Task
from plait.errors import ConfigError, MachineError
from plait.training.sampling_limits import ROWS, Limits
from plait.training.serving.engine import UNSTATED_CONTEXT, Engine, Finish, Generation, Piece, ResidentModel, context_of
from plait.training.serving.sampling import Sampling

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from plait.training.examples import Tokenizer
    from plait.training.resident import ResidentBase

GREEDY = Sampling(temperature=0.0)


class Speaker:
    """A base that carries an adapter, and writes.

    Args:
        base: in memory; its adapter slot is used.

    Attributes:
        model: the base with the adapter, of PEFT's type.
        is_prompt: whether the adapter is a prompt in front of the text, which the engine cannot carry.

    Raises:
        ConfigError: the adapter does not write text.
    """

    def __init__(self, base: ResidentBase, spec: AdapterSpec, state: AdapterState) -> None:
        if spec.task is not Task.CAUSAL_LM:
            raise ConfigError("the adapter is a classifier and writes no text; `plait eval` measures it")
        self.model: PeftModel = base.carrying(spec, state)
        self.model.eval()
        self.tokenizer: Tokenizer = base.tokenizer
        self.is_prompt = self.model.active_peft_config.is_prompt_learning
        self._base = base

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a text to be continued."""
        return self._engine().encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without those that mark its beginning or end."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    @property
    def chats(self) -> bool:
        """Whether the base has a chat template."""
        return bool(self.tokenizer.chat_template)

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """Tokens of a conversation to be answered; each message has a ``role`` and a ``content``.

        Raises:
            ConfigError: the base has no chat template, or it refuses the messages.
        """
        return self._engine().encode_chat(messages)

    def answers(
        self,
        prompts: Sequence[tuple[int, ...]],
        *,
        max_tokens: int,
        sampling: Sampling = GREEDY,
        adapted: bool = True,
    ) -> list[str]:
        """What follows each prompt.

        Args:
            prompts: tokens, at least one each.
            sampling: how tokens are drawn; the same seed gives the same text.

        Raises:
            ConfigError: a prompt leaves no room for that many tokens.
            MachineError: the model failed.
        """
        made = [""] * len(prompts)
        for number, text in self._written(prompts, max_tokens, sampling, adapted):
            made[number] += text
        return made

    def stream(
        self, prompt: tuple[int, ...], *, max_tokens: int, sampling: Sampling = GREEDY, adapted: bool = True
    ) -> Iterator[str]:
        """The pieces of one answer as they come; the arguments and errors are those of `answers`."""
        return (text for _, text in self._written([prompt], max_tokens, sampling, adapted))

    def room(self, prompt: tuple[int, ...]) -> int:
        """Most tokens that an answer to a prompt can have."""
        model = cast("PreTrainedModel", self.model.get_base_model())
        return (context_of(model) or UNSTATED_CONTEXT) - len(prompt)

    def _written(
        self, prompts: Sequence[tuple[int, ...]], max_tokens: int, sampling: Sampling, adapted: bool
    ) -> Iterator[tuple[int, str]]:
        """Number of a prompt and a piece of its answer."""
        engine = self._engine(len(prompts))
        pieces: list[tuple[int, Piece]] = []

        def taken(number: int) -> Callable[[Piece], None]:
            return lambda piece: pieces.append((number, piece))

        for number, prompt in enumerate(prompts):
            engine.submit(Generation(prompt, None, max_tokens, taken(number), sampling))
        with ExitStack() as stack:
            if not adapted:
                stack.enter_context(self.model.disable_adapter())
            while engine.busy:
                engine.step()
                for number, piece in pieces:
                    if piece.finish is Finish.ERROR:
                        raise MachineError(f"the model failed: {piece.error}")
                    yield number, piece.text
                pieces.clear()

    def _engine(self, prompts: int = 1) -> Engine:
        if self.is_prompt:
            raise ConfigError(
                "the adapter is a prompt in front of the text, which plait's sampler cannot carry; "
                "run.load() gives a model whose own generate can"
            )
        resident = ResidentModel(cast("PreTrainedModel", self.model.get_base_model()), self.tokenizer)
        return Engine(resident, self._base.compute, Limits(rows=min(ROWS, prompts), waiting=max(1, prompts)))
