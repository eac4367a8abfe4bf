"""The report of a job: one data type, three audiences, one HTML file that opens offline.

`ReportData` holds everything the page shows; sections without data are left out. What a reader may see is
part of the type: a bank's report with a holder's bin edges in it, or a holder's report with labels, weights or
scores in it, cannot be built. `redact` cuts the bank's or a holder's view out of fuller data; `merge` joins
all views for a demonstration, and the page then says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from veilscore.errors import DataError, StateError
from veilscore.models import metrics

Audience = Literal["bank", "holder", "merged"]
Status = Literal["ok", "missing", "refused", "stale"]
Role = Literal["label holder", "feature holder", "coordinator"]


class Part(BaseModel):
    """Frozen values; unknown fields and infinite numbers are refused, and errors never show the input."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class ReportedJob(Part):
    """What was asked for, when, and by which code and model (`created` in ISO 8601)."""

    name: str
    job_id: str
    purpose: str
    task: str
    created: str
    software: str
    model_name: str | None = None
    model_version: str | None = None
    model_hash: str | None = None
    transcript_hash: str | None = None
    n_train: int | None = None
    n_holdout: int | None = None
    holdout: str | None = None


class Party(Part):
    """One party and whether it took part; `as_of` dates its data, `fingerprint` is of its certificate."""

    name: str
    role: Role
    status: Status = "ok"
    detail: str = ""
    n_rows: int | None = None
    n_columns: int | None = None
    as_of: str | None = None
    fingerprint: str | None = None


class HoldoutSection(Part):
    """One score on the hold-out: the joint one, the bank's own columns', or the pooled yardstick."""

    kind: Literal["joint", "bank only", "pooled"]
    name: str
    discrimination: metrics.Discrimination
    curve: metrics.Curve | None = None
    gains: tuple[metrics.GainsRow, ...] = ()


class Improvement(Part):
    """AUC of the joint score less that of the bank's own columns, with its standard error."""

    auc: float
    standard_error: float


class Parity(Part):
    """Largest differences from the same model fitted on pooled plaintext, and what was promised."""

    reference: str
    coefficient_difference: float
    coefficient_bound: float = 1e-3
    auc_difference: float
    auc_bound: float = 1e-4

    @property
    def holds(self) -> bool:
        """Whether both differences are within their bounds."""
        return abs(self.coefficient_difference) <= self.coefficient_bound and abs(self.auc_difference) <= self.auc_bound


class ModelRow(Part):
    """One column of the scorecard; `sign_ok` is None where no sign was asked for."""

    column: str
    party: str
    coefficient: float
    standard_error: float | None = None
    sign_ok: bool | None = None
    iv: float | None = None
    points_low: float | None = None
    points_high: float | None = None


class Dropped(Part):
    """A column that is not in the model, and why."""

    column: str
    party: str
    reason: str


class ScorecardSection(Part):
    """Weights and the scale of the points."""

    rows: tuple[ModelRow, ...]
    intercept: float
    base_score: float | None = None
    base_odds: float | None = None
    pdo: float | None = None
    dropped: tuple[Dropped, ...] = ()


class ImportanceRow(Part):
    """One column of boosted trees: share of all gain, mean cover and number of its splits."""

    column: str
    party: str
    gain: float
    cover: float
    n_splits: int


class Disclosure(Part):
    """Upper bound of the bits that opened sums told about one holder's codes, and its budget (None: no limit)."""

    party: str
    n_trees: int
    spent: float
    budget: float | None


class Boosting(Part):
    """Boosted trees as the bank knows them; `validation` is the fall of the validation loss up to each tree."""

    parameters: dict[str, str]
    n_trees: int
    n_grown: int
    stopped: str
    limits: str
    importance: tuple[ImportanceRow, ...]
    parties: dict[str, float]
    unused: tuple[Dropped, ...] = ()
    validation: tuple[float, ...] = ()
    disclosure: tuple[Disclosure, ...] = ()


