from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class BatchBankRound1(_message.Message):
    __slots__ = ("n_samples", "rows", "model_hash", "map_hash", "part_hash", "limits", "inputs_hash")
    N_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MODEL_HASH_FIELD_NUMBER: _ClassVar[int]
    MAP_HASH_FIELD_NUMBER: _ClassVar[int]
    PART_HASH_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_HASH_FIELD_NUMBER: _ClassVar[int]
    n_samples: int
    rows: bytes
    model_hash: bytes
    map_hash: bytes
    part_hash: bytes
    limits: _containers.RepeatedScalarFieldContainer[int]
    inputs_hash: bytes
    def __init__(self, n_samples: _Optional[int] = ..., rows: _Optional[bytes] = ..., model_hash: _Optional[bytes] = ..., map_hash: _Optional[bytes] = ..., part_hash: _Optional[bytes] = ..., limits: _Optional[_Iterable[int]] = ..., inputs_hash: _Optional[bytes] = ...) -> None: ...

class BatchHolderRound1(_message.Message):
    __slots__ = ("accepted", "reason", "n_codes", "discloses_unknown", "unknown")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    N_CODES_FIELD_NUMBER: _ClassVar[int]
    DISCLOSES_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    reason: str
    n_codes: _containers.RepeatedScalarFieldContainer[int]
    discloses_unknown: bool
    unknown: bytes
    def __init__(self, accepted: _Optional[bool] = ..., reason: _Optional[str] = ..., n_codes: _Optional[_Iterable[int]] = ..., discloses_unknown: _Optional[bool] = ..., unknown: _Optional[bytes] = ...) -> None: ...

class BatchHolderKey(_message.Message):
    __slots__ = ("public_key",)
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    def __init__(self, public_key: _Optional[bytes] = ...) -> None: ...

class BatchHolderHints(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BatchBankQuery(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BatchHolderPartial(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BatchCoordinatorTotal(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BatchBankRound0(_message.Message):
    __slots__ = ("n_scored", "trees")
    N_SCORED_FIELD_NUMBER: _ClassVar[int]
    TREES_FIELD_NUMBER: _ClassVar[int]
    n_scored: int
    trees: bool
    def __init__(self, n_scored: _Optional[int] = ..., trees: _Optional[bool] = ...) -> None: ...

class BatchConsent(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BatchBankKey(_message.Message):
    __slots__ = ("product_public",)
    PRODUCT_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    product_public: bytes
    def __init__(self, product_public: _Optional[bytes] = ...) -> None: ...

class BatchBankFactors(_message.Message):
    __slots__ = ("block", "part", "ciphertext_enc")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXT_ENC_FIELD_NUMBER: _ClassVar[int]
    block: int
    part: int
    ciphertext_enc: bytes
    def __init__(self, block: _Optional[int] = ..., part: _Optional[int] = ..., ciphertext_enc: _Optional[bytes] = ...) -> None: ...

class BatchHolderReply(_message.Message):
    __slots__ = ("block", "reply_enc")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    REPLY_ENC_FIELD_NUMBER: _ClassVar[int]
    block: int
    reply_enc: bytes
    def __init__(self, block: _Optional[int] = ..., reply_enc: _Optional[bytes] = ...) -> None: ...

class BandHolderPartial(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BandBankBase(_message.Message):
    __slots__ = ("point",)
    POINT_FIELD_NUMBER: _ClassVar[int]
    point: bytes
    def __init__(self, point: _Optional[bytes] = ...) -> None: ...

class BandLeadBase(_message.Message):
    __slots__ = ("points",)
    POINTS_FIELD_NUMBER: _ClassVar[int]
    points: bytes
    def __init__(self, points: _Optional[bytes] = ...) -> None: ...

class BandBankLabels(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BandLeadTables(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BandLeadDecoding(_message.Message):
    __slots__ = ("bits",)
    BITS_FIELD_NUMBER: _ClassVar[int]
    bits: bytes
    def __init__(self, bits: _Optional[bytes] = ...) -> None: ...

class CurveBankSteps(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, limits: _Optional[_Iterable[int]] = ...) -> None: ...

class CurveLeadCounts(_message.Message):
    __slots__ = ("counts",)
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    counts: bytes
    def __init__(self, counts: _Optional[bytes] = ...) -> None: ...

class DecisionBankRound1(_message.Message):
    __slots__ = ("n_samples", "decision", "inputs_hash", "last", "links")
    N_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_HASH_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    n_samples: int
    decision: bytes
    inputs_hash: bytes
    last: str
    links: bytes
    def __init__(self, n_samples: _Optional[int] = ..., decision: _Optional[bytes] = ..., inputs_hash: _Optional[bytes] = ..., last: _Optional[str] = ..., links: _Optional[bytes] = ...) -> None: ...

class DecisionHolderRound1(_message.Message):
    __slots__ = ("accepted", "reason", "discloses_unknown", "unknown", "mask_seed")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DISCLOSES_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    MASK_SEED_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    reason: str
    discloses_unknown: bool
    unknown: bytes
    mask_seed: bytes
    def __init__(self, accepted: _Optional[bool] = ..., reason: _Optional[str] = ..., discloses_unknown: _Optional[bool] = ..., unknown: _Optional[bytes] = ..., mask_seed: _Optional[bytes] = ...) -> None: ...

class DecisionBankCounts(_message.Message):
    __slots__ = ("counts",)
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, counts: _Optional[_Iterable[int]] = ...) -> None: ...

class DecisionLeadLevels(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
