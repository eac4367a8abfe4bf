from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ShardMessage(_message.Message):
    __slots__ = ("shard", "run", "lost", "finished", "body")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    shard: int
    run: int
    lost: bool
    finished: bytes
    body: bytes
    def __init__(self, shard: _Optional[int] = ..., run: _Optional[int] = ..., lost: _Optional[bool] = ..., finished: _Optional[bytes] = ..., body: _Optional[bytes] = ...) -> None: ...
