"""The report: what each reader may see, escaping, and the page in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from pydantic import ValidationError

from tests.conftest import require
from veilscore.errors import ConfigError, DataError, StateError
from veilscore.models import metrics
from veilscore.models.stability import score_stability
from veilscore.reports import plots, report, svg
from veilscore.reports.data import (
    BANK_ONLY,
    BinRow,
    ColumnBins,
    ColumnStability,
    Convergence,
    Dropped,
    Improvement,
    LearnedRow,
    ModelRow,
    Parity,
    PartyRow,
    ReportData,
    ReportedJob,
    ScorecardSection,
    Stability,
    StepCost,
)
from veilscore.reports.page import _CHARTS, render

BANK, TAX, REGISTRY = "Harbour Bank", "Tax Bureau", "Business Registry"
NAMES = {
    BANK: ("months_on_book", "overdraft_days", "limit_use", "prior_defaults", "loan_amount", "sector"),
    TAX: ("vat_turnover_growth", "late_filings", "profit_margin", "invoice_gap_days", "wage_bill"),
    REGISTRY: ("company_age", "board_changes", "paid_in_capital", "pledged_shares"),
}
SECTIONS = [
    *("summary", "warnings", "ranking", "gains", "distribution", "calibration", "cutoffs", "model", "bins", "iv"),
    *("stability", "convergence", "costs", "parties", "learned"),
]
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>$x$"


def columns(rng, count=None):
    """Seeded bins with a bad rate that falls with the bin; holders' codes are permuted."""
    names = [(party, name) for party, own in NAMES.items() for name in own]
    if count:
        names = [(party, f"{name}_{k}") for k in range(count) for party, name in names][:count]
    for party, name in names:
        n_bins = int(rng.integers(3, 10))
        edges = np.unique(np.round(np.sort(rng.lognormal(3, 1.2, n_bins - 1)), 2))
        share = rng.dirichlet(np.full(edges.size + 2, 6.0))
        strength = rng.uniform(0.1, 0.6)
        rates = 0.2 * np.exp(strength * np.linspace(1.4, -1.6, share.size) + rng.normal(0, 0.08, share.size))
        base = float(np.dot(share, rates))
        good, bad = share * (1 - rates) / (1 - base), share * rates / base
        woe = np.log(bad / good)
        codes = rng.permutation(share.size)
        limits = ["min", *edges.tolist(), "max"]
        labels = ["missing", *(f"{low} to {high}" for low, high in pairwise(limits))]
        bins = tuple(
            BinRow(codes=(int(c),), share=s, label=t, bad_rate=r, woe=w, points=round(60 - 28 * w))
            for c, s, t, r, w in zip(codes, share.tolist(), labels, rates.tolist(), woe.tolist(), strict=True)
        )
        yield ColumnBins(column=name, party=party, bins=bins, iv=float(np.dot(bad - good, woe)))


def scores(rng, n=6000):
    truth = rng.normal(size=(3, n))
    y = (rng.random(n) < 1 / (1 + np.exp(2 - 1.1 * truth.sum(axis=0)))).astype(int)
    joint, own = 1.1 * truth.sum(axis=0) - 2, 1.2 * truth[0] - 1.6
    return y, joint, own


