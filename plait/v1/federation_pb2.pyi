from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RefusedReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSED_REASON_UNSPECIFIED: _ClassVar[RefusedReason]
    REFUSED_REASON_PROTOCOL: _ClassVar[RefusedReason]
    REFUSED_REASON_UNKNOWN_KEY: _ClassVar[RefusedReason]
    REFUSED_REASON_REVOKED_KEY: _ClassVar[RefusedReason]
    REFUSED_REASON_WRONG_NAME: _ClassVar[RefusedReason]
    REFUSED_REASON_BAD_PROOF: _ClassVar[RefusedReason]
    REFUSED_REASON_BASE_MISMATCH: _ClassVar[RefusedReason]
    REFUSED_REASON_REPLACED: _ClassVar[RefusedReason]
    REFUSED_REASON_MALFORMED: _ClassVar[RefusedReason]
    REFUSED_REASON_FULL: _ClassVar[RefusedReason]
    REFUSED_REASON_LATE: _ClassVar[RefusedReason]
    REFUSED_REASON_ROLE: _ClassVar[RefusedReason]

class Content(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONTENT_UNSPECIFIED: _ClassVar[Content]
    CONTENT_PLAIT: _ClassVar[Content]
    CONTENT_ERROR: _ClassVar[Content]
REFUSED_REASON_UNSPECIFIED: RefusedReason
REFUSED_REASON_PROTOCOL: RefusedReason
REFUSED_REASON_UNKNOWN_KEY: RefusedReason
REFUSED_REASON_REVOKED_KEY: RefusedReason
REFUSED_REASON_WRONG_NAME: RefusedReason
REFUSED_REASON_BAD_PROOF: RefusedReason
REFUSED_REASON_BASE_MISMATCH: RefusedReason
REFUSED_REASON_REPLACED: RefusedReason
REFUSED_REASON_MALFORMED: RefusedReason
REFUSED_REASON_FULL: RefusedReason
REFUSED_REASON_LATE: RefusedReason
REFUSED_REASON_ROLE: RefusedReason
CONTENT_UNSPECIFIED: Content
CONTENT_PLAIT: Content
CONTENT_ERROR: Content

class FromNode(_message.Message):
    __slots__ = ("hello", "proof", "ready", "progress", "answer")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    proof: Proof
    ready: Ready
    progress: Progress
    answer: Answer
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., proof: _Optional[_Union[Proof, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ...) -> None: ...

class ToNode(_message.Message):
    __slots__ = ("challenge", "welcome", "refused", "work", "withdraw", "drain", "unfit", "receipt")
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    WITHDRAW_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    UNFIT_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    challenge: Challenge
    welcome: Welcome
    refused: Refused
    work: Work
    withdraw: Withdraw
    drain: Drain
    unfit: Unfit
    receipt: Receipt
    def __init__(self, challenge: _Optional[_Union[Challenge, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., work: _Optional[_Union[Work, _Mapping]] = ..., withdraw: _Optional[_Union[Withdraw, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., unfit: _Optional[_Union[Unfit, _Mapping]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "name", "public_key", "nonce", "version")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    name: str
    public_key: bytes
    nonce: bytes
    version: str
    def __init__(self, protocol: _Optional[int] = ..., name: _Optional[str] = ..., public_key: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., version: _Optional[str] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    def __init__(self, nonce: _Optional[bytes] = ...) -> None: ...

class Proof(_message.Message):
    __slots__ = ("signature",)
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    def __init__(self, signature: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session", "node_id", "run_id", "run_config_json", "base_fingerprint", "max_answer_bytes", "stays", "run_name")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    BASE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MAX_ANSWER_BYTES_FIELD_NUMBER: _ClassVar[int]
    STAYS_FIELD_NUMBER: _ClassVar[int]
    RUN_NAME_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    node_id: int
    run_id: int
    run_config_json: str
    base_fingerprint: bytes
    max_answer_bytes: int
    stays: bool
    run_name: str
    def __init__(self, session: _Optional[bytes] = ..., node_id: _Optional[int] = ..., run_id: _Optional[int] = ..., run_config_json: _Optional[str] = ..., base_fingerprint: _Optional[bytes] = ..., max_answer_bytes: _Optional[int] = ..., stays: _Optional[bool] = ..., run_name: _Optional[str] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("base_fingerprint", "methods", "memory_bytes", "device", "run_id")
    BASE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    base_fingerprint: bytes
    methods: _containers.RepeatedScalarFieldContainer[str]
    memory_bytes: int
    device: str
    run_id: int
    def __init__(self, base_fingerprint: _Optional[bytes] = ..., methods: _Optional[_Iterable[str]] = ..., memory_bytes: _Optional[int] = ..., device: _Optional[str] = ..., run_id: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("task_id", "doing")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    DOING_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    doing: str
    def __init__(self, task_id: _Optional[str] = ..., doing: _Optional[str] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("task_id", "content", "data")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    content: Content
    data: bytes
    def __init__(self, task_id: _Optional[str] = ..., content: _Optional[_Union[Content, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("reason", "detail")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    reason: RefusedReason
    detail: str
    def __init__(self, reason: _Optional[_Union[RefusedReason, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class Work(_message.Message):
    __slots__ = ("task_id", "message_type", "group_id", "head", "body_bytes", "body_sha256")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_TYPE_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    BODY_SHA256_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    message_type: str
    group_id: str
    head: bytes
    body_bytes: int
    body_sha256: bytes
    def __init__(self, task_id: _Optional[str] = ..., message_type: _Optional[str] = ..., group_id: _Optional[str] = ..., head: _Optional[bytes] = ..., body_bytes: _Optional[int] = ..., body_sha256: _Optional[bytes] = ...) -> None: ...

class Withdraw(_message.Message):
    __slots__ = ("task_id", "reason")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    reason: str
    def __init__(self, task_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("finished",)
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    finished: bool
    def __init__(self, finished: _Optional[bool] = ...) -> None: ...

class Unfit(_message.Message):
    __slots__ = ("reason", "detail")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    reason: str
    detail: str
    def __init__(self, reason: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("session", "sha256", "offset")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    sha256: bytes
    offset: int
    def __init__(self, session: _Optional[bytes] = ..., sha256: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class HeldRequest(_message.Message):
    __slots__ = ("session", "task_id", "sha256")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    task_id: str
    sha256: bytes
    def __init__(self, session: _Optional[bytes] = ..., task_id: _Optional[str] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class HeldReply(_message.Message):
    __slots__ = ("offset", "complete", "late", "unknown")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    offset: int
    complete: bool
    late: bool
    unknown: bool
    def __init__(self, offset: _Optional[int] = ..., complete: _Optional[bool] = ..., late: _Optional[bool] = ..., unknown: _Optional[bool] = ...) -> None: ...

class UploadPart(_message.Message):
    __slots__ = ("start", "data")
    START_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    start: UploadStart
    data: bytes
    def __init__(self, start: _Optional[_Union[UploadStart, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadStart(_message.Message):
    __slots__ = ("session", "task_id", "content", "size", "sha256", "offset")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    task_id: str
    content: Content
    size: int
    sha256: bytes
    offset: int
    def __init__(self, session: _Optional[bytes] = ..., task_id: _Optional[str] = ..., content: _Optional[_Union[Content, str]] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("kept", "task_id")
    KEPT_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    kept: bool
    task_id: str
    def __init__(self, kept: _Optional[bool] = ..., task_id: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    def __init__(self, token: _Optional[bytes] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: str
    def __init__(self, json: _Optional[str] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("config_json", "priority", "name")
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    config_json: str
    priority: int
    name: str
    def __init__(self, config_json: _Optional[str] = ..., priority: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class SubmitReply(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class CancelReply(_message.Message):
    __slots__ = ("was",)
    WAS_FIELD_NUMBER: _ClassVar[int]
    was: str
    def __init__(self, was: _Optional[str] = ...) -> None: ...

class RunsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunsReply(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: str
    def __init__(self, json: _Optional[str] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class FilePart(_message.Message):
    __slots__ = ("path", "data")
    PATH_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    path: str
    data: bytes
    def __init__(self, path: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...
