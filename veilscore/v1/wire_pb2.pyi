from veilscore.v1 import align_pb2 as _align_pb2
from veilscore.v1 import scorecard_pb2 as _scorecard_pb2
from veilscore.v1 import filing_pb2 as _filing_pb2
from veilscore.v1 import score_pb2 as _score_pb2
from veilscore.v1 import boosting_pb2 as _boosting_pb2
from veilscore.v1 import chains_pb2 as _chains_pb2
from veilscore.v1 import screening_pb2 as _screening_pb2
from veilscore.v1 import shard_pb2 as _shard_pb2
from veilscore.v1 import stacking_pb2 as _stacking_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Body(_message.Message):
    __slots__ = ("step_commitment", "align_bank_round1", "align_holder_round1", "align_bank_round2", "align_holder_round2", "align_holder_store", "bin_bank_round1", "bin_holder_round1", "bin_holder_hints", "bin_bank_round2", "bin_holder_round2", "train_bank_round0", "train_holder_histogram_hints", "train_holder_lookup_hints", "train_bank_hints", "train_bank_step", "train_bank_eta", "train_bank_tables", "train_holder_eta", "train_lead_sigmoid", "train_lead_cells", "train_lead_residual", "train_bank_residual", "train_holder_gradient", "residual_bank_tables", "residual_holder_hints", "residual_bank_lookup", "residual_bank_block", "residual_holder_sums", "residual_holder_opened", "residual_holder_columns", "refit_bank_job", "refit_holder_ready", "write_holder_map", "file_bank_pins", "file_holder_map", "file_bank_decision", "batch_bank_round0", "batch_bank_round1", "batch_holder_round1", "batch_holder_key", "batch_holder_hints", "batch_bank_query", "batch_holder_partial", "batch_coordinator_total", "boost_bank_round0", "boost_bank_hints", "boost_holder_hints", "boost_bank_tree", "boost_holder_margin", "boost_bank_tables", "boost_holder_gradients", "boost_bank_vectors", "boost_holder_vectors", "boost_bank_leaves", "boost_holder_sums", "boost_bank_block", "boost_holder_block", "boost_holder_improvement", "boost_holder_round0", "boost_sealed", "boost_holder_part", "boost_points", "boost_choices", "boost_products", "batch_bank_key", "batch_bank_factors", "batch_holder_reply", "screen_bank_round1", "screen_bank_label", "screen_holder_chunk", "screen_holder_sums", "screen_holder_shares", "screen_bank_next", "screen_holder_pairs", "screen_bank_kept", "screen_sealed", "screen_holder_kept", "batch_consent", "stack_bank_key", "stack_holder_hints", "stack_bank_query", "stack_bank_block", "stack_holder_block", "stack_holder_share", "stack_bank_step", "stack_holder_opened", "stack_bank_choice", "stack_holder_part", "band_holder_partial", "band_bank_base", "band_lead_base", "band_bank_labels", "band_lead_tables", "band_lead_decoding", "chain_holder_hints", "chain_bank_trees", "chain_bank_vectors", "chain_holder_sums", "curve_bank_steps", "curve_lead_counts", "decision_bank_round1", "decision_holder_round1", "decision_lead_levels", "decision_bank_counts", "shard_message")
    STEP_COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    ALIGN_BANK_ROUND1_FIELD_NUMBER: _ClassVar[int]
    ALIGN_HOLDER_ROUND1_FIELD_NUMBER: _ClassVar[int]
    ALIGN_BANK_ROUND2_FIELD_NUMBER: _ClassVar[int]
    ALIGN_HOLDER_ROUND2_FIELD_NUMBER: _ClassVar[int]
    ALIGN_HOLDER_STORE_FIELD_NUMBER: _ClassVar[int]
    BIN_BANK_ROUND1_FIELD_NUMBER: _ClassVar[int]
    BIN_HOLDER_ROUND1_FIELD_NUMBER: _ClassVar[int]
    BIN_HOLDER_HINTS_FIELD_NUMBER: _ClassVar[int]
    BIN_BANK_ROUND2_FIELD_NUMBER: _ClassVar[int]
    BIN_HOLDER_ROUND2_FIELD_NUMBER: _ClassVar[int]
    TRAIN_BANK_ROUND0_FIELD_NUMBER: _ClassVar[int]
    TRAIN_HOLDER_HISTOGRAM_HINTS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_HOLDER_LOOKUP_HINTS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_BANK_HINTS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_BANK_STEP_FIELD_NUMBER: _ClassVar[int]
    TRAIN_BANK_ETA_FIELD_NUMBER: _ClassVar[int]
    TRAIN_BANK_TABLES_FIELD_NUMBER: _ClassVar[int]
    TRAIN_HOLDER_ETA_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LEAD_SIGMOID_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LEAD_CELLS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LEAD_RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    TRAIN_BANK_RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    TRAIN_HOLDER_GRADIENT_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_BANK_TABLES_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_HOLDER_HINTS_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_BANK_LOOKUP_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_BANK_BLOCK_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_HOLDER_SUMS_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_HOLDER_OPENED_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_HOLDER_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    REFIT_BANK_JOB_FIELD_NUMBER: _ClassVar[int]
    REFIT_HOLDER_READY_FIELD_NUMBER: _ClassVar[int]
    WRITE_HOLDER_MAP_FIELD_NUMBER: _ClassVar[int]
    FILE_BANK_PINS_FIELD_NUMBER: _ClassVar[int]
    FILE_HOLDER_MAP_FIELD_NUMBER: _ClassVar[int]
    FILE_BANK_DECISION_FIELD_NUMBER: _ClassVar[int]
    BATCH_BANK_ROUND0_FIELD_NUMBER: _ClassVar[int]
    BATCH_BANK_ROUND1_FIELD_NUMBER: _ClassVar[int]
    BATCH_HOLDER_ROUND1_FIELD_NUMBER: _ClassVar[int]
    BATCH_HOLDER_KEY_FIELD_NUMBER: _ClassVar[int]
    BATCH_HOLDER_HINTS_FIELD_NUMBER: _ClassVar[int]
    BATCH_BANK_QUERY_FIELD_NUMBER: _ClassVar[int]
    BATCH_HOLDER_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    BATCH_COORDINATOR_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BOOST_BANK_ROUND0_FIELD_NUMBER: _ClassVar[int]
    BOOST_BANK_HINTS_FIELD_NUMBER: _ClassVar[int]
    BOOST_HOLDER_HINTS_FIELD_NUMBER: _ClassVar[int]
    BOOST_BANK_TREE_FIELD_NUMBER: _ClassVar[int]
    BOOST_HOLDER_MARGIN_FIELD_NUMBER: _ClassVar[int]
    BOOST_BANK_TABLES_FIELD_NUMBER: _ClassVar[int]
    BOOST_HOLDER_GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    BOOST_BANK_VECTORS_FIELD_NUMBER: _ClassVar[int]
    BOOST_HOLDER_VECTORS_FIELD_NUMBER: _ClassVar[int]
    BOOST_BANK_LEAVES_FIELD_NUMBER: _ClassVar[int]
    BOOST_HOLDER_SUMS_FIELD_NUMBER: _ClassVar[int]
    BOOST_BANK_BLOCK_FIELD_NUMBER: _ClassVar[int]
    BOOST_HOLDER_BLOCK_FIELD_NUMBER: _ClassVar[int]
    BOOST_HOLDER_IMPROVEMENT_FIELD_NUMBER: _ClassVar[int]
    BOOST_HOLDER_ROUND0_FIELD_NUMBER: _ClassVar[int]
    BOOST_SEALED_FIELD_NUMBER: _ClassVar[int]
    BOOST_HOLDER_PART_FIELD_NUMBER: _ClassVar[int]
    BOOST_POINTS_FIELD_NUMBER: _ClassVar[int]
    BOOST_CHOICES_FIELD_NUMBER: _ClassVar[int]
    BOOST_PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    BATCH_BANK_KEY_FIELD_NUMBER: _ClassVar[int]
    BATCH_BANK_FACTORS_FIELD_NUMBER: _ClassVar[int]
    BATCH_HOLDER_REPLY_FIELD_NUMBER: _ClassVar[int]
    SCREEN_BANK_ROUND1_FIELD_NUMBER: _ClassVar[int]
    SCREEN_BANK_LABEL_FIELD_NUMBER: _ClassVar[int]
    SCREEN_HOLDER_CHUNK_FIELD_NUMBER: _ClassVar[int]
    SCREEN_HOLDER_SUMS_FIELD_NUMBER: _ClassVar[int]
    SCREEN_HOLDER_SHARES_FIELD_NUMBER: _ClassVar[int]
    SCREEN_BANK_NEXT_FIELD_NUMBER: _ClassVar[int]
    SCREEN_HOLDER_PAIRS_FIELD_NUMBER: _ClassVar[int]
    SCREEN_BANK_KEPT_FIELD_NUMBER: _ClassVar[int]
    SCREEN_SEALED_FIELD_NUMBER: _ClassVar[int]
    SCREEN_HOLDER_KEPT_FIELD_NUMBER: _ClassVar[int]
    BATCH_CONSENT_FIELD_NUMBER: _ClassVar[int]
    STACK_BANK_KEY_FIELD_NUMBER: _ClassVar[int]
    STACK_HOLDER_HINTS_FIELD_NUMBER: _ClassVar[int]
    STACK_BANK_QUERY_FIELD_NUMBER: _ClassVar[int]
    STACK_BANK_BLOCK_FIELD_NUMBER: _ClassVar[int]
    STACK_HOLDER_BLOCK_FIELD_NUMBER: _ClassVar[int]
    STACK_HOLDER_SHARE_FIELD_NUMBER: _ClassVar[int]
    STACK_BANK_STEP_FIELD_NUMBER: _ClassVar[int]
    STACK_HOLDER_OPENED_FIELD_NUMBER: _ClassVar[int]
    STACK_BANK_CHOICE_FIELD_NUMBER: _ClassVar[int]
    STACK_HOLDER_PART_FIELD_NUMBER: _ClassVar[int]
    BAND_HOLDER_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    BAND_BANK_BASE_FIELD_NUMBER: _ClassVar[int]
    BAND_LEAD_BASE_FIELD_NUMBER: _ClassVar[int]
    BAND_BANK_LABELS_FIELD_NUMBER: _ClassVar[int]
    BAND_LEAD_TABLES_FIELD_NUMBER: _ClassVar[int]
    BAND_LEAD_DECODING_FIELD_NUMBER: _ClassVar[int]
    CHAIN_HOLDER_HINTS_FIELD_NUMBER: _ClassVar[int]
    CHAIN_BANK_TREES_FIELD_NUMBER: _ClassVar[int]
    CHAIN_BANK_VECTORS_FIELD_NUMBER: _ClassVar[int]
    CHAIN_HOLDER_SUMS_FIELD_NUMBER: _ClassVar[int]
    CURVE_BANK_STEPS_FIELD_NUMBER: _ClassVar[int]
    CURVE_LEAD_COUNTS_FIELD_NUMBER: _ClassVar[int]
    DECISION_BANK_ROUND1_FIELD_NUMBER: _ClassVar[int]
    DECISION_HOLDER_ROUND1_FIELD_NUMBER: _ClassVar[int]
    DECISION_LEAD_LEVELS_FIELD_NUMBER: _ClassVar[int]
    DECISION_BANK_COUNTS_FIELD_NUMBER: _ClassVar[int]
    SHARD_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    step_commitment: StepCommitment
    align_bank_round1: _align_pb2.AlignBankRound1
    align_holder_round1: _align_pb2.AlignHolderRound1
    align_bank_round2: _align_pb2.AlignBankRound2
    align_holder_round2: _align_pb2.AlignHolderRound2
    align_holder_store: _align_pb2.AlignHolderStore
    bin_bank_round1: _scorecard_pb2.BinBankRound1
    bin_holder_round1: _scorecard_pb2.BinHolderRound1
    bin_holder_hints: _scorecard_pb2.BinHolderHints
    bin_bank_round2: _scorecard_pb2.BinBankRound2
    bin_holder_round2: _scorecard_pb2.BinHolderRound2
    train_bank_round0: _scorecard_pb2.TrainBankRound0
    train_holder_histogram_hints: _scorecard_pb2.TrainHolderHistogramHints
    train_holder_lookup_hints: _scorecard_pb2.TrainHolderLookupHints
    train_bank_hints: _scorecard_pb2.TrainBankHints
    train_bank_step: _scorecard_pb2.TrainBankStep
    train_bank_eta: _scorecard_pb2.TrainBankEta
    train_bank_tables: _scorecard_pb2.TrainBankTables
    train_holder_eta: _scorecard_pb2.TrainHolderEta
    train_lead_sigmoid: _scorecard_pb2.TrainLeadSigmoid
    train_lead_cells: _scorecard_pb2.TrainLeadCells
    train_lead_residual: _scorecard_pb2.TrainLeadResidual
    train_bank_residual: _scorecard_pb2.TrainBankResidual
    train_holder_gradient: _scorecard_pb2.TrainHolderGradient
    residual_bank_tables: _scorecard_pb2.ResidualBankTables
    residual_holder_hints: _scorecard_pb2.ResidualHolderHints
    residual_bank_lookup: _scorecard_pb2.ResidualBankLookup
    residual_bank_block: _scorecard_pb2.ResidualBankBlock
    residual_holder_sums: _scorecard_pb2.ResidualHolderSums
    residual_holder_opened: _scorecard_pb2.ResidualHolderOpened
    residual_holder_columns: _scorecard_pb2.ResidualHolderColumns
    refit_bank_job: _scorecard_pb2.RefitBankJob
    refit_holder_ready: _scorecard_pb2.RefitHolderReady
    write_holder_map: _filing_pb2.WriteHolderMap
    file_bank_pins: _filing_pb2.FileBankPins
    file_holder_map: _filing_pb2.FileHolderMap
    file_bank_decision: _filing_pb2.FileBankDecision
    batch_bank_round0: _score_pb2.BatchBankRound0
    batch_bank_round1: _score_pb2.BatchBankRound1
    batch_holder_round1: _score_pb2.BatchHolderRound1
    batch_holder_key: _score_pb2.BatchHolderKey
    batch_holder_hints: _score_pb2.BatchHolderHints
    batch_bank_query: _score_pb2.BatchBankQuery
    batch_holder_partial: _score_pb2.BatchHolderPartial
    batch_coordinator_total: _score_pb2.BatchCoordinatorTotal
    boost_bank_round0: _boosting_pb2.BoostBankRound0
    boost_bank_hints: _boosting_pb2.BoostBankHints
    boost_holder_hints: _boosting_pb2.BoostHolderHints
    boost_bank_tree: _boosting_pb2.BoostBankTree
    boost_holder_margin: _boosting_pb2.BoostHolderMargin
    boost_bank_tables: _boosting_pb2.BoostBankTables
    boost_holder_gradients: _boosting_pb2.BoostHolderGradients
    boost_bank_vectors: _boosting_pb2.BoostBankVectors
    boost_holder_vectors: _boosting_pb2.BoostHolderVectors
    boost_bank_leaves: _boosting_pb2.BoostBankLeaves
    boost_holder_sums: _boosting_pb2.BoostHolderSums
    boost_bank_block: _boosting_pb2.BoostBankBlock
    boost_holder_block: _boosting_pb2.BoostHolderBlock
    boost_holder_improvement: _boosting_pb2.BoostHolderImprovement
    boost_holder_round0: _boosting_pb2.BoostHolderRound0
    boost_sealed: _boosting_pb2.BoostSealed
    boost_holder_part: _boosting_pb2.BoostHolderPart
    boost_points: _boosting_pb2.BoostPoints
    boost_choices: _boosting_pb2.BoostChoices
    boost_products: _boosting_pb2.BoostProducts
    batch_bank_key: _score_pb2.BatchBankKey
    batch_bank_factors: _score_pb2.BatchBankFactors
    batch_holder_reply: _score_pb2.BatchHolderReply
    screen_bank_round1: _screening_pb2.ScreenBankRound1
    screen_bank_label: _screening_pb2.ScreenBankLabel
    screen_holder_chunk: _screening_pb2.ScreenHolderChunk
    screen_holder_sums: _screening_pb2.ScreenHolderSums
    screen_holder_shares: _screening_pb2.ScreenHolderShares
    screen_bank_next: _screening_pb2.ScreenBankNext
    screen_holder_pairs: _screening_pb2.ScreenHolderPairs
    screen_bank_kept: _screening_pb2.ScreenBankKept
    screen_sealed: _screening_pb2.ScreenSealed
    screen_holder_kept: _screening_pb2.ScreenHolderKept
    batch_consent: _score_pb2.BatchConsent
    stack_bank_key: _stacking_pb2.StackBankKey
    stack_holder_hints: _stacking_pb2.StackHolderHints
    stack_bank_query: _stacking_pb2.StackBankQuery
    stack_bank_block: _stacking_pb2.StackBankBlock
    stack_holder_block: _stacking_pb2.StackHolderBlock
    stack_holder_share: _stacking_pb2.StackHolderShare
    stack_bank_step: _stacking_pb2.StackBankStep
    stack_holder_opened: _stacking_pb2.StackHolderOpened
    stack_bank_choice: _stacking_pb2.StackBankChoice
    stack_holder_part: _stacking_pb2.StackHolderPart
    band_holder_partial: _score_pb2.BandHolderPartial
    band_bank_base: _score_pb2.BandBankBase
    band_lead_base: _score_pb2.BandLeadBase
    band_bank_labels: _score_pb2.BandBankLabels
    band_lead_tables: _score_pb2.BandLeadTables
    band_lead_decoding: _score_pb2.BandLeadDecoding
    chain_holder_hints: _chains_pb2.ChainHolderHints
    chain_bank_trees: _chains_pb2.ChainBankTrees
    chain_bank_vectors: _chains_pb2.ChainBankVectors
    chain_holder_sums: _chains_pb2.ChainHolderSums
    curve_bank_steps: _score_pb2.CurveBankSteps
    curve_lead_counts: _score_pb2.CurveLeadCounts
    decision_bank_round1: _score_pb2.DecisionBankRound1
    decision_holder_round1: _score_pb2.DecisionHolderRound1
    decision_lead_levels: _score_pb2.DecisionLeadLevels
    decision_bank_counts: _score_pb2.DecisionBankCounts
    shard_message: _shard_pb2.ShardMessage
    def __init__(self, step_commitment: _Optional[_Union[StepCommitment, _Mapping]] = ..., align_bank_round1: _Optional[_Union[_align_pb2.AlignBankRound1, _Mapping]] = ..., align_holder_round1: _Optional[_Union[_align_pb2.AlignHolderRound1, _Mapping]] = ..., align_bank_round2: _Optional[_Union[_align_pb2.AlignBankRound2, _Mapping]] = ..., align_holder_round2: _Optional[_Union[_align_pb2.AlignHolderRound2, _Mapping]] = ..., align_holder_store: _Optional[_Union[_align_pb2.AlignHolderStore, _Mapping]] = ..., bin_bank_round1: _Optional[_Union[_scorecard_pb2.BinBankRound1, _Mapping]] = ..., bin_holder_round1: _Optional[_Union[_scorecard_pb2.BinHolderRound1, _Mapping]] = ..., bin_holder_hints: _Optional[_Union[_scorecard_pb2.BinHolderHints, _Mapping]] = ..., bin_bank_round2: _Optional[_Union[_scorecard_pb2.BinBankRound2, _Mapping]] = ..., bin_holder_round2: _Optional[_Union[_scorecard_pb2.BinHolderRound2, _Mapping]] = ..., train_bank_round0: _Optional[_Union[_scorecard_pb2.TrainBankRound0, _Mapping]] = ..., train_holder_histogram_hints: _Optional[_Union[_scorecard_pb2.TrainHolderHistogramHints, _Mapping]] = ..., train_holder_lookup_hints: _Optional[_Union[_scorecard_pb2.TrainHolderLookupHints, _Mapping]] = ..., train_bank_hints: _Optional[_Union[_scorecard_pb2.TrainBankHints, _Mapping]] = ..., train_bank_step: _Optional[_Union[_scorecard_pb2.TrainBankStep, _Mapping]] = ..., train_bank_eta: _Optional[_Union[_scorecard_pb2.TrainBankEta, _Mapping]] = ..., train_bank_tables: _Optional[_Union[_scorecard_pb2.TrainBankTables, _Mapping]] = ..., train_holder_eta: _Optional[_Union[_scorecard_pb2.TrainHolderEta, _Mapping]] = ..., train_lead_sigmoid: _Optional[_Union[_scorecard_pb2.TrainLeadSigmoid, _Mapping]] = ..., train_lead_cells: _Optional[_Union[_scorecard_pb2.TrainLeadCells, _Mapping]] = ..., train_lead_residual: _Optional[_Union[_scorecard_pb2.TrainLeadResidual, _Mapping]] = ..., train_bank_residual: _Optional[_Union[_scorecard_pb2.TrainBankResidual, _Mapping]] = ..., train_holder_gradient: _Optional[_Union[_scorecard_pb2.TrainHolderGradient, _Mapping]] = ..., residual_bank_tables: _Optional[_Union[_scorecard_pb2.ResidualBankTables, _Mapping]] = ..., residual_holder_hints: _Optional[_Union[_scorecard_pb2.ResidualHolderHints, _Mapping]] = ..., residual_bank_lookup: _Optional[_Union[_scorecard_pb2.ResidualBankLookup, _Mapping]] = ..., residual_bank_block: _Optional[_Union[_scorecard_pb2.ResidualBankBlock, _Mapping]] = ..., residual_holder_sums: _Optional[_Union[_scorecard_pb2.ResidualHolderSums, _Mapping]] = ..., residual_holder_opened: _Optional[_Union[_scorecard_pb2.ResidualHolderOpened, _Mapping]] = ..., residual_holder_columns: _Optional[_Union[_scorecard_pb2.ResidualHolderColumns, _Mapping]] = ..., refit_bank_job: _Optional[_Union[_scorecard_pb2.RefitBankJob, _Mapping]] = ..., refit_holder_ready: _Optional[_Union[_scorecard_pb2.RefitHolderReady, _Mapping]] = ..., write_holder_map: _Optional[_Union[_filing_pb2.WriteHolderMap, _Mapping]] = ..., file_bank_pins: _Optional[_Union[_filing_pb2.FileBankPins, _Mapping]] = ..., file_holder_map: _Optional[_Union[_filing_pb2.FileHolderMap, _Mapping]] = ..., file_bank_decision: _Optional[_Union[_filing_pb2.FileBankDecision, _Mapping]] = ..., batch_bank_round0: _Optional[_Union[_score_pb2.BatchBankRound0, _Mapping]] = ..., batch_bank_round1: _Optional[_Union[_score_pb2.BatchBankRound1, _Mapping]] = ..., batch_holder_round1: _Optional[_Union[_score_pb2.BatchHolderRound1, _Mapping]] = ..., batch_holder_key: _Optional[_Union[_score_pb2.BatchHolderKey, _Mapping]] = ..., batch_holder_hints: _Optional[_Union[_score_pb2.BatchHolderHints, _Mapping]] = ..., batch_bank_query: _Optional[_Union[_score_pb2.BatchBankQuery, _Mapping]] = ..., batch_holder_partial: _Optional[_Union[_score_pb2.BatchHolderPartial, _Mapping]] = ..., batch_coordinator_total: _Optional[_Union[_score_pb2.BatchCoordinatorTotal, _Mapping]] = ..., boost_bank_round0: _Optional[_Union[_boosting_pb2.BoostBankRound0, _Mapping]] = ..., boost_bank_hints: _Optional[_Union[_boosting_pb2.BoostBankHints, _Mapping]] = ..., boost_holder_hints: _Optional[_Union[_boosting_pb2.BoostHolderHints, _Mapping]] = ..., boost_bank_tree: _Optional[_Union[_boosting_pb2.BoostBankTree, _Mapping]] = ..., boost_holder_margin: _Optional[_Union[_boosting_pb2.BoostHolderMargin, _Mapping]] = ..., boost_bank_tables: _Optional[_Union[_boosting_pb2.BoostBankTables, _Mapping]] = ..., boost_holder_gradients: _Optional[_Union[_boosting_pb2.BoostHolderGradients, _Mapping]] = ..., boost_bank_vectors: _Optional[_Union[_boosting_pb2.BoostBankVectors, _Mapping]] = ..., boost_holder_vectors: _Optional[_Union[_boosting_pb2.BoostHolderVectors, _Mapping]] = ..., boost_bank_leaves: _Optional[_Union[_boosting_pb2.BoostBankLeaves, _Mapping]] = ..., boost_holder_sums: _Optional[_Union[_boosting_pb2.BoostHolderSums, _Mapping]] = ..., boost_bank_block: _Optional[_Union[_boosting_pb2.BoostBankBlock, _Mapping]] = ..., boost_holder_block: _Optional[_Union[_boosting_pb2.BoostHolderBlock, _Mapping]] = ..., boost_holder_improvement: _Optional[_Union[_boosting_pb2.BoostHolderImprovement, _Mapping]] = ..., boost_holder_round0: _Optional[_Union[_boosting_pb2.BoostHolderRound0, _Mapping]] = ..., boost_sealed: _Optional[_Union[_boosting_pb2.BoostSealed, _Mapping]] = ..., boost_holder_part: _Optional[_Union[_boosting_pb2.BoostHolderPart, _Mapping]] = ..., boost_points: _Optional[_Union[_boosting_pb2.BoostPoints, _Mapping]] = ..., boost_choices: _Optional[_Union[_boosting_pb2.BoostChoices, _Mapping]] = ..., boost_products: _Optional[_Union[_boosting_pb2.BoostProducts, _Mapping]] = ..., batch_bank_key: _Optional[_Union[_score_pb2.BatchBankKey, _Mapping]] = ..., batch_bank_factors: _Optional[_Union[_score_pb2.BatchBankFactors, _Mapping]] = ..., batch_holder_reply: _Optional[_Union[_score_pb2.BatchHolderReply, _Mapping]] = ..., screen_bank_round1: _Optional[_Union[_screening_pb2.ScreenBankRound1, _Mapping]] = ..., screen_bank_label: _Optional[_Union[_screening_pb2.ScreenBankLabel, _Mapping]] = ..., screen_holder_chunk: _Optional[_Union[_screening_pb2.ScreenHolderChunk, _Mapping]] = ..., screen_holder_sums: _Optional[_Union[_screening_pb2.ScreenHolderSums, _Mapping]] = ..., screen_holder_shares: _Optional[_Union[_screening_pb2.ScreenHolderShares, _Mapping]] = ..., screen_bank_next: _Optional[_Union[_screening_pb2.ScreenBankNext, _Mapping]] = ..., screen_holder_pairs: _Optional[_Union[_screening_pb2.ScreenHolderPairs, _Mapping]] = ..., screen_bank_kept: _Optional[_Union[_screening_pb2.ScreenBankKept, _Mapping]] = ..., screen_sealed: _Optional[_Union[_screening_pb2.ScreenSealed, _Mapping]] = ..., screen_holder_kept: _Optional[_Union[_screening_pb2.ScreenHolderKept, _Mapping]] = ..., batch_consent: _Optional[_Union[_score_pb2.BatchConsent, _Mapping]] = ..., stack_bank_key: _Optional[_Union[_stacking_pb2.StackBankKey, _Mapping]] = ..., stack_holder_hints: _Optional[_Union[_stacking_pb2.StackHolderHints, _Mapping]] = ..., stack_bank_query: _Optional[_Union[_stacking_pb2.StackBankQuery, _Mapping]] = ..., stack_bank_block: _Optional[_Union[_stacking_pb2.StackBankBlock, _Mapping]] = ..., stack_holder_block: _Optional[_Union[_stacking_pb2.StackHolderBlock, _Mapping]] = ..., stack_holder_share: _Optional[_Union[_stacking_pb2.StackHolderShare, _Mapping]] = ..., stack_bank_step: _Optional[_Union[_stacking_pb2.StackBankStep, _Mapping]] = ..., stack_holder_opened: _Optional[_Union[_stacking_pb2.StackHolderOpened, _Mapping]] = ..., stack_bank_choice: _Optional[_Union[_stacking_pb2.StackBankChoice, _Mapping]] = ..., stack_holder_part: _Optional[_Union[_stacking_pb2.StackHolderPart, _Mapping]] = ..., band_holder_partial: _Optional[_Union[_score_pb2.BandHolderPartial, _Mapping]] = ..., band_bank_base: _Optional[_Union[_score_pb2.BandBankBase, _Mapping]] = ..., band_lead_base: _Optional[_Union[_score_pb2.BandLeadBase, _Mapping]] = ..., band_bank_labels: _Optional[_Union[_score_pb2.BandBankLabels, _Mapping]] = ..., band_lead_tables: _Optional[_Union[_score_pb2.BandLeadTables, _Mapping]] = ..., band_lead_decoding: _Optional[_Union[_score_pb2.BandLeadDecoding, _Mapping]] = ..., chain_holder_hints: _Optional[_Union[_chains_pb2.ChainHolderHints, _Mapping]] = ..., chain_bank_trees: _Optional[_Union[_chains_pb2.ChainBankTrees, _Mapping]] = ..., chain_bank_vectors: _Optional[_Union[_chains_pb2.ChainBankVectors, _Mapping]] = ..., chain_holder_sums: _Optional[_Union[_chains_pb2.ChainHolderSums, _Mapping]] = ..., curve_bank_steps: _Optional[_Union[_score_pb2.CurveBankSteps, _Mapping]] = ..., curve_lead_counts: _Optional[_Union[_score_pb2.CurveLeadCounts, _Mapping]] = ..., decision_bank_round1: _Optional[_Union[_score_pb2.DecisionBankRound1, _Mapping]] = ..., decision_holder_round1: _Optional[_Union[_score_pb2.DecisionHolderRound1, _Mapping]] = ..., decision_lead_levels: _Optional[_Union[_score_pb2.DecisionLeadLevels, _Mapping]] = ..., decision_bank_counts: _Optional[_Union[_score_pb2.DecisionBankCounts, _Mapping]] = ..., shard_message: _Optional[_Union[_shard_pb2.ShardMessage, _Mapping]] = ...) -> None: ...

