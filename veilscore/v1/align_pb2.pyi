from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class AlignHolderRound1(_message.Message):
    __slots__ = ("n_ids", "points", "digest_key")
    N_IDS_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_KEY_FIELD_NUMBER: _ClassVar[int]
    n_ids: int
    points: bytes
    digest_key: bytes
    def __init__(self, n_ids: _Optional[int] = ..., points: _Optional[bytes] = ..., digest_key: _Optional[bytes] = ...) -> None: ...

class AlignBankRound1(_message.Message):
    __slots__ = ("n_ids", "points")
    N_IDS_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    n_ids: int
    points: bytes
    def __init__(self, n_ids: _Optional[int] = ..., points: _Optional[bytes] = ...) -> None: ...

class AlignHolderStore(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class AlignBankRound2(_message.Message):
    __slots__ = ("part", "parts", "data", "digests", "digest_key", "firms")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_KEY_FIELD_NUMBER: _ClassVar[int]
    FIRMS_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    digests: bytes
    digest_key: bytes
    firms: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ..., digests: _Optional[bytes] = ..., digest_key: _Optional[bytes] = ..., firms: _Optional[bytes] = ...) -> None: ...

class AlignHolderRound2(_message.Message):
    __slots__ = ("accepted", "reason")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    reason: str
    def __init__(self, accepted: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...
