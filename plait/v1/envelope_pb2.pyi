from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Direction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIRECTION_UNSPECIFIED: _ClassVar[Direction]
    DIRECTION_UPDATE: _ClassVar[Direction]
    DIRECTION_BROADCAST: _ClassVar[Direction]

class Codec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODEC_UNSPECIFIED: _ClassVar[Codec]
    CODEC_UNCHANGED: _ClassVar[Codec]
    CODEC_FP32: _ClassVar[Codec]
    CODEC_BF16: _ClassVar[Codec]
    CODEC_RATE: _ClassVar[Codec]
    CODEC_FP32_PARTIAL: _ClassVar[Codec]
    CODEC_BF16_PARTIAL: _ClassVar[Codec]
DIRECTION_UNSPECIFIED: Direction
DIRECTION_UPDATE: Direction
DIRECTION_BROADCAST: Direction
CODEC_UNSPECIFIED: Codec
CODEC_UNCHANGED: Codec
CODEC_FP32: Codec
CODEC_BF16: Codec
CODEC_RATE: Codec
CODEC_FP32_PARTIAL: Codec
CODEC_BF16_PARTIAL: Codec

class Envelope(_message.Message):
    __slots__ = ("schema", "header", "payload", "signature")
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    schema: int
    header: bytes
    payload: bytes
    signature: bytes
    def __init__(self, schema: _Optional[int] = ..., header: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: float
    def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("direction", "run_id", "round", "client", "base_fingerprint", "spec_digest", "relative_to", "result_digest", "codec", "codec_parameters", "payload_digest", "spec_json", "examples", "metrics")
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    BASE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SPEC_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_TO_FIELD_NUMBER: _ClassVar[int]
    RESULT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    CODEC_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    direction: Direction
    run_id: bytes
    round: int
    client: str
    base_fingerprint: bytes
    spec_digest: bytes
    relative_to: bytes
    result_digest: bytes
    codec: Codec
    codec_parameters: bytes
    payload_digest: bytes
    spec_json: str
    examples: int
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    def __init__(self, direction: _Optional[_Union[Direction, str]] = ..., run_id: _Optional[bytes] = ..., round: _Optional[int] = ..., client: _Optional[str] = ..., base_fingerprint: _Optional[bytes] = ..., spec_digest: _Optional[bytes] = ..., relative_to: _Optional[bytes] = ..., result_digest: _Optional[bytes] = ..., codec: _Optional[_Union[Codec, str]] = ..., codec_parameters: _Optional[bytes] = ..., payload_digest: _Optional[bytes] = ..., spec_json: _Optional[str] = ..., examples: _Optional[int] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ...) -> None: ...
