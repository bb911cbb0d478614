"""How many bytes the messages of a run take, before it has begun.

What a message has beside the adapter's numbers is measured on real messages with an adapter of one number in them.
Knows no data: what clients say of it is taken to be as long as for text of one source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, Layout
from plait.rounds.task_settings import TaskSettings
from plait.wire.codec import Codec
from plait.wire.codecs import Fp32
from plait.wire.envelope import Direction, Header, encode_delta, seal
from plait.wire.layouts import packed_layout
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    EvaluateTask,
    Evaluation,
    TrainTask,
    UpdateReply,
    encode_reply,
    encode_task,
)

_SIGNATURE_BYTES = 66
# As `plait.rounds.participant` says them of an update.
_METRICS = (
    "train_loss", "first_loss", "slope", "learning_rate", "shortened", "train_tokens", "train_s", "distortion",
    "codec_s",
)  # fmt: skip
_NAME = "client-00"
_ONE = Layout.of({"x": (1,)})


@dataclass(frozen=True)
class MessageSizes:
    """Bytes of each kind of message.

    Attributes:
        describe_down: a question about a client's data.
        train_down: a training task, without the adapter's numbers.
        evaluate_down: an evaluation's, likewise.
        spec_bytes: of the spec, which a client gets with the adapter where it holds none.
        update_up: an update, with its numbers.
        evaluation_up: the losses of a client.
        more_down: bytes beside each broadcast, of stages of masked sums.
    """

    describe_down: int
    describe_up: int
    train_down: int
    evaluate_down: int
    spec_bytes: int
    update_up: int
    evaluation_up: int
    parameters: int
    codec: Codec
    more_down: int = 0

    @classmethod
    def of(
        cls, tasks: TaskSettings, spec: AdapterSpec, *, codec: Codec, bits_up: float, more_down: int = 0
    ) -> MessageSizes:
        """The sizes of a run."""
        digest = bytes(32)
        header = Header(
            direction=Direction.BROADCAST, run_id=bytes(16), round=1, client="", base_fingerprint=digest,
            spec_digest=digest, relative_to=digest,
        )  # fmt: skip
        one = encode_delta(AdapterState(_ONE, np.ones(1, np.float32)), Fp32())
        broadcast = seal(replace(header, result_digest=digest), one).data
        figures = dict.fromkeys(_METRICS, 0.1)
        said = replace(header, direction=Direction.UPDATE, client=_NAME, metrics=figures, examples=9)
        update = encode_reply(UpdateReply(seal(said, one).data))
        size = spec.layout.size

        def head(task: TrainTask | EvaluateTask) -> int:
            return sum(map(len, encode_task(task, whole=False))) - 4

        describe = DescribeTask(tasks.to_describe(), spec.text, packed_layout(spec.layout))
        card = ClientCard(_NAME, digest, digest, 1000, 100_000, 100, 10_000, {"text": 1100})
        losses = Evaluation(_NAME, 1, 0.1, 10_000, None, 100, loss_error=0.1, change=0.1, change_error=0.1)
        return cls(
            describe_down=sum(map(len, encode_task(describe))),
            describe_up=len(encode_reply(card)),
            train_down=head(TrainTask(tasks.to_train(1, _NAME), broadcast)),
            evaluate_down=head(EvaluateTask(tasks.to_evaluate(1), broadcast)),
            spec_bytes=len(spec.text),
            update_up=len(update) - 4 + _SIGNATURE_BYTES + math.ceil(size * bits_up / 8),
            evaluation_up=len(encode_reply(losses)),
            parameters=size,
            codec=codec,
            more_down=more_down,
        )

    def adapter_down(self, bits: float, *, with_spec: bool) -> int:
        """Bytes of a broadcast beside its task, with so many bits for each parameter."""
        return math.ceil(self.parameters * bits / 8) + self.more_down + (self.spec_bytes if with_spec else 0)
