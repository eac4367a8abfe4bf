from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class BoostBankRound0(_message.Message):
    __slots__ = ("bank_n_codes", "ranks", "missing", "bank_missing")
    BANK_N_CODES_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    BANK_MISSING_FIELD_NUMBER: _ClassVar[int]
    bank_n_codes: _containers.RepeatedScalarFieldContainer[int]
    ranks: bytes
    missing: _containers.RepeatedScalarFieldContainer[bool]
    bank_missing: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, bank_n_codes: _Optional[_Iterable[int]] = ..., ranks: _Optional[bytes] = ..., missing: _Optional[_Iterable[bool]] = ..., bank_missing: _Optional[_Iterable[bool]] = ...) -> None: ...

class BoostHolderRound0(_message.Message):
    __slots__ = ("missing",)
    MISSING_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, missing: _Optional[_Iterable[bool]] = ...) -> None: ...

class BoostSealed(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BoostHolderPart(_message.Message):
    __slots__ = ("sha256", "columns")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    columns: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, sha256: _Optional[bytes] = ..., columns: _Optional[_Iterable[int]] = ...) -> None: ...

class BoostBankHints(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BoostHolderHints(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BoostBankTree(_message.Message):
    __slots__ = ("tree", "finished", "product_public", "harmonic", "previous", "remask_seed", "rows_seed", "bank_columns", "holder_columns", "shapes", "hand_over_to", "kept", "kept_sha256")
    TREE_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    HARMONIC_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    REMASK_SEED_FIELD_NUMBER: _ClassVar[int]
    ROWS_SEED_FIELD_NUMBER: _ClassVar[int]
    BANK_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    SHAPES_FIELD_NUMBER: _ClassVar[int]
    HAND_OVER_TO_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    KEPT_SHA256_FIELD_NUMBER: _ClassVar[int]
    tree: int
    finished: bool
    product_public: bytes
    harmonic: int
    previous: str
    remask_seed: bytes
    rows_seed: bytes
    bank_columns: _containers.RepeatedScalarFieldContainer[int]
    holder_columns: _containers.RepeatedScalarFieldContainer[int]
    shapes: bytes
    hand_over_to: str
    kept: int
    kept_sha256: bytes
    def __init__(self, tree: _Optional[int] = ..., finished: _Optional[bool] = ..., product_public: _Optional[bytes] = ..., harmonic: _Optional[int] = ..., previous: _Optional[str] = ..., remask_seed: _Optional[bytes] = ..., rows_seed: _Optional[bytes] = ..., bank_columns: _Optional[_Iterable[int]] = ..., holder_columns: _Optional[_Iterable[int]] = ..., shapes: _Optional[bytes] = ..., hand_over_to: _Optional[str] = ..., kept: _Optional[int] = ..., kept_sha256: _Optional[bytes] = ...) -> None: ...

class BoostHolderMargin(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BoostBankTables(_message.Message):
    __slots__ = ("part", "parts", "ciphertexts")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    ciphertexts: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., ciphertexts: _Optional[_Iterable[bytes]] = ...) -> None: ...

class BoostHolderGradients(_message.Message):
    __slots__ = ("part", "parts", "reply")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    reply: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., reply: _Optional[_Iterable[bytes]] = ...) -> None: ...

class BoostBankVectors(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BoostHolderVectors(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BoostBankLeaves(_message.Message):
    __slots__ = ("validate", "weight_bits")
    VALIDATE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BITS_FIELD_NUMBER: _ClassVar[int]
    validate: bool
    weight_bits: int
    def __init__(self, validate: _Optional[bool] = ..., weight_bits: _Optional[int] = ...) -> None: ...

class BoostHolderSums(_message.Message):
    __slots__ = ("sums",)
    SUMS_FIELD_NUMBER: _ClassVar[int]
    sums: bytes
    def __init__(self, sums: _Optional[bytes] = ...) -> None: ...

class BoostBankBlock(_message.Message):
    __slots__ = ("part", "parts", "ciphertexts")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    ciphertexts: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., ciphertexts: _Optional[_Iterable[bytes]] = ...) -> None: ...

class BoostHolderBlock(_message.Message):
    __slots__ = ("part", "parts", "reply")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    reply: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., reply: _Optional[_Iterable[bytes]] = ...) -> None: ...

class BoostPoints(_message.Message):
    __slots__ = ("points",)
    POINTS_FIELD_NUMBER: _ClassVar[int]
    points: bytes
    def __init__(self, points: _Optional[bytes] = ...) -> None: ...

class BoostChoices(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class BoostProducts(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class BoostHolderImprovement(_message.Message):
    __slots__ = ("share",)
    SHARE_FIELD_NUMBER: _ClassVar[int]
    share: bytes
    def __init__(self, share: _Optional[bytes] = ...) -> None: ...
