from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class WriteHolderMap(_message.Message):
    __slots__ = ("map_hash", "n_codes")
    MAP_HASH_FIELD_NUMBER: _ClassVar[int]
    N_CODES_FIELD_NUMBER: _ClassVar[int]
    map_hash: bytes
    n_codes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, map_hash: _Optional[bytes] = ..., n_codes: _Optional[_Iterable[int]] = ...) -> None: ...

class FileBankPins(_message.Message):
    __slots__ = ("pins",)
    PINS_FIELD_NUMBER: _ClassVar[int]
    pins: bytes
    def __init__(self, pins: _Optional[bytes] = ...) -> None: ...

class FileHolderMap(_message.Message):
    __slots__ = ("map_hash",)
    MAP_HASH_FIELD_NUMBER: _ClassVar[int]
    map_hash: bytes
    def __init__(self, map_hash: _Optional[bytes] = ...) -> None: ...

class FileBankDecision(_message.Message):
    __slots__ = ("decision_hash", "knock_outs")
    class KnockOutsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    DECISION_HASH_FIELD_NUMBER: _ClassVar[int]
    KNOCK_OUTS_FIELD_NUMBER: _ClassVar[int]
    decision_hash: bytes
    knock_outs: _containers.ScalarMap[str, bytes]
    def __init__(self, decision_hash: _Optional[bytes] = ..., knock_outs: _Optional[_Mapping[str, bytes]] = ...) -> None: ...