class CandidateRow(Part):
    """One model on the folds: its loss a row, the standard deviation of that between folds, and what became of it."""

    name: str
    kind: Literal["scorecard", "boosting", "stack", "bank only"]
    varied: dict[str, str] = {}
    loss: float
    deviation: float
    auc: float | None = None
    filed: bool = False
    in_stack: bool = False


class SelectionSection(Part):
    """Candidates compared out of fold, and the weights of the stack of the best two."""

    folds: int
    candidates: tuple[CandidateRow, ...]
    weights: dict[str, float]
    converged: bool


class TreesTaken(Part):
    """A holder's part in boosted trees: its trees and splits, sums opened, bits told of its budget."""

    n_trees: int
    n_splits: int
    n_sums: int
    spent: float
    budget: float | None
    limits: str
    part_hash: str


class BinRow(Part):
    """One bin: its codes as all parties number them, and its label if the reader may know it."""

    codes: tuple[int, ...]
    share: float
    label: str | None = None
    bad_rate: float | None = None
    woe: float | None = None
    points: float | None = None

    @property
    def title(self) -> str:
        """Label, or the numbers of the codes."""
        codes = ", ".join(str(code) for code in self.codes)
        return self.label if self.label is not None else f"bin{'s' * (len(self.codes) > 1)} {codes}"


class ColumnBins(Part):
    """The bins of one column in the order to show them."""

    column: str
    party: str
    bins: tuple[BinRow, ...]
    iv: float | None = None


class ColumnStability(Part):
    """Population stability index of one column between the two populations named in the report."""

    column: str
    party: str
    psi: float


class Stability(Part):
    """How far the second population has moved from the first."""

    expected_name: str = "training"
    actual_name: str = "hold-out"
    columns: tuple[ColumnStability, ...] = ()
    score: metrics.ScoreStability | None = None


class Convergence(Part):
    """Norm of the preconditioned gradient at each step."""

    gradient_norm: tuple[float, ...]
    tolerance: float | None = None
    converged: bool = True


class StepCost(Part):
    """What one step cost one party: wall and processor seconds, bytes sent."""

    step: str
    party: str
    seconds: float
    bytes_sent: int
    cpu_seconds: float | None = None


class LearnedRow(Part):
    """What each role learned in one step."""

    step: str
    label_holder: str
    feature_holder: str
    coordinator: str


class ReportData(Part):
    """Everything a report shows.

    Parameters
    ----------
    audience : whose report it is; "merged" joins all views, for demonstrations only.
    party : name of the reader among `parties`; empty for a merged report.
    score_name : name and direction of the score on the axes, e.g. "points (higher is better)".

    Raises
    ------
    DataError : the reader would see what the protocol does not show it.
    pydantic.ValidationError : a field is missing, unknown, of the wrong type or not finite.
    """

    audience: Audience
    party: str = ""
    job: ReportedJob
    parties: tuple[Party, ...]
    evaluations: tuple[HoldoutSection, ...] = ()
    improvement: Improvement | None = None
    parity: Parity | None = None
    score_name: str = "score"
    distribution: metrics.Histogram | None = None
    calibration: metrics.CalibrationCurve | None = None
    cutoffs: tuple[metrics.CutoffRow, ...] = ()
    model: ScorecardSection | None = None
    boosting: Boosting | None = None
    selection: SelectionSection | None = None
    trees: TreesTaken | None = None
    bins: tuple[ColumnBins, ...] = ()
    stability: Stability | None = None
    convergence: Convergence | None = None
    costs: tuple[StepCost, ...] = ()
    learned: tuple[LearnedRow, ...] = ()
    warnings: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _only_what_the_reader_may_see(self) -> Self:
        if self.audience == "merged":
            return self
        role = "label holder" if self.audience == "bank" else "feature holder"
        if not any(party.name == self.party and party.role == role for party in self.parties):
            raise DataError(f"a report for audience {self.audience!r} needs `party`, the name of a {role}")
        own = [column for column in self.bins if column.party == self.party]
        if self.audience == "bank":
            others = (cell for column in self.bins if column.party != self.party for cell in column.bins)
            if any(cell.label is not None for cell in others):
                raise DataError("a bank's report must not carry labels of bins of another party's columns")
            return self
        shown = [name for name in _BANK_ONLY if getattr(self, name)]
        if shown:
            raise DataError(f"a holder's report must not carry {', '.join(shown)}")
        if len(own) < len(self.bins) or any(_outcome(cell) for column in own for cell in column.bins):
            raise DataError("a holder's report carries its own columns' bins only, without outcomes or points")
        if any(column.iv is not None for column in own):
            raise DataError("a holder's report must not carry information values")
        stability = self.stability
        if stability and (stability.score or any(c.party != self.party for c in stability.columns)):
            raise DataError("a holder's report carries the stability of its own columns only")
        return self


