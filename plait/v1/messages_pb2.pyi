from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Side(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIDE_UNSPECIFIED: _ClassVar[Side]
    SIDE_A: _ClassVar[Side]
    SIDE_B: _ClassVar[Side]

class RefusalReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_REASON_UNSPECIFIED: _ClassVar[RefusalReason]
    REFUSAL_REASON_NEED_FULL: _ClassVar[RefusalReason]
    REFUSAL_REASON_BASE_MISMATCH: _ClassVar[RefusalReason]
    REFUSAL_REASON_SPEC_MISMATCH: _ClassVar[RefusalReason]
    REFUSAL_REASON_MALFORMED: _ClassVar[RefusalReason]
    REFUSAL_REASON_TOO_LITTLE_DATA: _ClassVar[RefusalReason]
    REFUSAL_REASON_FAILED: _ClassVar[RefusalReason]
    REFUSAL_REASON_BUSY: _ClassVar[RefusalReason]
    REFUSAL_REASON_POLICY: _ClassVar[RefusalReason]
    REFUSAL_REASON_UNUSABLE_DATA: _ClassVar[RefusalReason]
SIDE_UNSPECIFIED: Side
SIDE_A: Side
SIDE_B: Side
REFUSAL_REASON_UNSPECIFIED: RefusalReason
REFUSAL_REASON_NEED_FULL: RefusalReason
REFUSAL_REASON_BASE_MISMATCH: RefusalReason
REFUSAL_REASON_SPEC_MISMATCH: RefusalReason
REFUSAL_REASON_MALFORMED: RefusalReason
REFUSAL_REASON_TOO_LITTLE_DATA: RefusalReason
REFUSAL_REASON_FAILED: RefusalReason
REFUSAL_REASON_BUSY: RefusalReason
REFUSAL_REASON_POLICY: RefusalReason
REFUSAL_REASON_UNUSABLE_DATA: RefusalReason

class Task(_message.Message):
    __slots__ = ("schema", "describe", "train", "evaluate", "masking")
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    DESCRIBE_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    MASKING_FIELD_NUMBER: _ClassVar[int]
    schema: int
    describe: Describe
    train: Train
    evaluate: Evaluate
    masking: Masking
    def __init__(self, schema: _Optional[int] = ..., describe: _Optional[_Union[Describe, _Mapping]] = ..., train: _Optional[_Union[Train, _Mapping]] = ..., evaluate: _Optional[_Union[Evaluate, _Mapping]] = ..., masking: _Optional[_Union[Masking, _Mapping]] = ...) -> None: ...

class Describe(_message.Message):
    __slots__ = ("settings", "spec_json", "layout")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    settings: Settings
    spec_json: str
    layout: bytes
    def __init__(self, settings: _Optional[_Union[Settings, _Mapping]] = ..., spec_json: _Optional[str] = ..., layout: _Optional[bytes] = ...) -> None: ...

class Train(_message.Message):
    __slots__ = ("settings", "broadcast")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    BROADCAST_FIELD_NUMBER: _ClassVar[int]
    settings: Settings
    broadcast: bytes
    def __init__(self, settings: _Optional[_Union[Settings, _Mapping]] = ..., broadcast: _Optional[bytes] = ...) -> None: ...

class Evaluate(_message.Message):
    __slots__ = ("settings", "broadcast")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    BROADCAST_FIELD_NUMBER: _ClassVar[int]
    settings: Settings
    broadcast: bytes
    def __init__(self, settings: _Optional[_Union[Settings, _Mapping]] = ..., broadcast: _Optional[bytes] = ...) -> None: ...

class Masking(_message.Message):
    __slots__ = ("run_id", "purpose", "round", "attempt", "roster", "delivery", "survivors", "unmasking", "opening")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    UNMASKING_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    purpose: str
    round: int
    attempt: bytes
    roster: MaskRoster
    delivery: MaskDelivery
    survivors: MaskSurvivors
    unmasking: MaskUnmasking
    opening: MaskOpening
    def __init__(self, run_id: _Optional[bytes] = ..., purpose: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[bytes] = ..., roster: _Optional[_Union[MaskRoster, _Mapping]] = ..., delivery: _Optional[_Union[MaskDelivery, _Mapping]] = ..., survivors: _Optional[_Union[MaskSurvivors, _Mapping]] = ..., unmasking: _Optional[_Union[MaskUnmasking, _Mapping]] = ..., opening: _Optional[_Union[MaskOpening, _Mapping]] = ...) -> None: ...

class MaskRoster(_message.Message):
    __slots__ = ("offers", "bits", "unit", "size", "figures")
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    offers: _containers.RepeatedCompositeFieldContainer[MaskOffer]
    bits: int
    unit: float
    size: int
    figures: int
    def __init__(self, offers: _Optional[_Iterable[_Union[MaskOffer, _Mapping]]] = ..., bits: _Optional[int] = ..., unit: _Optional[float] = ..., size: _Optional[int] = ..., figures: _Optional[int] = ...) -> None: ...

class MaskOffer(_message.Message):
    __slots__ = ("client", "identity", "encryption", "masking", "commitment", "signature", "certificate", "endorsement")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTION_FIELD_NUMBER: _ClassVar[int]
    MASKING_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ENDORSEMENT_FIELD_NUMBER: _ClassVar[int]
    client: str
    identity: bytes
    encryption: bytes
    masking: bytes
    commitment: bytes
    signature: bytes
    certificate: bytes
    endorsement: bytes
    def __init__(self, client: _Optional[str] = ..., identity: _Optional[bytes] = ..., encryption: _Optional[bytes] = ..., masking: _Optional[bytes] = ..., commitment: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., endorsement: _Optional[bytes] = ...) -> None: ...

class MaskPart(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: int
    value: bytes
    def __init__(self, key: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...

class MaskDelivery(_message.Message):
    __slots__ = ("sharers", "parcels")
    SHARERS_FIELD_NUMBER: _ClassVar[int]
    PARCELS_FIELD_NUMBER: _ClassVar[int]
    sharers: bytes
    parcels: _containers.RepeatedCompositeFieldContainer[MaskPart]
    def __init__(self, sharers: _Optional[bytes] = ..., parcels: _Optional[_Iterable[_Union[MaskPart, _Mapping]]] = ...) -> None: ...

class MaskSurvivors(_message.Message):
    __slots__ = ("survivors", "signatures")
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    survivors: bytes
    signatures: _containers.RepeatedCompositeFieldContainer[MaskPart]
    def __init__(self, survivors: _Optional[bytes] = ..., signatures: _Optional[_Iterable[_Union[MaskPart, _Mapping]]] = ...) -> None: ...

class MaskUnmasking(_message.Message):
    __slots__ = ("survivors", "signatures")
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    survivors: bytes
    signatures: _containers.RepeatedCompositeFieldContainer[MaskPart]
    def __init__(self, survivors: _Optional[bytes] = ..., signatures: _Optional[_Iterable[_Union[MaskPart, _Mapping]]] = ...) -> None: ...

class MaskOpening(_message.Message):
    __slots__ = ("receiver",)
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    receiver: int
    def __init__(self, receiver: _Optional[int] = ...) -> None: ...

class Settings(_message.Message):
    __slots__ = ("seed", "round", "done_steps", "trained", "digest", "json", "steps", "judging")
    SEED_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DONE_STEPS_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    JUDGING_FIELD_NUMBER: _ClassVar[int]
    seed: int
    round: int
    done_steps: int
    trained: Side
    digest: bytes
    json: str
    steps: int
    judging: bool
    def __init__(self, seed: _Optional[int] = ..., round: _Optional[int] = ..., done_steps: _Optional[int] = ..., trained: _Optional[_Union[Side, str]] = ..., digest: _Optional[bytes] = ..., json: _Optional[str] = ..., steps: _Optional[int] = ..., judging: _Optional[bool] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("schema", "card", "update", "evaluation", "refusal", "masked")
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    schema: int
    card: ClientCard
    update: bytes
    evaluation: Evaluation
    refusal: Refusal
    masked: Masked
    def __init__(self, schema: _Optional[int] = ..., card: _Optional[_Union[ClientCard, _Mapping]] = ..., update: _Optional[bytes] = ..., evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., masked: _Optional[_Union[Masked, _Mapping]] = ...) -> None: ...

class Masked(_message.Message):
    __slots__ = ("client", "offer", "parcels", "ready", "signature", "revealed", "update", "unreadable", "opened")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    PARCELS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    REVEALED_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    client: str
    offer: MaskOffer
    parcels: MaskParts
    ready: bool
    signature: bytes
    revealed: MaskParts
    update: MaskedUpdate
    unreadable: bytes
    opened: bytes
    def __init__(self, client: _Optional[str] = ..., offer: _Optional[_Union[MaskOffer, _Mapping]] = ..., parcels: _Optional[_Union[MaskParts, _Mapping]] = ..., ready: _Optional[bool] = ..., signature: _Optional[bytes] = ..., revealed: _Optional[_Union[MaskParts, _Mapping]] = ..., update: _Optional[_Union[MaskedUpdate, _Mapping]] = ..., unreadable: _Optional[bytes] = ..., opened: _Optional[bytes] = ...) -> None: ...

class MaskParts(_message.Message):
    __slots__ = ("parts",)
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[MaskPart]
    def __init__(self, parts: _Optional[_Iterable[_Union[MaskPart, _Mapping]]] = ...) -> None: ...

class MaskedUpdate(_message.Message):
    __slots__ = ("values", "figures", "signature")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    values: bytes
    figures: bytes
    signature: bytes
    def __init__(self, values: _Optional[bytes] = ..., figures: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class HistogramEntry(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: int
    def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...

class ClientCard(_message.Message):
    __slots__ = ("client", "base_fingerprint", "spec_digest", "train_examples", "train_tokens", "held_out_examples", "held_out_tokens", "histogram", "max_rank", "cut_examples", "left_out_examples", "repeated_examples", "judge_examples", "judge_tokens")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    BASE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SPEC_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TRAIN_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TRAIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    MAX_RANK_FIELD_NUMBER: _ClassVar[int]
    CUT_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    REPEATED_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    JUDGE_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    JUDGE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    client: str
    base_fingerprint: bytes
    spec_digest: bytes
    train_examples: int
    train_tokens: int
    held_out_examples: int
    held_out_tokens: int
    histogram: _containers.RepeatedCompositeFieldContainer[HistogramEntry]
    max_rank: int
    cut_examples: int
    left_out_examples: int
    repeated_examples: int
    judge_examples: int
    judge_tokens: int
    def __init__(self, client: _Optional[str] = ..., base_fingerprint: _Optional[bytes] = ..., spec_digest: _Optional[bytes] = ..., train_examples: _Optional[int] = ..., train_tokens: _Optional[int] = ..., held_out_examples: _Optional[int] = ..., held_out_tokens: _Optional[int] = ..., histogram: _Optional[_Iterable[_Union[HistogramEntry, _Mapping]]] = ..., max_rank: _Optional[int] = ..., cut_examples: _Optional[int] = ..., left_out_examples: _Optional[int] = ..., repeated_examples: _Optional[int] = ..., judge_examples: _Optional[int] = ..., judge_tokens: _Optional[int] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("client", "round", "loss", "tokens", "examples", "correct", "own_loss", "own_correct", "loss_error", "change", "change_error", "own_loss_error", "own_change", "own_change_error", "reward_margin", "own_reward_margin", "clusters", "metric_sums", "own_metric_sums")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    OWN_LOSS_FIELD_NUMBER: _ClassVar[int]
    OWN_CORRECT_FIELD_NUMBER: _ClassVar[int]
    LOSS_ERROR_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    CHANGE_ERROR_FIELD_NUMBER: _ClassVar[int]
    OWN_LOSS_ERROR_FIELD_NUMBER: _ClassVar[int]
    OWN_CHANGE_FIELD_NUMBER: _ClassVar[int]
    OWN_CHANGE_ERROR_FIELD_NUMBER: _ClassVar[int]
    REWARD_MARGIN_FIELD_NUMBER: _ClassVar[int]
    OWN_REWARD_MARGIN_FIELD_NUMBER: _ClassVar[int]
    CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    METRIC_SUMS_FIELD_NUMBER: _ClassVar[int]
    OWN_METRIC_SUMS_FIELD_NUMBER: _ClassVar[int]
    client: str
    round: int
    loss: float
    tokens: int
    examples: int
    correct: int
    own_loss: float
    own_correct: int
    loss_error: float
    change: float
    change_error: float
    own_loss_error: float
    own_change: float
    own_change_error: float
    reward_margin: float
    own_reward_margin: float
    clusters: int
    metric_sums: _containers.RepeatedCompositeFieldContainer[MetricSum]
    own_metric_sums: _containers.RepeatedCompositeFieldContainer[MetricSum]
    def __init__(self, client: _Optional[str] = ..., round: _Optional[int] = ..., loss: _Optional[float] = ..., tokens: _Optional[int] = ..., examples: _Optional[int] = ..., correct: _Optional[int] = ..., own_loss: _Optional[float] = ..., own_correct: _Optional[int] = ..., loss_error: _Optional[float] = ..., change: _Optional[float] = ..., change_error: _Optional[float] = ..., own_loss_error: _Optional[float] = ..., own_change: _Optional[float] = ..., own_change_error: _Optional[float] = ..., reward_margin: _Optional[float] = ..., own_reward_margin: _Optional[float] = ..., clusters: _Optional[int] = ..., metric_sums: _Optional[_Iterable[_Union[MetricSum, _Mapping]]] = ..., own_metric_sums: _Optional[_Iterable[_Union[MetricSum, _Mapping]]] = ...) -> None: ...

class MetricSum(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: int
    value: float
    def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("client", "reason", "detail")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    client: str
    reason: RefusalReason
    detail: str
    def __init__(self, client: _Optional[str] = ..., reason: _Optional[_Union[RefusalReason, str]] = ..., detail: _Optional[str] = ...) -> None: ...
