from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Hello(_message.Message):
    __slots__ = ("version", "party", "role", "clock_ms", "federation")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_MS_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    version: str
    party: str
    role: str
    clock_ms: int
    federation: str
    def __init__(self, version: _Optional[str] = ..., party: _Optional[str] = ..., role: _Optional[str] = ..., clock_ms: _Optional[int] = ..., federation: _Optional[str] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("version", "party", "role", "clock_ms", "federation")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_MS_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    version: str
    party: str
    role: str
    clock_ms: int
    federation: str
    def __init__(self, version: _Optional[str] = ..., party: _Optional[str] = ..., role: _Optional[str] = ..., clock_ms: _Optional[int] = ..., federation: _Optional[str] = ...) -> None: ...

class JobProposal(_message.Message):
    __slots__ = ("job_id", "job_yaml", "job_sha256")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_YAML_FIELD_NUMBER: _ClassVar[int]
    JOB_SHA256_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    job_yaml: str
    job_sha256: bytes
    def __init__(self, job_id: _Optional[str] = ..., job_yaml: _Optional[str] = ..., job_sha256: _Optional[bytes] = ...) -> None: ...

class Acceptance(_message.Message):
    __slots__ = ("job_id", "party", "accepted", "reason", "job_sha256", "signature", "pending", "bound")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    JOB_SHA256_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    party: str
    accepted: bool
    reason: str
    job_sha256: bytes
    signature: bytes
    pending: bool
    bound: str
    def __init__(self, job_id: _Optional[str] = ..., party: _Optional[str] = ..., accepted: _Optional[bool] = ..., reason: _Optional[str] = ..., job_sha256: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., pending: _Optional[bool] = ..., bound: _Optional[str] = ...) -> None: ...

class StepOrder(_message.Message):
    __slots__ = ("job_id", "step", "attempt", "deadline_s")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    step: str
    attempt: int
    deadline_s: float
    def __init__(self, job_id: _Optional[str] = ..., step: _Optional[str] = ..., attempt: _Optional[int] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class StepEvent(_message.Message):
    __slots__ = ("progress", "done", "failed")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    progress: StepProgress
    done: StepDone
    failed: StepFailed
    def __init__(self, progress: _Optional[_Union[StepProgress, _Mapping]] = ..., done: _Optional[_Union[StepDone, _Mapping]] = ..., failed: _Optional[_Union[StepFailed, _Mapping]] = ...) -> None: ...

class StepProgress(_message.Message):
    __slots__ = ("text", "done", "total")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    text: str
    done: int
    total: int
    def __init__(self, text: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class KindCount(_message.Message):
    __slots__ = ("sender", "recipient", "kind", "messages", "bytes")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    sender: str
    recipient: str
    kind: str
    messages: int
    bytes: int
    def __init__(self, sender: _Optional[str] = ..., recipient: _Optional[str] = ..., kind: _Optional[str] = ..., messages: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class StepDone(_message.Message):
    __slots__ = ("seconds", "bytes_sent", "bytes_received", "cpu_seconds", "peak_memory_bytes", "traffic")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    CPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PEAK_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    bytes_sent: int
    bytes_received: int
    cpu_seconds: float
    peak_memory_bytes: int
    traffic: _containers.RepeatedCompositeFieldContainer[KindCount]
    def __init__(self, seconds: _Optional[float] = ..., bytes_sent: _Optional[int] = ..., bytes_received: _Optional[int] = ..., cpu_seconds: _Optional[float] = ..., peak_memory_bytes: _Optional[int] = ..., traffic: _Optional[_Iterable[_Union[KindCount, _Mapping]]] = ...) -> None: ...

class StepFailed(_message.Message):
    __slots__ = ("error", "message", "retryable")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    error: str
    message: str
    retryable: bool
    def __init__(self, error: _Optional[str] = ..., message: _Optional[str] = ..., retryable: _Optional[bool] = ...) -> None: ...

class CancelOrder(_message.Message):
    __slots__ = ("job_id", "reason")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    reason: str
    def __init__(self, job_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SubmitJob(_message.Message):
    __slots__ = ("job_yaml",)
    JOB_YAML_FIELD_NUMBER: _ClassVar[int]
    job_yaml: str
    def __init__(self, job_yaml: _Optional[str] = ...) -> None: ...

class JobRef(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class JobList(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[JobInfo]
    def __init__(self, jobs: _Optional[_Iterable[_Union[JobInfo, _Mapping]]] = ...) -> None: ...

class StepInfo(_message.Message):
    __slots__ = ("step", "status", "attempt", "seconds", "party_status", "party_done")
    class PartyStatusEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class PartyDoneEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: StepDone
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[StepDone, _Mapping]] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PARTY_STATUS_FIELD_NUMBER: _ClassVar[int]
    PARTY_DONE_FIELD_NUMBER: _ClassVar[int]
    step: str
    status: str
    attempt: int
    seconds: float
    party_status: _containers.ScalarMap[str, str]
    party_done: _containers.MessageMap[str, StepDone]
    def __init__(self, step: _Optional[str] = ..., status: _Optional[str] = ..., attempt: _Optional[int] = ..., seconds: _Optional[float] = ..., party_status: _Optional[_Mapping[str, str]] = ..., party_done: _Optional[_Mapping[str, StepDone]] = ...) -> None: ...

class JobInfo(_message.Message):
    __slots__ = ("job_id", "name", "task", "status", "error", "steps", "acceptances", "created_s", "job_yaml", "receipt", "submitted_by")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTANCES_FIELD_NUMBER: _ClassVar[int]
    CREATED_S_FIELD_NUMBER: _ClassVar[int]
    JOB_YAML_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_BY_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    name: str
    task: str
    status: str
    error: str
    steps: _containers.RepeatedCompositeFieldContainer[StepInfo]
    acceptances: _containers.RepeatedCompositeFieldContainer[Acceptance]
    created_s: float
    job_yaml: str
    receipt: str
    submitted_by: str
    def __init__(self, job_id: _Optional[str] = ..., name: _Optional[str] = ..., task: _Optional[str] = ..., status: _Optional[str] = ..., error: _Optional[str] = ..., steps: _Optional[_Iterable[_Union[StepInfo, _Mapping]]] = ..., acceptances: _Optional[_Iterable[_Union[Acceptance, _Mapping]]] = ..., created_s: _Optional[float] = ..., job_yaml: _Optional[str] = ..., receipt: _Optional[str] = ..., submitted_by: _Optional[str] = ...) -> None: ...

class JobEvent(_message.Message):
    __slots__ = ("job_id", "party", "step", "text", "done", "total", "status")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    party: str
    step: str
    text: str
    done: int
    total: int
    status: str
    def __init__(self, job_id: _Optional[str] = ..., party: _Optional[str] = ..., step: _Optional[str] = ..., text: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., status: _Optional[str] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("request_id", "firm_id", "model", "timeout_s", "purpose", "features", "on_missing", "n_reasons", "consent", "output", "score_steps")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FIRM_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ON_MISSING_FIELD_NUMBER: _ClassVar[int]
    N_REASONS_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    SCORE_STEPS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    firm_id: str
    model: str
    timeout_s: float
    purpose: str
    features: _containers.ScalarMap[str, str]
    on_missing: str
    n_reasons: int
    consent: bytes
    output: str
    score_steps: int
    def __init__(self, request_id: _Optional[str] = ..., firm_id: _Optional[str] = ..., model: _Optional[str] = ..., timeout_s: _Optional[float] = ..., purpose: _Optional[str] = ..., features: _Optional[_Mapping[str, str]] = ..., on_missing: _Optional[str] = ..., n_reasons: _Optional[int] = ..., consent: _Optional[bytes] = ..., output: _Optional[str] = ..., score_steps: _Optional[int] = ...) -> None: ...

class PartyStatus(_message.Message):
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

class Reason(_message.Message):
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

class ScoreResponse(_message.Message):
    __slots__ = ("request_id", "status", "score", "band", "probability_of_default", "parties", "reasons", "model_version", "message", "units", "model", "model_sha256", "output", "band_number", "step", "steps", "measure", "failure")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BAND_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_OF_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    BAND_NUMBER_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    status: str
    score: float
    band: str
    probability_of_default: float
    parties: _containers.RepeatedCompositeFieldContainer[PartyStatus]
    reasons: _containers.RepeatedCompositeFieldContainer[Reason]
    model_version: str
    message: str
    units: int
    model: str
    model_sha256: bytes
    output: str
    band_number: int
    step: int
    steps: int
    measure: str
    failure: str
    def __init__(self, request_id: _Optional[str] = ..., status: _Optional[str] = ..., score: _Optional[float] = ..., band: _Optional[str] = ..., probability_of_default: _Optional[float] = ..., parties: _Optional[_Iterable[_Union[PartyStatus, _Mapping]]] = ..., reasons: _Optional[_Iterable[_Union[Reason, _Mapping]]] = ..., model_version: _Optional[str] = ..., message: _Optional[str] = ..., units: _Optional[int] = ..., model: _Optional[str] = ..., model_sha256: _Optional[bytes] = ..., output: _Optional[str] = ..., band_number: _Optional[int] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., measure: _Optional[str] = ..., failure: _Optional[str] = ...) -> None: ...

class EncryptRecord(_message.Message):
    __slots__ = ("request_id", "firm_id", "model_hash", "map_hash", "purpose", "on_missing", "spare_id", "part_hash", "consent", "fresh", "bands_hash", "step_limits", "decision", "spare_ids")
    class SpareIdsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FIRM_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_HASH_FIELD_NUMBER: _ClassVar[int]
    MAP_HASH_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    ON_MISSING_FIELD_NUMBER: _ClassVar[int]
    SPARE_ID_FIELD_NUMBER: _ClassVar[int]
    PART_HASH_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    BANDS_HASH_FIELD_NUMBER: _ClassVar[int]
    STEP_LIMITS_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    SPARE_IDS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    firm_id: str
    model_hash: bytes
    map_hash: bytes
    purpose: str
    on_missing: str
    spare_id: str
    part_hash: bytes
    consent: bytes
    fresh: bool
    bands_hash: bytes
    step_limits: _containers.RepeatedScalarFieldContainer[int]
    decision: str
    spare_ids: _containers.ScalarMap[str, str]
    def __init__(self, request_id: _Optional[str] = ..., firm_id: _Optional[str] = ..., model_hash: _Optional[bytes] = ..., map_hash: _Optional[bytes] = ..., purpose: _Optional[str] = ..., on_missing: _Optional[str] = ..., spare_id: _Optional[str] = ..., part_hash: _Optional[bytes] = ..., consent: _Optional[bytes] = ..., fresh: _Optional[bool] = ..., bands_hash: _Optional[bytes] = ..., step_limits: _Optional[_Iterable[int]] = ..., decision: _Optional[str] = ..., spare_ids: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ReasonCode(_message.Message):
    __slots__ = ("column", "code", "name")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    column: int
    code: int
    name: str
    def __init__(self, column: _Optional[int] = ..., code: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class EncryptedRecord(_message.Message):
    __slots__ = ("unknown", "no_spare", "discloses_unknown", "without_others", "share_key_id", "reason_codes", "data_time_s", "difference_share", "released_as", "difference_shares", "mask_seed")
    class DifferenceSharesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    NO_SPARE_FIELD_NUMBER: _ClassVar[int]
    DISCLOSES_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_OTHERS_FIELD_NUMBER: _ClassVar[int]
    SHARE_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_CODES_FIELD_NUMBER: _ClassVar[int]
    DATA_TIME_S_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_SHARE_FIELD_NUMBER: _ClassVar[int]
    RELEASED_AS_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_SHARES_FIELD_NUMBER: _ClassVar[int]
    MASK_SEED_FIELD_NUMBER: _ClassVar[int]
    unknown: bool
    no_spare: bool
    discloses_unknown: bool
    without_others: bool
    share_key_id: bytes
    reason_codes: _containers.RepeatedCompositeFieldContainer[ReasonCode]
    data_time_s: float
    difference_share: bytes
    released_as: str
    difference_shares: _containers.ScalarMap[str, bytes]
    mask_seed: bytes
    def __init__(self, unknown: _Optional[bool] = ..., no_spare: _Optional[bool] = ..., discloses_unknown: _Optional[bool] = ..., without_others: _Optional[bool] = ..., share_key_id: _Optional[bytes] = ..., reason_codes: _Optional[_Iterable[_Union[ReasonCode, _Mapping]]] = ..., data_time_s: _Optional[float] = ..., difference_share: _Optional[bytes] = ..., released_as: _Optional[str] = ..., difference_shares: _Optional[_Mapping[str, bytes]] = ..., mask_seed: _Optional[bytes] = ...) -> None: ...

class PrepareSpare(_message.Message):
    __slots__ = ("spare_id", "map_hash", "part_hash", "commitment", "n_spares")
    SPARE_ID_FIELD_NUMBER: _ClassVar[int]
    MAP_HASH_FIELD_NUMBER: _ClassVar[int]
    PART_HASH_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    N_SPARES_FIELD_NUMBER: _ClassVar[int]
    spare_id: str
    map_hash: bytes
    part_hash: bytes
    commitment: bytes
    n_spares: int
    def __init__(self, spare_id: _Optional[str] = ..., map_hash: _Optional[bytes] = ..., part_hash: _Optional[bytes] = ..., commitment: _Optional[bytes] = ..., n_spares: _Optional[int] = ...) -> None: ...

class PreparedSpare(_message.Message):
    __slots__ = ("ciphertext_enc", "keys_id")
    CIPHERTEXT_ENC_FIELD_NUMBER: _ClassVar[int]
    KEYS_ID_FIELD_NUMBER: _ClassVar[int]
    ciphertext_enc: _containers.RepeatedScalarFieldContainer[bytes]
    keys_id: bytes
    def __init__(self, ciphertext_enc: _Optional[_Iterable[bytes]] = ..., keys_id: _Optional[bytes] = ...) -> None: ...

class FinishSpare(_message.Message):
    __slots__ = ("spare_id", "evaluated_enc")
    SPARE_ID_FIELD_NUMBER: _ClassVar[int]
    EVALUATED_ENC_FIELD_NUMBER: _ClassVar[int]
    spare_id: str
    evaluated_enc: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, spare_id: _Optional[str] = ..., evaluated_enc: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AskKeys(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HolderKeys(_message.Message):
    __slots__ = ("public_key", "keys_id")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    KEYS_ID_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    keys_id: bytes
    def __init__(self, public_key: _Optional[bytes] = ..., keys_id: _Optional[bytes] = ...) -> None: ...

class ShareKey(_message.Message):
    __slots__ = ("public_key",)
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    def __init__(self, public_key: _Optional[bytes] = ...) -> None: ...

class OpenPartial(_message.Message):
    __slots__ = ("request_id", "spare_id", "with_parties", "share_key_ids", "factors_share", "bands_hash", "pool_id", "circuit", "choices_share", "spare_ids", "factors_shares")
    class ShareKeyIdsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    class SpareIdsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class FactorsSharesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SPARE_ID_FIELD_NUMBER: _ClassVar[int]
    WITH_PARTIES_FIELD_NUMBER: _ClassVar[int]
    SHARE_KEY_IDS_FIELD_NUMBER: _ClassVar[int]
    FACTORS_SHARE_FIELD_NUMBER: _ClassVar[int]
    BANDS_HASH_FIELD_NUMBER: _ClassVar[int]
    POOL_ID_FIELD_NUMBER: _ClassVar[int]
    CIRCUIT_FIELD_NUMBER: _ClassVar[int]
    CHOICES_SHARE_FIELD_NUMBER: _ClassVar[int]
    SPARE_IDS_FIELD_NUMBER: _ClassVar[int]
    FACTORS_SHARES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    spare_id: str
    with_parties: _containers.RepeatedScalarFieldContainer[str]
    share_key_ids: _containers.ScalarMap[str, bytes]
    factors_share: bytes
    bands_hash: bytes
    pool_id: str
    circuit: int
    choices_share: bytes
    spare_ids: _containers.ScalarMap[str, str]
    factors_shares: _containers.ScalarMap[str, bytes]
    def __init__(self, request_id: _Optional[str] = ..., spare_id: _Optional[str] = ..., with_parties: _Optional[_Iterable[str]] = ..., share_key_ids: _Optional[_Mapping[str, bytes]] = ..., factors_share: _Optional[bytes] = ..., bands_hash: _Optional[bytes] = ..., pool_id: _Optional[str] = ..., circuit: _Optional[int] = ..., choices_share: _Optional[bytes] = ..., spare_ids: _Optional[_Mapping[str, str]] = ..., factors_shares: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class OpenedPartial(_message.Message):
    __slots__ = ("no_pool", "tables", "decoding")
    NO_POOL_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    DECODING_FIELD_NUMBER: _ClassVar[int]
    no_pool: bool
    tables: bytes
    decoding: bytes
    def __init__(self, no_pool: _Optional[bool] = ..., tables: _Optional[bytes] = ..., decoding: _Optional[bytes] = ...) -> None: ...

class AddPartial(_message.Message):
    __slots__ = ("request_id", "partial_share", "with_parties")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_SHARE_FIELD_NUMBER: _ClassVar[int]
    WITH_PARTIES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    partial_share: bytes
    with_parties: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., partial_share: _Optional[bytes] = ..., with_parties: _Optional[_Iterable[str]] = ...) -> None: ...

class TotalRequest(_message.Message):
    __slots__ = ("request_id", "with_parties")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    WITH_PARTIES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    with_parties: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., with_parties: _Optional[_Iterable[str]] = ...) -> None: ...

class TotalReply(_message.Message):
    __slots__ = ("total_share",)
    TOTAL_SHARE_FIELD_NUMBER: _ClassVar[int]
    total_share: bytes
    def __init__(self, total_share: _Optional[bytes] = ...) -> None: ...

class BandPartial(_message.Message):
    __slots__ = ("request_id", "bank", "partial_share", "with_parties")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BANK_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_SHARE_FIELD_NUMBER: _ClassVar[int]
    WITH_PARTIES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    bank: str
    partial_share: bytes
    with_parties: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., bank: _Optional[str] = ..., partial_share: _Optional[bytes] = ..., with_parties: _Optional[_Iterable[str]] = ...) -> None: ...

class MakePool(_message.Message):
    __slots__ = ("pool_id", "point", "commitment")
    POOL_ID_FIELD_NUMBER: _ClassVar[int]
    POINT_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    pool_id: str
    point: bytes
    commitment: bytes
    def __init__(self, pool_id: _Optional[str] = ..., point: _Optional[bytes] = ..., commitment: _Optional[bytes] = ...) -> None: ...

class MadePool(_message.Message):
    __slots__ = ("points",)
    POINTS_FIELD_NUMBER: _ClassVar[int]
    points: bytes
    def __init__(self, points: _Optional[bytes] = ...) -> None: ...

class ExtendPool(_message.Message):
    __slots__ = ("pool_id", "transfers")
    POOL_ID_FIELD_NUMBER: _ClassVar[int]
    TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    pool_id: str
    transfers: bytes
    def __init__(self, pool_id: _Optional[str] = ..., transfers: _Optional[bytes] = ...) -> None: ...

class SignedConsent(_message.Message):
    __slots__ = ("body", "signature", "commitments")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    COMMITMENTS_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signature: bytes
    commitments: bytes
    def __init__(self, body: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., commitments: _Optional[bytes] = ...) -> None: ...

class AskSection(_message.Message):
    __slots__ = ("consent", "firm", "dataset")
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    FIRM_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    consent: bytes
    firm: str
    dataset: str
    def __init__(self, consent: _Optional[bytes] = ..., firm: _Optional[str] = ..., dataset: _Optional[str] = ...) -> None: ...

class WrittenSection(_message.Message):
    __slots__ = ("section",)
    SECTION_FIELD_NUMBER: _ClassVar[int]
    section: str
    def __init__(self, section: _Optional[str] = ...) -> None: ...

class AskRevocations(_message.Message):
    __slots__ = ("issuer", "number", "offset")
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    issuer: str
    number: int
    offset: int
    def __init__(self, issuer: _Optional[str] = ..., number: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class HeldRevocations(_message.Message):
    __slots__ = ("numbers", "size", "piece")
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    numbers: _containers.ScalarMap[str, int]
    size: int
    piece: bytes
    def __init__(self, numbers: _Optional[_Mapping[str, int]] = ..., size: _Optional[int] = ..., piece: _Optional[bytes] = ...) -> None: ...

class KeyStatements(_message.Message):
    __slots__ = ("statement",)
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    statement: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, statement: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SubmitCode(_message.Message):
    __slots__ = ("record", "files")
    class FilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    RECORD_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    record: bytes
    files: _containers.ScalarMap[str, bytes]
    def __init__(self, record: _Optional[bytes] = ..., files: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class CodeSubmitted(_message.Message):
    __slots__ = ("submission",)
    SUBMISSION_FIELD_NUMBER: _ClassVar[int]
    submission: str
    def __init__(self, submission: _Optional[str] = ...) -> None: ...

class AskOutputs(_message.Message):
    __slots__ = ("submission",)
    SUBMISSION_FIELD_NUMBER: _ClassVar[int]
    submission: str
    def __init__(self, submission: _Optional[str] = ...) -> None: ...

class ReleasedOutputs(_message.Message):
    __slots__ = ("status", "record", "files")
    class FilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    STATUS_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    status: str
    record: bytes
    files: _containers.ScalarMap[str, bytes]
    def __init__(self, status: _Optional[str] = ..., record: _Optional[bytes] = ..., files: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class JobEnd(_message.Message):
    __slots__ = ("job_id", "done", "no_receipt")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    NO_RECEIPT_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    done: bool
    no_receipt: str
    def __init__(self, job_id: _Optional[str] = ..., done: _Optional[bool] = ..., no_receipt: _Optional[str] = ...) -> None: ...

class EvidenceCall(_message.Message):
    __slots__ = ("ask", "job_id", "body")
    ASK_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    ask: str
    job_id: str
    body: bytes
    def __init__(self, ask: _Optional[str] = ..., job_id: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...

class EvidenceReply(_message.Message):
    __slots__ = ("body",)
    BODY_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    def __init__(self, body: _Optional[bytes] = ...) -> None: ...
