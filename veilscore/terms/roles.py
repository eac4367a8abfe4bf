"""Who learns what: one table, checked against the messages of recorded runs.

Every message kind stands here once for each role that receives it, with the form of its content: "ciphertext" and
"hint" are ring-LWE samples, "masked" is uniform without another party's mask, "public" is sizes, order and hashes,
"opened" is what the receiver is meant to learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["bank", "holder", "lead", "coordinator"]
Form = Literal["ciphertext", "hint", "masked", "public", "opened"]


@dataclass(frozen=True)
class Leak:
    """What one role gets from one kind of message."""

    step: str
    kind: str
    to: Role
    form: Form
    learns: str
    sealed: str | None = None  # instead, where boosting chooses splits sealed
    only: Literal["", "score", "band"] = ""  # sent where this is released of a row


_BOTH: tuple[Role, ...] = ("bank", "holder")
_BANK_STEPS = ("align", "bin", "screen", "train", "boost", "stack", "evaluate")

LEAKS: tuple[Leak, ...] = (
    *(Leak(step, "StepCommitment", "holder", "public", "nothing") for step in _BANK_STEPS),
    Leak("align", "AlignBankRound1", "holder", "masked", "number of firms in the bank's job"),
    Leak("align", "AlignHolderRound1", "bank", "masked", "number of firms in the holder's data set"),
    Leak("align", "AlignBankRound2", "holder", "opened", "which of its firms are in the bank's job, and their rows"),
    Leak("align", "AlignHolderRound2", "bank", "public", "whether the holder goes on"),
    Leak("bin", "BinBankRound1", "holder", "opened", "which rows train and which are held out"),
    Leak(
        "bin", "BinHolderRound1", "bank", "opened", "columns, codes and row counts per anonymous bin over the minimum"
    ),
    Leak("bin", "BinHolderHints", "bank", "hint", "nothing"),
    Leak("bin", "BinBankRound2", "holder", "ciphertext", "nothing"),
    Leak("bin", "BinHolderRound2", "bank", "opened", "good and bad counts per anonymous bin over the minimum"),
    Leak("screen", "ScreenBankRound1", "holder", "opened", "which rows train and which are held out"),
    Leak("screen", "ScreenBankLabel", "holder", "ciphertext", "nothing"),
    Leak(
        "screen",
        "ScreenHolderChunk",
        "bank",
        "opened",
        "columns, codes and row counts per anonymous bin over the minimum; missing rate and population stability of "
        "each column where policy says so",
    ),
    Leak("screen", "ScreenHolderSums", "bank", "ciphertext", "nothing"),
    Leak("screen", "ScreenHolderShares", "bank", "opened", "good and bad counts per anonymous bin over the minimum"),
    Leak("screen", "ScreenBankNext", "holder", "public", "nothing"),
    Leak("screen", "ScreenHolderPairs", "bank", "opened", "pairs of its columns associated above max_correlation"),
    Leak("screen", "ScreenBankKept", "holder", "opened", "which of its columns are kept"),
    Leak("train", "TrainBankRound0", "holder", "ciphertext", "nothing"),
    Leak("train", "TrainHolderHistogramHints", "bank", "hint", "nothing"),
    Leak("train", "TrainHolderLookupHints", "bank", "hint", "nothing"),
    Leak("train", "TrainBankHints", "lead", "hint", "number of codes of the bank's columns"),
    Leak("train", "TrainBankStep", "holder", "public", "number of steps and the range R of each"),
    Leak("train", "TrainBankEta", "holder", "ciphertext", "nothing"),
    Leak("train", "TrainBankTables", "lead", "ciphertext", "nothing"),
    Leak("train", "TrainHolderEta", "lead", "masked", "nothing"),
    Leak("train", "TrainLeadSigmoid", "bank", "masked", "nothing"),
    Leak("train", "TrainLeadCells", "bank", "ciphertext", "nothing"),
    Leak("train", "TrainLeadResidual", "holder", "masked", "nothing"),
    Leak("train", "TrainBankResidual", "holder", "ciphertext", "nothing"),
    Leak("train", "TrainHolderGradient", "bank", "opened", "rounded gradient components, d + 1 a step; the weights"),
    Leak(
        "boost",
        "BoostBankRound0",
        "holder",
        "opened",
        "number of the bank's columns and codes; the order of its own bins by bad rate where their order is not told",
        "number of the bank's columns and codes; the order of its own categories by bad rate",
    ),
    Leak("boost", "BoostHolderRound0", "bank", "public", "nothing", "which of its columns are numbers"),
    Leak("boost", "BoostBankHints", "holder", "hint", "nothing"),
    Leak("boost", "BoostHolderHints", "bank", "hint", "nothing"),
    Leak("boost", "BoostBankTree", "holder", "opened", "number of trees, columns each may ask, range of the margins"),
    Leak("boost", "BoostHolderMargin", "holder", "masked", "nothing"),
    Leak("boost", "BoostBankTables", "holder", "ciphertext", "nothing"),
    Leak("boost", "BoostHolderGradients", "bank", "masked", "nothing"),
    Leak("boost", "BoostBankStep", "holder", "opened", "shape of its trees, and its own splits in them", "nothing"),
    Leak("boost", "BoostSealed", "bank", "opened", "nothing", "which nodes split and on whose column; its own splits"),
    Leak(
        "boost", "BoostSealed", "holder", "opened", "nothing", "which nodes split and on whose column; its own splits"
    ),
    Leak(
        "boost",
        "BoostHolderSums",
        "bank",
        "opened",
        "sums of gradients per opened bin and node, with noise and within the budget; the splits",
        "two sums of gradients per leaf, with noise and within the budget",
    ),
    *(
        Leak("boost", kind, to, "masked", "nothing")
        for kind in ("BoostPoints", "BoostChoices", "BoostProducts")
        for to in _BOTH
    ),
    Leak("boost", "BoostBankBlock", "holder", "ciphertext", "nothing"),
    Leak("boost", "BoostHolderBlock", "bank", "masked", "nothing"),
    Leak("boost", "BoostBankVectors", "holder", "ciphertext", "nothing"),
    Leak("boost", "BoostHolderVectors", "bank", "ciphertext", "nothing"),
    Leak("boost", "BoostHolderPart", "bank", "opened", "hash of its part of the model; the columns its splits ask"),
    Leak(
        "boost",
        "BoostHolderImprovement",
        "bank",
        "opened",
        "fall of the loss on the validation rows, one number a tree",
    ),
    Leak("stack", "StackBankKey", "holder", "public", "how large margins may get, as a power of two"),
    Leak("stack", "StackHolderHints", "bank", "hint", "nothing"),
    Leak("stack", "StackBankQuery", "holder", "ciphertext", "nothing"),
    Leak("stack", "StackBankBlock", "holder", "ciphertext", "nothing"),
    Leak("stack", "StackHolderBlock", "bank", "masked", "nothing"),
    Leak("stack", "StackHolderShare", "lead", "masked", "nothing"),
    Leak("stack", "StackHolderShare", "bank", "opened", "nothing"),
    Leak("stack", "StackBankStep", "lead", "opened", "which members are summed up or fitted, and the range R"),
    Leak(
        "stack",
        "StackHolderOpened",
        "bank",
        "opened",
        "sums over all training rows: the loss of each candidate and fold, second moments of the margins, M + 1 "
        "gradient components a step of level two",
    ),
    Leak("stack", "StackBankChoice", "holder", "opened", "which candidates the filed model is made of"),
    Leak("stack", "StackHolderPart", "bank", "public", "hash of its part of the model"),
    Leak("evaluate", "BatchBankRound0", "coordinator", "public", "number of rows scored", only="score"),
    Leak("evaluate", "BatchBankRound1", "holder", "opened", "which rows are scored, by which model hash"),
    Leak(
        "evaluate", "BatchHolderRound1", "bank", "opened", "whether it takes part; unknown firms where policy says so"
    ),
    Leak("evaluate", "BatchHolderKey", "holder", "public", "nothing"),
    Leak("evaluate", "BatchHolderHints", "bank", "hint", "nothing"),
    Leak("evaluate", "BatchBankQuery", "holder", "ciphertext", "nothing"),
    Leak("evaluate", "BatchBankKey", "holder", "public", "nothing"),
    Leak("evaluate", "BatchBankFactors", "holder", "ciphertext", "nothing"),
    Leak("evaluate", "BatchHolderReply", "bank", "masked", "nothing"),
    Leak("evaluate", "BatchHolderPartial", "coordinator", "masked", "nothing", only="score"),
    Leak("evaluate", "BatchCoordinatorTotal", "bank", "opened", "total points of each scored row", only="score"),
    Leak("evaluate", "BandHolderPartial", "lead", "masked", "nothing", only="band"),
    Leak("evaluate", "BandBankBase", "lead", "public", "nothing", only="band"),
    Leak("evaluate", "BandLeadBase", "bank", "masked", "nothing", only="band"),
    Leak("evaluate", "BandBankLabels", "lead", "masked", "nothing", only="band"),
    Leak("evaluate", "BandLeadTables", "bank", "ciphertext", "nothing", only="band"),
    Leak("evaluate", "BandLeadDecoding", "bank", "opened", "band of each scored row", only="band"),
)

# Before a batch is aligned (veilscore/release/batch.py).
CONSENT: tuple[Leak, ...] = (
    Leak(
        "consent", "BatchConsent", "holder", "opened", "which of the firms whose ids it knows or guesses gave consent"
    ),
)

# Online scoring goes by calls between nodes (control.proto), not by sessions.
ONLINE: tuple[Leak, ...] = (
    Leak(
        "online", "EncryptRecord", "holder", "opened", "that this firm is scored now, for which purpose, by which model"
    ),
    Leak(
        "online",
        "EncryptedRecord",
        "bank",
        "opened",
        "unknown firms and codes of reason columns where policy says so",
        only="score",
    ),
    Leak("online", "EncryptedRecord", "bank", "opened", "unknown firms where policy says so", only="band"),
    Leak("online", "PreparedSpare", "bank", "ciphertext", "nothing"),
    Leak("online", "FinishSpare", "holder", "masked", "nothing"),
    Leak("online", "OpenPartial", "holder", "masked", "nothing"),
    Leak("online", "HolderKeys", "bank", "public", "nothing"),
    Leak("online", "ShareKey", "holder", "public", "nothing"),
    Leak("online", "AddPartial", "coordinator", "masked", "when holders score, and with whom", only="score"),
    Leak("online", "TotalReply", "bank", "opened", "the firm's total points", only="score"),
    Leak("online", "BandPartial", "lead", "masked", "nothing", only="band"),
    Leak("online", "BandBase", "lead", "public", "nothing", only="band"),
    Leak("online", "BandChoices", "bank", "masked", "nothing", only="band"),
    Leak("online", "BandLabels", "lead", "masked", "nothing", only="band"),
    Leak("online", "BandTables", "bank", "opened", "the firm's band", only="band"),
)


def row_of_step(step: str) -> str:
    """The table's step of a job's step: a fit on a fold tells what training alone tells."""
    kind = step.split(".", maxsplit=1)[0].rstrip("0123456789")
    return {"scorecard": "train", "boosting": "boost", "score": "evaluate"}.get(kind, kind)


@dataclass(frozen=True)
class Learned:
    """One row of the table that reports and `veilscore job plan` show."""

    step: str
    bank: str
    holder: str
    coordinator: str


def leakage_table(
    task: str,
    *,
    monotone: bool = False,
    standard_errors: bool = False,
    ordered: bool = False,
    bounds: bool = True,
    sealed: bool = False,
    fold_scores: bool = False,
    band: bool = False,
) -> tuple[Learned, ...]:
    """Rows of the table for one task, made from `LEAKS`, and one for each option that tells more.

    Parameters
    ----------
    sealed, band : how boosting chooses splits, and whether bands are released instead of scores.
    """
    steps = {
        "train_scorecard": ("align", "bin", "train", "evaluate"),
        "train_boosting": ("align", "bin", "boost", "evaluate"),
        "train_stack": ("align", "bin", "train", "boost", "stack", "evaluate"),
        "select_model": ("align", "bin", "train", "boost", "stack", "evaluate"),
        "score_batch": ("consent", "align", "evaluate"),
        "screen_features": ("align", "screen"),
        "score_online": ("online",),
    }[task]
    rows = []
    for step in steps:
        by_role: dict[str, list[str]] = {"bank": [], "holder": [], "coordinator": []}
        for leak in (*CONSENT, *LEAKS, *ONLINE):
            learns = leak.sealed if sealed and leak.sealed is not None else leak.learns
            released = leak.only in {"", "band" if band else "score"}
            if released and leak.step == step and learns != "nothing":
                by_role["holder" if leak.to == "lead" else leak.to].append(learns)
        named = "score" if task == "score_batch" and step == "evaluate" else step
        coordinator = "; ".join([*by_role["coordinator"], "job, sizes, timing"])
        rows.append(Learned(named, "; ".join(by_role["bank"]), "; ".join(by_role["holder"]), coordinator))
    if monotone:
        rows.append(
            Learned("monotone WOE", "order of each number column's bins, up to direction", "nothing", "nothing")
        )
    if standard_errors:
        rows.append(
            Learned("standard errors", "the Hessian at the solution, from 2 (d + 1) gradients", "nothing", "nothing")
        )
    if fold_scores:
        rows.append(
            Learned("scores of folds", "the rounded out-of-fold log-odds of each training row", "nothing", "nothing")
        )
    if task in {"train_stack", "select_model"}:
        rows.append(
            Learned(
                "folds", "the counts of bin, and what train and boost tell, once more without each fold", "the same", ""
            )
        )
    if ordered:
        rows.append(
            Learned("ordered bins", "order of each number column's bins, up to direction", "nothing", "nothing")
        )
    if not bounds:
        rows.append(
            Learned(
                "bounds off",
                "sums without limit or budget: enough of them tell which bin a firm is in",
                "nothing",
                "nothing",
            )
        )
    return tuple(rows)
