from veilscore.v1 import scorecard_pb2 as _scorecard_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScreenBankRound1(_message.Message):
    __slots__ = ("n_samples", "train_mask", "n_train", "public_key", "chunks_done")
    N_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TRAIN_MASK_FIELD_NUMBER: _ClassVar[int]
    N_TRAIN_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_DONE_FIELD_NUMBER: _ClassVar[int]
    n_samples: int
    train_mask: bytes
    n_train: int
    public_key: bytes
    chunks_done: int
    def __init__(self, n_samples: _Optional[int] = ..., train_mask: _Optional[bytes] = ..., n_train: _Optional[int] = ..., public_key: _Optional[bytes] = ..., chunks_done: _Optional[int] = ...) -> None: ...

class ScreenBankLabel(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ScreenHolderChunk(_message.Message):
    __slots__ = ("chunk", "chunks", "columns", "status", "missing_rate", "stability", "shape", "patterns")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MISSING_RATE_FIELD_NUMBER: _ClassVar[int]
    STABILITY_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    chunk: int
    chunks: int
    columns: _containers.RepeatedScalarFieldContainer[str]
    status: bytes
    missing_rate: _containers.RepeatedScalarFieldContainer[float]
    stability: _containers.RepeatedScalarFieldContainer[float]
    shape: _scorecard_pb2.BinHolderRound1
    patterns: int
    def __init__(self, chunk: _Optional[int] = ..., chunks: _Optional[int] = ..., columns: _Optional[_Iterable[str]] = ..., status: _Optional[bytes] = ..., missing_rate: _Optional[_Iterable[float]] = ..., stability: _Optional[_Iterable[float]] = ..., shape: _Optional[_Union[_scorecard_pb2.BinHolderRound1, _Mapping]] = ..., patterns: _Optional[int] = ...) -> None: ...

class ScreenHolderSums(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ScreenHolderShares(_message.Message):
    __slots__ = ("shares",)
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: bytes
    def __init__(self, shares: _Optional[bytes] = ...) -> None: ...

class ScreenBankNext(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: int
    def __init__(self, chunk: _Optional[int] = ...) -> None: ...

class ScreenHolderPairs(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ScreenBankKept(_message.Message):
    __slots__ = ("kept", "screening_hash")
    KEPT_FIELD_NUMBER: _ClassVar[int]
    SCREENING_HASH_FIELD_NUMBER: _ClassVar[int]
    kept: bytes
    screening_hash: bytes
    def __init__(self, kept: _Optional[bytes] = ..., screening_hash: _Optional[bytes] = ...) -> None: ...

class ScreenSealed(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ScreenHolderKept(_message.Message):
    __slots__ = ("kept",)
    KEPT_FIELD_NUMBER: _ClassVar[int]
    kept: bytes
    def __init__(self, kept: _Optional[bytes] = ...) -> None: ...