_BANK_ONLY: Final = (
    "evaluations", "improvement", "parity", "distribution", "calibration", "cutoffs", "model", "boosting", "selection",
    "convergence",
)  # fmt: skip


def _outcome(cell: BinRow) -> bool:
    return cell.bad_rate is not None or cell.woe is not None or cell.points is not None


def evaluate(
    kind: Literal["joint", "bank only", "pooled"],
    name: str,
    table: metrics.ScoreTable,
) -> HoldoutSection:
    """Measure one score from its table (`metrics.score_table`, or counts of a histogram)."""
    return HoldoutSection(
        kind=kind,
        name=name,
        discrimination=table.discrimination(),
        curve=table.curve(),
        gains=table.gains(),
    )


def redact(report: ReportData, audience: Literal["bank", "holder"], party: str) -> ReportData:
    """Cut the view of one reader out of fuller data; everything that the reader may not see is dropped.

    Warnings are free text that may name anything, so they are dropped too: add the reader's own afterwards.
    """
    changes: dict[str, object] = {"audience": audience, "party": party, "warnings": ()}
    if audience == "bank":
        changes["bins"] = [column if column.party == party else _anonymous(column) for column in report.bins]
        return _changed(report, changes)
    for name in _BANK_ONLY:
        changes[name] = ReportData.model_fields[name].default
    own = (column for column in report.bins if column.party == party)
    changes["bins"] = [
        _changed(_with_bins(column, bad_rate=None, woe=None, points=None), {"iv": None}) for column in own
    ]
    changes["costs"] = [cost for cost in report.costs if cost.party == party]
    if report.stability:
        shifts = [column for column in report.stability.columns if column.party == party]
        kept = _changed(report.stability, {"columns": shifts, "score": None})
        changes["stability"] = kept if shifts else None
    return _changed(report, changes)


def merge(bank: ReportData, holders: Sequence[ReportData]) -> ReportData:
    """Join the bank's report with the holders', which label the bank's anonymous bins by their codes."""
    labels = {
        (column.party, column.column, code): cell.title
        for report in holders
        for column in report.bins
        for cell in column.bins
        for code in cell.codes
        if cell.label is not None
    }
    place = {key: number for number, key in enumerate(labels)}
    notes = dict.fromkeys(note for report in (bank, *holders) for note in report.warnings)
    costs = dict.fromkeys(cost for report in (bank, *holders) for cost in report.costs)
    return _changed(
        bank,
        {
            "audience": "merged",
            "party": "",
            "bins": [_labelled(column, labels, place) for column in bank.bins],
            "warnings": list(notes),
            "costs": list(costs),
        },
    )


_Key = tuple[str, str, int]