class StepCommitment(_message.Message):
    __slots__ = ("commitment",)
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    commitment: bytes
    def __init__(self, commitment: _Optional[bytes] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: Header
    data: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("session", "sender", "recipient", "sequence", "size_bytes", "sha256", "acknowledged")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    session: str
    sender: str
    recipient: str
    sequence: int
    size_bytes: int
    sha256: bytes
    acknowledged: int
    def __init__(self, session: _Optional[str] = ..., sender: _Optional[str] = ..., recipient: _Optional[str] = ..., sequence: _Optional[int] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ..., acknowledged: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("duplicate",)
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    duplicate: bool
    def __init__(self, duplicate: _Optional[bool] = ...) -> None: ...

class CallBatch(_message.Message):
    __slots__ = ("calls",)
    CALLS_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[OneCall]
    def __init__(self, calls: _Optional[_Iterable[_Union[OneCall, _Mapping]]] = ...) -> None: ...

class OneCall(_message.Message):
    __slots__ = ("number", "method", "request", "timeout_s")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    number: int
    method: str
    request: bytes
    timeout_s: float
    def __init__(self, number: _Optional[int] = ..., method: _Optional[str] = ..., request: _Optional[bytes] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class ReplyBatch(_message.Message):
    __slots__ = ("replies",)
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[OneReply]
    def __init__(self, replies: _Optional[_Iterable[_Union[OneReply, _Mapping]]] = ...) -> None: ...

class OneReply(_message.Message):
    __slots__ = ("number", "reply", "status", "text", "error")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    number: int
    reply: bytes
    status: str
    text: str
    error: bytes
    def __init__(self, number: _Optional[int] = ..., reply: _Optional[bytes] = ..., status: _Optional[str] = ..., text: _Optional[str] = ..., error: _Optional[bytes] = ...) -> None: ...