def example(*, name="SME scorecard 2026-Q3", count=None):
    """Build a merged report with every section, from seeded scores."""
    rng = np.random.default_rng(20)
    y, joint, own = scores(rng)
    points, own_points = 560 - 28 * joint, 560 - 28 * own
    table = metrics.score_table(y, points, points=True)
    bins = tuple(columns(rng, count))
    gain = metrics.auc_difference(y, joint, own)
    rows = tuple(
        ModelRow(
            column=c.column,
            party=c.party,
            coefficient=float(rng.uniform(0.3, 1.1)) * (-0.2 if k == 9 else 1),
            standard_error=float(rng.uniform(0.04, 0.2)),
            sign_ok=k != 9,
            iv=c.iv,
            points_low=min(b.points for b in c.bins),
            points_high=max(b.points for b in c.bins),
        )
        for k, c in enumerate(bins)
    )
    parties = (
        PartyRow(name=BANK, role="label holder", n_rows=24_000, n_columns=6, as_of="2026-09-30"),
        PartyRow(
            name=TAX,
            role="feature holder",
            n_rows=61_200,
            n_columns=5,
            as_of="2026-09-30",
            fingerprint="9f:2c:" * 10 + "9f:2c",
        ),
        PartyRow(
            name=REGISTRY,
            role="feature holder",
            status="stale",
            detail="data is 94 days old; the job allows 90",
            n_rows=88_410,
            n_columns=4,
            as_of="2026-06-28",
        ),
        PartyRow(
            name="Court Records",
            role="feature holder",
            status="refused",
            detail="purpose not covered by its policy",
        ),
        PartyRow(name="Coordinator", role="coordinator"),
    )
    steps = {"align": (1.9, 3e6), "binning": (4.2, 31e6), "training": (9.6, 4.1e8), "evaluation": (0.8, 2e5)}
    costs = tuple(
        StepCost(
            step=step,
            party=party,
            seconds=seconds * float(rng.uniform(0.8, 1.2)),
            bytes_sent=int(size * rng.uniform(0.2, 1)) if party != "Coordinator" else 48_000,
            cpu_seconds=seconds * 0.6,
        )
        for step, (seconds, size) in steps.items()
        for party in (BANK, TAX, REGISTRY, "Coordinator")
    )
    return ReportData(
        audience="merged",
        job=ReportedJob(
            name=name,
            job_id="b7e1c0f4-5a1d-4f3e-9a77-2f8f6c1f2b11",
            purpose="Decide on credit lines of small firms up to 300,000; consent form 7, article 4.",
            task="scorecard (logistic regression on weight of evidence)",
            created="2026-10-02T09:14:00Z",
            software="Veilscore 0.1.0",
            model_name="sme-joint",
            model_version="3",
            model_hash="sha256:" + "4be1" * 16,
            transcript_hash="sha256:" + "09ac" * 16,
            n_train=18_000,
            n_holdout=6_000,
            holdout="25 %, stratified, seed 7",
        ),
        parties=parties,
        evaluations=(
            report.evaluate("joint", "the joint scorecard", table),
            report.evaluate("bank only", "bank only", metrics.score_table(y, own_points, points=True)),
        ),
        improvement=Improvement(auc=gain[0], standard_error=gain[1]),
        parity=Parity(
            reference="scikit-learn on the pooled plaintext",
            coefficient_difference=3.1e-4,
            auc_difference=1.2e-6,
        ),
        score_name="points (higher is better)",
        distribution=metrics.score_histogram(y, points),
        calibration=metrics.calibration(y, 1 / (1 + np.exp(-joint))),
        cutoffs=metrics.cutoff_table(y, points, [540, 570, 600, 630, 660]),
        model=ScorecardSection(
            rows=rows,
            intercept=-1.72,
            base_score=600,
            base_odds=20,
            pdo=20,
            dropped=(Dropped(column="vat_refund_share", party=TAX, reason="IV 0.008 below 0.02"),),
        ),
        bins=bins,
        stability=Stability(
            columns=tuple(
                ColumnStability(column=c.column, party=c.party, psi=float(rng.exponential(0.03))) for c in bins
            ),
            score=score_stability(points[:3000], points[3000:] + 4),
        ),
        convergence=Convergence(
            gradient_norm=tuple((0.4 * 0.62 ** np.arange(20) * rng.uniform(0.7, 1.3, 20)).tolist()),
            tolerance=1e-4,
        ),
        costs=costs,
        learned=(
            LearnedRow(
                step="align",
                label_holder="size of each holder's set",
                feature_holder="which of its firms are in the bank's job",
                coordinator="set sizes",
            ),
            LearnedRow(
                step="binning",
                label_holder="good and bad counts per anonymous bin over the minimum size",
                feature_holder="nothing",
                coordinator="job, sizes, timing",
            ),
            LearnedRow(
                step="scorecard training",
                label_holder="weights; d rounded gradient components a step",
                feature_holder="number of steps, R, K",
                coordinator="job, sizes, timing",
            ),
        ),
        warnings=(
            "invoice_gap_days has the wrong sign: no bank files such a coefficient.",
            "Court Records refused; its columns are not in the model.",
        ),
    )