def _labelled(column: ColumnBins, labels: Mapping[_Key, str], place: Mapping[_Key, int]) -> ColumnBins:
    """Give the bins of one column their owner's labels and order where every code has one."""
    cells: list[tuple[int, BinRow]] = []
    for cell in column.bins:
        keys = [(column.party, column.column, code) for code in cell.codes]
        if cell.label is None and keys and all(key in labels for key in keys):
            names = dict.fromkeys(labels[key] for key in sorted(keys, key=place.__getitem__))
            cells.append((min(place[key] for key in keys), _changed(cell, {"label": " or ".join(names)})))
        else:
            cells.append((len(place), cell))
    cells.sort(key=lambda pair: pair[0])
    return _changed(column, {"bins": [cell for _, cell in cells]})


_Model = TypeVar("_Model", bound=Part)


def _changed(part: _Model, changes: Mapping[str, object]) -> _Model:
    """Copy with some fields replaced and all checked again, as pydantic's own copy does not check."""
    fields = {name: getattr(part, name) for name in type(part).model_fields}
    return type(part).model_validate({**fields, **changes})


def _anonymous(column: ColumnBins) -> ColumnBins:
    """Drop the labels, and the owner's order with them, for an order that the bank knows anyway."""
    bare = _with_bins(column, label=None)
    ranked = sorted(bare.bins, key=lambda cell: (-(cell.woe or 0.0), cell.codes))
    return _changed(bare, {"bins": ranked})


def _with_bins(column: ColumnBins, **changes: None) -> ColumnBins:
    return _changed(column, {"bins": [_changed(cell, changes) for cell in column.bins]})


