from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StackBankKey(_message.Message):
    __slots__ = ("product_public", "reach_bits")
    PRODUCT_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    REACH_BITS_FIELD_NUMBER: _ClassVar[int]
    product_public: bytes
    reach_bits: int
    def __init__(self, product_public: _Optional[bytes] = ..., reach_bits: _Optional[int] = ...) -> None: ...

class StackHolderHints(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class StackBankQuery(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class StackBankBlock(_message.Message):
    __slots__ = ("part", "parts", "ciphertexts")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    ciphertexts: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., ciphertexts: _Optional[_Iterable[bytes]] = ...) -> None: ...

class StackHolderBlock(_message.Message):
    __slots__ = ("part", "parts", "reply")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    reply: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., reply: _Optional[_Iterable[bytes]] = ...) -> None: ...

class StackHolderShare(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class StackBankStep(_message.Message):
    __slots__ = ("kind", "columns", "radius")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[StackBankStep.Kind]
        MOMENTS: _ClassVar[StackBankStep.Kind]
        GRADIENT: _ClassVar[StackBankStep.Kind]
        LOSSES: _ClassVar[StackBankStep.Kind]
        SCORES: _ClassVar[StackBankStep.Kind]
        FINISHED: _ClassVar[StackBankStep.Kind]
    UNKNOWN: StackBankStep.Kind
    MOMENTS: StackBankStep.Kind
    GRADIENT: StackBankStep.Kind
    LOSSES: StackBankStep.Kind
    SCORES: StackBankStep.Kind
    FINISHED: StackBankStep.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    RADIUS_FIELD_NUMBER: _ClassVar[int]
    kind: StackBankStep.Kind
    columns: _containers.RepeatedScalarFieldContainer[int]
    radius: float
    def __init__(self, kind: _Optional[_Union[StackBankStep.Kind, str]] = ..., columns: _Optional[_Iterable[int]] = ..., radius: _Optional[float] = ...) -> None: ...

class StackBankChoice(_message.Message):
    __slots__ = ("kind", "scorecard", "boosting")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[StackBankChoice.Kind]
        SCORECARD: _ClassVar[StackBankChoice.Kind]
        BOOSTING: _ClassVar[StackBankChoice.Kind]
        STACK: _ClassVar[StackBankChoice.Kind]
    UNKNOWN: StackBankChoice.Kind
    SCORECARD: StackBankChoice.Kind
    BOOSTING: StackBankChoice.Kind
    STACK: StackBankChoice.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    SCORECARD_FIELD_NUMBER: _ClassVar[int]
    BOOSTING_FIELD_NUMBER: _ClassVar[int]
    kind: StackBankChoice.Kind
    scorecard: int
    boosting: int
    def __init__(self, kind: _Optional[_Union[StackBankChoice.Kind, str]] = ..., scorecard: _Optional[int] = ..., boosting: _Optional[int] = ...) -> None: ...

class StackHolderPart(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    def __init__(self, sha256: _Optional[bytes] = ...) -> None: ...

class StackHolderOpened(_message.Message):
    __slots__ = ("rounded",)
    ROUNDED_FIELD_NUMBER: _ClassVar[int]
    rounded: bytes
    def __init__(self, rounded: _Optional[bytes] = ...) -> None: ...
