from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScoreAsked(_message.Message):
    __slots__ = ("request_id", "firm_id", "timeout_s", "on_missing", "purpose", "features", "consent", "model", "output", "steps", "reasons")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FIRM_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    ON_MISSING_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    firm_id: str
    timeout_s: float
    on_missing: str
    purpose: str
    features: _containers.ScalarMap[str, str]
    consent: str
    model: str
    output: str
    steps: int
    reasons: int
    def __init__(self, request_id: _Optional[str] = ..., firm_id: _Optional[str] = ..., timeout_s: _Optional[float] = ..., on_missing: _Optional[str] = ..., purpose: _Optional[str] = ..., features: _Optional[_Mapping[str, str]] = ..., consent: _Optional[str] = ..., model: _Optional[str] = ..., output: _Optional[str] = ..., steps: _Optional[int] = ..., reasons: _Optional[int] = ...) -> None: ...

class PartyAnswer(_message.Message):
    __slots__ = ("party", "status", "reason", "data_time_s")
    PARTY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DATA_TIME_S_FIELD_NUMBER: _ClassVar[int]
    party: str
    status: str
    reason: str
    data_time_s: float
    def __init__(self, party: _Optional[str] = ..., status: _Optional[str] = ..., reason: _Optional[str] = ..., data_time_s: _Optional[float] = ...) -> None: ...

class ReasonAnswer(_message.Message):
    __slots__ = ("party", "column", "points_lost", "text")
    PARTY_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    POINTS_LOST_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    party: str
    column: str
    points_lost: float
    text: str
    def __init__(self, party: _Optional[str] = ..., column: _Optional[str] = ..., points_lost: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class ScoreAnswer(_message.Message):
    __slots__ = ("request_id", "status", "model", "model_version", "model_sha256", "output", "score", "step", "steps", "band", "probability_of_default", "message", "parties", "reasons")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    BAND_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_OF_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    status: str
    model: str
    model_version: str
    model_sha256: str
    output: str
    score: float
    step: int
    steps: int
    band: str
    probability_of_default: float
    message: str
    parties: _containers.RepeatedCompositeFieldContainer[PartyAnswer]
    reasons: _containers.RepeatedCompositeFieldContainer[ReasonAnswer]
    def __init__(self, request_id: _Optional[str] = ..., status: _Optional[str] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., model_sha256: _Optional[str] = ..., output: _Optional[str] = ..., score: _Optional[float] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., band: _Optional[str] = ..., probability_of_default: _Optional[float] = ..., message: _Optional[str] = ..., parties: _Optional[_Iterable[_Union[PartyAnswer, _Mapping]]] = ..., reasons: _Optional[_Iterable[_Union[ReasonAnswer, _Mapping]]] = ...) -> None: ...

class DecisionAsked(_message.Message):
    __slots__ = ("request_id", "firm_id", "timeout_s", "on_missing", "purpose", "features", "consent", "decision")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FIRM_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    ON_MISSING_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    firm_id: str
    timeout_s: float
    on_missing: str
    purpose: str
    features: _containers.ScalarMap[str, str]
    consent: str
    decision: str
    def __init__(self, request_id: _Optional[str] = ..., firm_id: _Optional[str] = ..., timeout_s: _Optional[float] = ..., on_missing: _Optional[str] = ..., purpose: _Optional[str] = ..., features: _Optional[_Mapping[str, str]] = ..., consent: _Optional[str] = ..., decision: _Optional[str] = ...) -> None: ...

class DecisionReply(_message.Message):
    __slots__ = ("request_id", "status", "decision", "decision_version", "decision_sha256", "step", "name", "steps", "measure", "message", "parties")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    DECISION_VERSION_FIELD_NUMBER: _ClassVar[int]
    DECISION_SHA256_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    status: str
    decision: str
    decision_version: str
    decision_sha256: str
    step: int
    name: str
    steps: int
    measure: str
    message: str
    parties: _containers.RepeatedCompositeFieldContainer[PartyAnswer]
    def __init__(self, request_id: _Optional[str] = ..., status: _Optional[str] = ..., decision: _Optional[str] = ..., decision_version: _Optional[str] = ..., decision_sha256: _Optional[str] = ..., step: _Optional[int] = ..., name: _Optional[str] = ..., steps: _Optional[int] = ..., measure: _Optional[str] = ..., message: _Optional[str] = ..., parties: _Optional[_Iterable[_Union[PartyAnswer, _Mapping]]] = ...) -> None: ...

class HealthAsked(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthAnswer(_message.Message):
    __slots__ = ("status", "node", "version", "caller", "may")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    MAY_FIELD_NUMBER: _ClassVar[int]
    status: str
    node: str
    version: str
    caller: str
    may: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, status: _Optional[str] = ..., node: _Optional[str] = ..., version: _Optional[str] = ..., caller: _Optional[str] = ..., may: _Optional[_Iterable[str]] = ...) -> None: ...
