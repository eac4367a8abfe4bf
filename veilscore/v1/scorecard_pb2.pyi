from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class BinBankRound1(_message.Message):
    __slots__ = ("n_samples", "train_mask", "n_train", "max_bin")
    N_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TRAIN_MASK_FIELD_NUMBER: _ClassVar[int]
    N_TRAIN_FIELD_NUMBER: _ClassVar[int]
    MAX_BIN_FIELD_NUMBER: _ClassVar[int]
    n_samples: int
    train_mask: bytes
    n_train: int
    max_bin: int
    def __init__(self, n_samples: _Optional[int] = ..., train_mask: _Optional[bytes] = ..., n_train: _Optional[int] = ..., max_bin: _Optional[int] = ...) -> None: ...

class BinHolderRound1(_message.Message):
    __slots__ = ("columns", "n_codes", "counts", "holdout_counts", "ordered", "missing_code", "association", "map_hash")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    N_CODES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    HOLDOUT_COUNTS_FIELD_NUMBER: _ClassVar[int]
    ORDERED_FIELD_NUMBER: _ClassVar[int]
    MISSING_CODE_FIELD_NUMBER: _ClassVar[int]
    ASSOCIATION_FIELD_NUMBER: _ClassVar[int]
    MAP_HASH_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedScalarFieldContainer[str]
    n_codes: _containers.RepeatedScalarFieldContainer[int]
    counts: bytes
    holdout_counts: bytes
    ordered: _containers.RepeatedScalarFieldContainer[bool]
    missing_code: _containers.RepeatedScalarFieldContainer[int]
    association: bytes
    map_hash: bytes
    def __init__(self, columns: _Optional[_Iterable[str]] = ..., n_codes: _Optional[_Iterable[int]] = ..., counts: _Optional[bytes] = ..., holdout_counts: _Optional[bytes] = ..., ordered: _Optional[_Iterable[bool]] = ..., missing_code: _Optional[_Iterable[int]] = ..., association: _Optional[bytes] = ..., map_hash: _Optional[bytes] = ...) -> None: ...

class BinHolderHints(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BinBankRound2(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class BinHolderRound2(_message.Message):
    __slots__ = ("shares",)
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: bytes
    def __init__(self, shares: _Optional[bytes] = ...) -> None: ...

class TrainBankRound0(_message.Message):
    __slots__ = ("product_public", "woe_enc", "bank_n_codes")
    PRODUCT_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    WOE_ENC_FIELD_NUMBER: _ClassVar[int]
    BANK_N_CODES_FIELD_NUMBER: _ClassVar[int]
    product_public: bytes
    woe_enc: _containers.RepeatedScalarFieldContainer[bytes]
    bank_n_codes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, product_public: _Optional[bytes] = ..., woe_enc: _Optional[_Iterable[bytes]] = ..., bank_n_codes: _Optional[_Iterable[int]] = ...) -> None: ...

class TrainHolderHistogramHints(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class TrainHolderLookupHints(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class TrainBankHints(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class TrainBankStep(_message.Message):
    __slots__ = ("step", "finished", "radius", "model_hash")
    STEP_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    RADIUS_FIELD_NUMBER: _ClassVar[int]
    MODEL_HASH_FIELD_NUMBER: _ClassVar[int]
    step: int
    finished: bool
    radius: float
    model_hash: bytes
    def __init__(self, step: _Optional[int] = ..., finished: _Optional[bool] = ..., radius: _Optional[float] = ..., model_hash: _Optional[bytes] = ...) -> None: ...

class TrainBankEta(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class TrainBankTables(_message.Message):
    __slots__ = ("part", "parts", "ciphertexts")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    ciphertexts: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., ciphertexts: _Optional[_Iterable[bytes]] = ...) -> None: ...

class TrainHolderEta(_message.Message):
    __slots__ = ("share",)
    SHARE_FIELD_NUMBER: _ClassVar[int]
    share: bytes
    def __init__(self, share: _Optional[bytes] = ...) -> None: ...

class TrainLeadSigmoid(_message.Message):
    __slots__ = ("part", "parts", "reply")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    reply: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., reply: _Optional[bytes] = ...) -> None: ...

class TrainLeadCells(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class TrainLeadResidual(_message.Message):
    __slots__ = ("share",)
    SHARE_FIELD_NUMBER: _ClassVar[int]
    share: bytes
    def __init__(self, share: _Optional[bytes] = ...) -> None: ...

class TrainBankResidual(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class TrainHolderGradient(_message.Message):
    __slots__ = ("reply", "rounded")
    REPLY_FIELD_NUMBER: _ClassVar[int]
    ROUNDED_FIELD_NUMBER: _ClassVar[int]
    reply: bytes
    rounded: bytes
    def __init__(self, reply: _Optional[bytes] = ..., rounded: _Optional[bytes] = ...) -> None: ...

class ResidualHolderColumns(_message.Message):
    __slots__ = ("columns",)
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    columns: int
    def __init__(self, columns: _Optional[int] = ...) -> None: ...

class RefitBankJob(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class RefitHolderReady(_message.Message):
    __slots__ = ("map_sha256",)
    MAP_SHA256_FIELD_NUMBER: _ClassVar[int]
    map_sha256: bytes
    def __init__(self, map_sha256: _Optional[bytes] = ...) -> None: ...

class ResidualBankTables(_message.Message):
    __slots__ = ("product_public", "x_enc", "moments", "inner_public")
    PRODUCT_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    X_ENC_FIELD_NUMBER: _ClassVar[int]
    MOMENTS_FIELD_NUMBER: _ClassVar[int]
    INNER_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    product_public: bytes
    x_enc: _containers.RepeatedScalarFieldContainer[bytes]
    moments: _containers.RepeatedScalarFieldContainer[int]
    inner_public: bytes
    def __init__(self, product_public: _Optional[bytes] = ..., x_enc: _Optional[_Iterable[bytes]] = ..., moments: _Optional[_Iterable[int]] = ..., inner_public: _Optional[bytes] = ...) -> None: ...

class ResidualHolderHints(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ResidualBankLookup(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ResidualBankBlock(_message.Message):
    __slots__ = ("part", "parts", "ciphertexts")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    ciphertexts: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., ciphertexts: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ResidualHolderSums(_message.Message):
    __slots__ = ("part", "parts", "data")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    data: bytes
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ResidualHolderOpened(_message.Message):
    __slots__ = ("reply", "gradient", "moments")
    REPLY_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    MOMENTS_FIELD_NUMBER: _ClassVar[int]
    reply: bytes
    gradient: bytes
    moments: bytes
    def __init__(self, reply: _Optional[bytes] = ..., gradient: _Optional[bytes] = ..., moments: _Optional[bytes] = ...) -> None: ...