@pytest.fixture(scope="module")
def merged():
    return example()


def redact(full, audience, party):
    """The view of one reader, cut out of fuller data."""
    changes = {"audience": audience, "party": party, "warnings": ()}
    if audience == "bank":
        bins = [column if column.party == party else anonymous(column) for column in full.bins]
        return full.changed(**changes, bins=bins)
    for name in BANK_ONLY:
        changes[name] = ReportData.model_fields[name].default
    own = [column for column in full.bins if column.party == party]
    changes["bins"] = [with_bins(column, bad_rate=None, woe=None, points=None).changed(iv=None) for column in own]
    changes["costs"] = [cost for cost in full.costs if cost.party == party]
    shifts = [column for column in full.stability.columns if column.party == party]
    changes["stability"] = full.stability.changed(columns=shifts, score=None) if shifts else None
    return full.changed(**changes)


def anonymous(column):
    bare = with_bins(column, label=None)
    return bare.changed(bins=sorted(bare.bins, key=lambda cell: (-(cell.woe or 0.0), cell.codes)))


def with_bins(column, **changes):
    return column.changed(bins=[cell.changed(**changes) for cell in column.bins])


def sections(html):
    return re.findall(r'<section id="([\w-]+)"', html)


def test_every_section_is_there_and_linked(merged):
    html = render(merged)
    assert sections(html) == SECTIONS
    assert re.findall(r'<li><a href="#([\w-]+)"', html) == SECTIONS
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', html)) <= set(ids)
    assert html.count("<figure") == html.count("<figcaption")
    assert "nan" not in re.sub(r"<[^>]*>", "", html).lower().split()


def test_the_page_refers_to_nothing_outside(merged):
    html = render(merged)
    assert not re.search(r"https?:|//\w|<script|<link(?! rel=\"icon\" href=\"data:,\")|@import|<iframe", html)
    assert "default-src 'none'" in html
    assert set(re.findall(r"url\(([^)]{0,2})", html)) <= {"#c"}


def test_rendering_is_deterministic(merged):
    assert render(merged) == render(example())


def test_data_survive_json(merged, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(merged.model_dump_json(), encoding="utf-8")
    again = report.read_report(path)
    assert again == merged
    assert render(again) == render(merged)


def test_wrong_files_are_refused(merged, tmp_path):
    path = tmp_path / "report.json"
    with pytest.raises(StateError, match="cannot read"):
        report.read_report(path)
    for text in ("", "{}", merged.model_dump_json()[:-1] + ',"extra":"secret-value"}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match="not report data") as caught:
            report.read_report(path)
        assert "secret-value" not in str(caught.value)
    with pytest.raises(ValidationError):
        BinRow(codes=(1,), share=float("nan"))
    raw = merged.model_dump()
    raw["distribution"]["good"] = (float("inf"),)
    with pytest.raises(ValidationError):
        ReportData.model_validate(raw)


def test_the_bank_sees_no_edges_of_others(merged):
    bank = redact(merged, "bank", BANK)
    html = render(bank)
    for column in merged.bins:
        labels = {cell.label for cell in column.bins} - {"missing"}
        assert any(f">{label}<" in html for label in labels) == (column.party == BANK)
    for column in (column for column in bank.bins if column.party != BANK):
        woe = [cell.woe for cell in column.bins]
        assert woe == sorted(woe, reverse=True)  # not in the owner's order
    assert set(SECTIONS) - set(sections(html)) == {"warnings"}
    assert "This is a merged report" not in html
    with pytest.raises(DataError, match="must not carry labels"):
        ReportData.model_validate({**merged.model_dump(), "audience": "bank", "party": BANK})


def test_a_holder_sees_its_own_columns_only(merged):
    tax = redact(merged, "holder", TAX)
    html = render(tax)
    assert sections(html) == ["summary", "bins", "stability", "costs", "parties", "learned"]
    assert all(name in html for name in NAMES[TAX])
    assert not any(name in html for name in NAMES[BANK] + NAMES[REGISTRY])
    assert "AUC" not in html
    for field in ("evaluations", "model", "cutoffs", "bins", "convergence"):
        changed = {**tax.model_dump(), field: merged.model_dump()[field]}
        with pytest.raises(DataError, match="holder's report"):
            ReportData.model_validate(changed)


@pytest.mark.parametrize("party", ["", "Nobody", TAX])
def test_the_reader_must_be_a_party_of_the_right_role(merged, party):
    with pytest.raises(DataError, match="label holder"):
        redact(merged, "bank", party)


def test_merging_the_views_gives_the_edges_back(merged):
    bank = redact(merged, "bank", BANK)
    shuffled = bank.model_dump()
    for column in shuffled["bins"]:
        if column["party"] != BANK:
            column["bins"] = column["bins"][::-1]
    bank = ReportData.model_validate(shuffled)
    holders = [redact(merged, "holder", party) for party in (TAX, REGISTRY)]
    assert report.merge(bank, holders).bins == merged.bins
    assert "This is a merged report" in render(report.merge(bank, holders))
    one = report.merge(bank, holders[:1])
    assert all(cell.label is None for c in one.bins if c.party == REGISTRY for cell in c.bins)


def test_merged_codes_join_their_labels(merged):
    column = merged.bins[6]
    codes = tuple(cell.codes[0] for cell in column.bins[:2])
    joined = BinRow(codes=codes, share=0.5)
    bank = redact(merged, "bank", BANK)
    bins = [column.model_copy(update={"bins": (joined,)})]
    bank = ReportData.model_validate({**dict(bank), "bins": bins})
    assert joined.title == f"bins {codes[0]}, {codes[1]}"
    found = report.merge(bank, [redact(merged, "holder", TAX)]).bins[0].bins[0]
    assert found.title == f"missing or {column.bins[1].label}"


class Tags(HTMLParser):
    """Collects the names of all elements and attributes of a page."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attrs):
        self.found |= {tag, *(name for name, _ in attrs)}


def infect(value):
    """Put markup into every text of report data, except where a value is one of a few words."""
    if isinstance(value, dict):
        return {k: v if k in {"kind", "status", "role", "audience"} else infect(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(infect(part) for part in value)
    return value + EVIL if isinstance(value, str) else value


def test_markup_in_names_is_shown_as_text(merged):
    html = render(ReportData.model_validate({**infect(merged.model_dump()), "party": ""}))
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 100
    parser = Tags()
    parser.feed(html)
    assert not parser.found & {"script", "img", "iframe", "object", "form"}
    assert not any(name.startswith("on") for name in parser.found)
    assert sections(html) == SECTIONS


def test_small_and_empty_reports_render(merged):
    bare = ReportData(audience="merged", job=merged.job.model_copy(update={"n_train": None}), parties=())
    assert sections(render(bare)) == ["summary"]
    two = metrics.score_table([0, 1], [0.2, 0.7])
    small = ReportData.model_validate(
        {
            **dict(merged),
            "evaluations": (report.evaluate("joint", "公司评分", two),),
            "distribution": metrics.score_histogram([0, 1], [0.2, 0.2]),
            "calibration": metrics.calibration([0, 1], [0.2, 0.2]),
            "cutoffs": metrics.cutoff_table([0, 1], [0.2, 0.7], [9]),
            "improvement": None,
            "parity": None,
            "convergence": Convergence(gradient_norm=(0.0,), converged=False),
            "bins": (ColumnBins(column="empty", party=TAX, bins=()),),
            "model": ScorecardSection(rows=(), intercept=0),
        }
    )
    html = render(small)
    assert "Not converged" in html
    assert "公司评分" in html


def test_large_reports_stay_small():
    data = example(count=64)
    html = render(data)
    assert len(html.encode()) < 3_000_000


def test_writing_replaces_and_reports_failure(merged, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    assert report.write_report(merged, path) == path
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(StateError, match="cannot write"):
        report.write_report(merged, tmp_path / "absent" / "report.html")


def test_charts_show_themselves_in_notebooks(merged, tmp_path):
    chart = plots.roc_chart({"a_$1$ & <b>": merged.evaluations[0].curve})
    html = chart._repr_html_()
    assert html.startswith("<div")
    assert "a_$1$ &amp; &lt;b&gt;" in html
    assert 'role="img"' in html
    chart.save(tmp_path / "roc.svg")
    assert ET.parse(tmp_path / "roc.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314
    with pytest.raises(ConfigError, match="cannot be written"):
        chart.save(tmp_path / "absent" / "roc.svg")


def chromium(tmp_path, *options):
    """Run headless Chromium with an empty profile and return its output and log."""
    program = shutil.which("chromium")
    require(program, "the browser test needs Debian's package chromium")
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.browser
def test_the_page_opens_in_a_browser_without_error(merged, tmp_path):
    path = report.write_report(merged, tmp_path / "report.html")
    dom, log = chromium(tmp_path, "--dump-dom", path.as_uri())
    assert "CONSOLE" not in log
    assert "Content Security Policy" not in log
    assert sections(dom) == SECTIONS
    assert dom.count("<svg") == render(merged).count("<svg")
    assert "</html>" in dom


@pytest.mark.browser
def test_markup_in_names_does_not_run_in_a_browser(merged, tmp_path):
    data = ReportData.model_validate({**infect(merged.model_dump()), "party": ""})
    path = report.write_report(data, tmp_path / "report.html")
    dom, log = chromium(tmp_path, "--dump-dom", path.as_uri())
    assert "CONSOLE" not in log
    assert "<script" not in dom
    assert "<img" not in dom


@pytest.mark.browser
def test_the_page_can_be_drawn(merged, tmp_path):
    path = report.write_report(merged, tmp_path / "report.html")
    picture = tmp_path / "page.png"
    chromium(tmp_path, f"--screenshot={picture}", "--window-size=1280,2400", path.as_uri())
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 50_000


def test_charts_need_nothing_but_python(merged, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = render(merged)
    # a scorecard has no validation curve, an exact job no account
    assert page.count('<svg class="chart"') == len(_CHARTS) - 2
    for name in _CHARTS:
        assert getattr(plots, f"{_CHARTS[name]}_chart")


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 1, 6, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (412.3, 688, 7, [450, 500, 550, 600, 650]),
        (-3.2, 0.4, 6, [-3, -2, -1, 0]),
    ],
)
def test_ticks_are_round_and_within_the_range(low, high, most, expected):
    found, step = svg.ticks(low, high, most)
    assert found == pytest.approx(expected)
    assert step == pytest.approx(expected[1] - expected[0])


def test_a_chart_places_its_points_where_the_axes_say():
    chart = svg.Chart("<title> & more", "x", "y")
    chart.line([0, 10], [5, 5], "joint", label="<b>", dots=2)
    chart.x_limits, chart.y_limits, chart.legend = (0, 10), (0, 10), "upper right"
    root = ET.fromstring(chart.to_svg())  # noqa: S314 - our own drawing
    assert root.find("title").text == "<title> & more"
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter("circle")]
    assert dots[0][1] == dots[1][1] == pytest.approx((svg._TOP + svg._HEIGHT - svg._BOTTOM) / 2, abs=0.1)
    assert dots[1][0] == svg._WIDTH - svg._RIGHT
    assert "<b>" in [text.text for text in root.iter("text")]
    assert chart.to_svg() == chart.to_svg()


@pytest.mark.parametrize("values", [[1e-9, 1e-9], [0.0], [5.0, 5.0, 5.0], [-1e6, 1e6], [float("nan"), 1.0], []])
def test_a_chart_of_odd_values_is_drawn(values):
    chart = svg.Chart("t", "x", "y")
    chart.line(range(len(values)), values, "joint")
    ET.fromstring(chart.to_svg())  # noqa: S314
    ET.fromstring(plots.convergence_chart(values or [0.0], 1e-6).to_svg())  # noqa: S314