def read_report(path: Path) -> ReportData:
    """Read report data that was saved as JSON (`ReportData.model_dump_json`).

    Raises
    ------
    StateError : the file cannot be read.
    DataError : it is not report data, or shows its reader too much.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"cannot read report data {path}: {type(error).__name__}") from error
    try:
        return ReportData.model_validate_json(text)
    except ValidationError as error:
        where = ", ".join(".".join(map(str, item["loc"])) or "top" for item in error.errors()[:3])
        raise DataError(f"{path} is not report data of this version; wrong fields: {where}") from None


def write_report(report: ReportData, path: Path) -> Path:
    """Write the page to `path` through a temporary file beside it.

    Raises
    ------
    StateError : the file cannot be written (disk full, no such folder).
    """
    html = render(report)
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(html, encoding="utf-8", errors="replace")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StateError(
            f"cannot write the report to {path}: {error.strerror}; free space or choose another folder"
        ) from error
    return path


def render(report: ReportData) -> str:
    """Return the report as one HTML page without scripts that loads nothing.

    Everything from a user or a peer passes Jinja's escaping; only the charts' own SVG is trusted, and it
    escapes the names in it.
    """
    template = _environment().get_template("report.html.j2")
    return template.render(
        r=report,
        charts=_charts(report),
        by_kind={part.kind: part for part in report.evaluations},
        costs=_cost_table(report.costs),
        hues={party.name: number % 6 for number, party in enumerate(report.parties)},
    )


def _charts(report: ReportData) -> dict[str, Markup]:
    """Draw every chart that has data; without matplotlib, say how to get it in its place."""
    curves = {part.name: part.curve for part in report.evaluations if part.curve}
    gains = {part.name: part.gains for part in report.evaluations if part.gains}
    main = next((part for part in report.evaluations if part.kind == "joint"), None)
    edges = [row.low for row in report.cutoffs if row.low is not None]
    stability, convergence = report.stability, report.convergence
    wanted: dict[str, tuple[Any, ...]] = {}
    if curves:
        wanted["roc"] = (curves,)
    if main and main.curve:
        ks = metrics.Ks(main.discrimination.ks, main.discrimination.ks_score)
        wanted["ks"] = (main.curve, ks, report.score_name)
    if gains:
        wanted["gains"] = (gains,)
    if main and main.gains:
        wanted["lift"] = (main.gains,)
    if report.distribution:
        wanted["score"] = (report.distribution, report.score_name, edges)
    if report.calibration:
        wanted["calibration"] = (report.calibration,)
    if stability and stability.score:
        wanted["stability"] = (stability.score, stability.expected_name, stability.actual_name)
    if convergence and convergence.gradient_norm:
        wanted["convergence"] = (convergence.gradient_norm, convergence.tolerance)
    if report.boosting and report.boosting.validation:
        wanted["validation"] = (report.boosting.validation, report.boosting.n_trees)
    return {name: _chart(kind, wanted.get(kind)) for name, kind in _CHARTS.items()}


def _chart(kind: str, figures: tuple[Any, ...] | None) -> Markup:
    """One drawing of `plots`, empty where there is nothing to draw."""
    if figures is None:
        return Markup()
    if find_spec("matplotlib") is None:
        return _NO_CHART
    from veilscore.reports import plots  # noqa: PLC0415 - an extra of the installation, and slow to load

    # Safe: to_svg escapes every text in the drawing.
    return Markup(getattr(plots, f"{kind}_chart")(*figures).to_svg())  # noqa: S704


_NO_CHART: Final = Markup("<p>This chart needs matplotlib: pip install &quot;veilscore[report]&quot;</p>")
_CHARTS: Final = {
    **{kind: kind for kind in ("roc", "ks", "gains", "lift", "calibration", "stability", "convergence", "validation")},
    "distribution": "score",
}


def _cost_table(costs: Sequence[StepCost]) -> dict[str, dict[str, StepCost]]:
    """Costs by step, in order of first mention, and party; repeated entries are added up."""
    table: dict[str, dict[str, StepCost]] = {}
    for cost in costs:
        row = table.setdefault(cost.step, {})
        old = row.get(cost.party)
        row[cost.party] = _added(old, cost) if old else cost
    return table


def _added(one: StepCost, other: StepCost) -> StepCost:
    known = one.cpu_seconds is not None and other.cpu_seconds is not None
    return StepCost(
        step=one.step,
        party=one.party,
        seconds=one.seconds + other.seconds,
        bytes_sent=one.bytes_sent + other.bytes_sent,
        cpu_seconds=(one.cpu_seconds or 0) + (other.cpu_seconds or 0) if known else None,
    )


_DASH, _MINUS = "\u2013", "\u2212"


def _number(value: float | None, digits: int = 3) -> str:
    """Format with a fixed count of decimals and thousands separators; a dash where there is none."""
    if value is None:
        return _DASH
    return f"{value + 0.0:,.{digits}f}".replace("-", _MINUS) if round(value, digits) else f"{0:.{digits}f}"


def _signed(value: float | None, digits: int = 3) -> str:
    return _DASH if value is None else ("+" if round(value, digits) > 0 else "") + _number(value, digits)


def _percent(value: float | None, digits: int = 1) -> str:
    return _DASH if value is None else _number(100 * value, digits) + "%"


def _bytes(value: float) -> str:
    """Bytes in decimal units, three figures."""
    power = min(int(math.log10(value) / 3), 4) if value >= 1 else 0
    scaled = value / 1000**power
    digits = 0 if power == 0 or scaled >= 100 else 1
    return f"{scaled:.{digits}f}\u00a0{('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _seconds(value: float) -> str:
    if value < 1:
        return f"{1000 * value:.0f}\u00a0ms"
    minutes, rest = divmod(value, 60)
    return f"{minutes:.0f}\u00a0min {rest:.0f}\u00a0s" if minutes else f"{value:.1f}\u00a0s"


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _scientific(value: float) -> str:
    return f"{value:.1e}".replace("e+0", "e").replace("e-0", "e-").replace("-", _MINUS)


_FILTERS: Final[dict[str, Callable[..., str]]] = {
    "num": _number, "signed": _signed, "pct": _percent, "bytes": _bytes, "seconds": _seconds,
    "clip": _clip, "sci": _scientific,
}  # fmt: skip


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("veilscore.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment
