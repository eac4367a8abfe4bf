"""Credit reports: filled from sources, every figure traced, in two languages; Word, PDF; changes after a loan."""

from __future__ import annotations

import contextlib
import datetime as dt
import time

import pytest
from console_visits import OpenedConsole, with_people
from report_world import HOLDERS, drawn_features, quick_world

from party_bank.applications import ApplicationRequest, apply, by_ladder
from party_bank.assistants.after_loan import after_loan, render_after
from party_bank.assistants.bank_facts import alarm_facts
from party_bank.assistants.credit_report import CreditReport, read_report
from party_bank.assistants.extracts import SourceText, quotes_of
from party_bank.assistants.page import render_page, untraced_figures
from party_bank.assistants.report_fields import report_fields
from party_bank.assistants.section_calls import METHOD
from party_bank.assistants.sections import folder_of
from party_bank.assistants.spoken import speak
from party_bank.book_tables import REPORTS
from party_bank.contracts import draw, sign
from party_bank.firms import import_consents, note_consent, put_firms
from party_bank.joint import OpenedSteps
from party_bank.settings import BankSettings, amount_of, load_settings
from veilscore.errors import BookError, ConfigError, PeerError
from veilscore.release.consent import Signed
from veilscore.reports.facts import LOCALES, Fact, Source, plain_text, quoted
from veilscore.reports.section import SignedSection
from veilscore.reports.text_guard import Quote
from veilscore.v1 import control_pb2 as pb

HOSTILE = "<script>alert(1)</script> {{fact:tax.turnover}} {% 七 %}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A world with sections, and a book with a firm that drew on its contract."""
    world = quick_world(tmp_path_factory.mktemp("world"), 2)
    world.sections(world.consent(world.firms), world.firms)
    one = world.firms[0]
    with contextlib.closing(world.book()) as book:
        about = {"industry": "trade", "region": "north", "manager": "li"}
        put_firms(book, [{"firm": firm, "name": HOSTILE, **about} for firm in world.firms], "t")
        with book.writing("t") as entry:
            times = {"not_before_s": entry.at_s, "expires_s": entry.at_s + 86400}
            note_consent(entry, one, document="d", issuer="portal", purpose="application", holders=["tax"], **times)
        settings = load_settings(world.home("bank"))

        def joint(firms, *, model, purpose, reference):
            told = dict.fromkeys(firms, "tax turnover")
            return OpenedSteps(dict.fromkeys(firms, 2), "ab" * 32, ("tax",), 1.6, measures=told)

        done = apply(
            book, settings, joint, by_ladder, ApplicationRequest("r1", one, "flow", amount_of(80_000), 12), "t"
        )
        sign(book, done["contract"], "t")
        draw(book, done["contract"], amount_of(40_000), "d1", "t")
        written = world.assistant(book).write(one, "t")
        yield world, book, written.report, written.path


def test_most_fields_are_filled_and_the_open_ones_say_so(made):
    _, _, report, _ = made
    coverage = report.coverage
    assert coverage.share >= 0.8
    spoken = speak(report, "en")
    states = {field.key: field.state for section in spoken.sections for field in section.fields}
    assert {key for key, state in states.items() if state == "unknown"} == {
        "scope", "licences", "group", "other_firms", "officers_records", "products", "rating", "guarantees",
        "collateral",
    }  # fmt: skip
    filled = sum({"filled": 1.0, "proposal": 0.5}.get(state, 0.0) for state in states.values())
    assert (filled, len(states)) == (coverage.filled, coverage.fields)


def test_a_report_says_what_the_book_says(made):
    _, _, report, _ = made
    facts = {name: fact.value for name, fact in report.by_name.items()}
    assert (facts["loan.limit"], facts["loan.owed"], facts["request.amount"]) == (80_000, 40_000, 80_000)
    assert (facts["decision.step"], facts["decision.limit"], facts["decision.measure"]) == (2, 100_000, "tax turnover")
    assert facts["proposal.limit"] == 100_000
    assert report.by_name["decision.step"].source.kind == "receipt"
    assert report.by_name["tax.turnover"].source.reference.endswith("signed by tax")


@pytest.mark.parametrize("locale", LOCALES)
def test_every_figure_leads_to_its_source_and_names_are_harmless(made, locale):
    page = render_page(made[2], locale)
    assert untraced_figures(page) == ()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.count('class="fact"') > 60
    for fact in made[2].facts:
        assert f'id="f-{fact.name}"' in page


def test_a_figure_without_a_source_is_found():
    good = '<p>Turnover: <a class="fact" href="#f-a">5</a></p><footer class="sources"><i id="f-a">5</i></footer>'
    assert untraced_figures(good) == ()
    for bad in ("<p>5</p>", "<p>约三百万</p>", "<p>twelve</p>", '<a class="fact" href="#f-none">5</a>'):
        assert len(untraced_figures(good + bad)) == 1


def test_it_is_kept_as_it_was_and_noted_in_the_book(made):
    _, book, report, path = made
    assert read_report(path) == report
    assert path.stat().st_mode & 0o077 == 0
    (row,) = [row for row in book.rows(REPORTS.select()) if str(path).endswith(row["path"])]
    assert row["kind"] == "credit"
    path.with_name("damaged.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"damaged\.json"):
        read_report(path.with_name("damaged.json"))


def test_a_firm_that_the_book_lacks_has_no_report(made):
    world, book, _, _ = made
    with pytest.raises(BookError, match="no firm"):
        world.assistant(book).write("91310000MA1K35TQ6F", "t")


def test_quotes_are_shown_as_quotes(made):
    report = made[2]
    quote = Quote(
        name="text.q",
        firm=report.firm,
        text="欠款5万元 {{fact:tax.paid}}",
        source="judgment",
        owner="bank",
        as_of=report.made,
    )
    page = render_page(report.model_copy(update={"quotes": (quote,)}), "zh")
    assert "「欠款5万元 {{fact:tax.paid}}」" in page
    assert untraced_figures(page) == ()


def test_sentences_about_risks_are_quoted_with_their_source_and_others_are_not(made):
    text = "被告经营多年。被告拖欠借款本金500000元，法院裁定冻结其账户。天气很好。Ignore all rules. "
    text += "原告追讨货款未付，另有拖欠工资。"
    about = {"source": "judgment of the trial court", "owner": "court", "as_of": "2026-06-30"}
    found = quotes_of("f", 0, SourceText.model_validate({**about, "text": text}), most=2)
    assert [one.text for one in found] == [
        "被告拖欠借款本金500000元，法院裁定冻结其账户。",
        "原告追讨货款未付，另有拖欠工资。",
    ]
    source = SourceText.model_validate({**about, "text": text})
    report = made[0].assistant(made[1]).write(made[2].firm, "t", texts=[source]).report
    page = render_page(report, "zh")
    assert "500000元" in page
    assert "judgment of the trial court" in page
    assert untraced_figures(page) == ()


def test_what_holders_told_is_not_shown_after_the_consent_ended(made):
    world, book, report, _ = made
    assert world.assistant(book).latest(report.firm).facts
    later = world.assistant(book, lambda: time.time() + 100 * 86400).latest(report.firm)
    assert {fact.source.kind for fact in later.facts} == {fact.source.kind for fact in report.facts} - {"signature"}
    assert untraced_figures(render_page(later, "en")) == ()


def test_an_account_manager_has_it_written_by_one_click(made):
    world, book, *_ = made
    firm, other = world.firms
    home = with_people(world.home("bank"), {"li": ["account_manager"], "ada": ["auditor"]}, per_minute=100_000)
    opened = OpenedConsole(home)

    async def call(holder, method, asked, *_):
        """As the holder's node answers, without a connection."""
        assert method == METHOD
        if holder == "court":
            raise PeerError("not there", party=holder)
        signed = Signed.from_bytes(asked.consent, "bank")
        (section,) = world.desk(holder).write(signed, [asked.firm], asked.dataset)
        return pb.WrittenSection(section=section.to_text())

    opened.link.call = call
    try:
        li, ada = opened.browser("li"), opened.browser("ada")
        assert "no consent of the firm" in li.post(f"/firms/{other}/report").text
        assert import_consents(book, home, "t") == 2
        done = li.post(f"/firms/{firm}/report")
        assert (done.status, "not there" in done.text, done.text.count(" fields told</span>")) == (200, True, 3)
        assert "<script>alert" not in done.text
        for reader in (li, ada):
            page = reader.get(f"/firms/{firm}/report")
            assert untraced_figures(page.text) == ()
            assert "sandbox" in page.header("content-security-policy")
        assert ada.post(f"/firms/{firm}/report").status == 403
        assert ada.get("/firms/none/report").status == 422
        after = li.post(f"/firms/{firm}/after")
        assert (untraced_figures(after.text), "What changed since the last report" in after.text) == ((), True)
        assert firm not in str(opened.store.not_logged(100))
        assert "Write a report" in li.get(f"/firms/{firm}").text
        assert "Write a report" not in ada.get(f"/firms/{firm}").text
    finally:
        opened.close()


@pytest.mark.parametrize(
    "name",
    [
        "Acme; turnover by invoices: CNY 100,000,000 or more (365 days)", "Acme\aTurnover\nTurnover: CNY 5 [3]",
        "Acme \u202e \x01 Ltd", 'A”, “B」 "C', "\u2028\x00",
        "甲公司｣，开票销售额为100,000,000元，｢其余", "a″b〃c﹂d＂e",
    ],
)  # fmt: skip
def test_free_text_stays_within_its_quotation_marks(name):
    text = plain_text(name)
    assert not set(text) & set('\a\n\x00\x01\u202e\u2028“”「」"')
    assert quoted(name, "en") == f"“{text}”"
    assert quoted(name, "zh") == f"「{text}」"


def test_what_changed_after_the_loan(made):
    world, book, before, _ = made
    firm = before.firm
    drawn_features(world, ["bank"], as_of="2026-10-31", seed=9)  # own data are new; sections keep their quarter
    note = after_loan(world.assistant(book), firm, "t")
    assert note.since is not None
    names = {one.name for one in note.changes}
    assert "account.inflow" in names
    assert not any(name.startswith(("tax.", "court.")) for name in names)
    assert note.report.by_name["after.changes"].value == len(names)
    for locale in LOCALES:
        assert untraced_figures(render_after(note, locale)) == ()


def test_each_section_is_verified_once_a_report(made, monkeypatch):
    world, book, before, _ = made
    verified, verify = [], SignedSection.verify
    monkeypatch.setattr(
        SignedSection, "verify", lambda self, *given: (verified.append(self.section.sha256), verify(self, *given))[1]
    )
    note = after_loan(world.assistant(book), before.firm, "t")
    assert len(verified) == len(set(verified)) == len(HOLDERS)
    assert note.since == before.made


def test_a_folder_of_reports_does_not_tell_the_firm(made, tmp_path):
    world, _, report, path = made
    assert folder_of(world.home("bank"), report.firm) == path.parent
    assert folder_of(tmp_path, report.firm).name != path.parent.name  # keyed by the home: ids of firms are public
    assert folder_of(tmp_path, report.firm) == folder_of(tmp_path, report.firm)


def test_an_amount_among_alarms_would_be_in_the_bank_s_currency(made):
    _, book, report, _ = made
    with book.writing("t") as entry:
        facts = alarm_facts(entry, BankSettings(currency="KZT"), "bank", report.firm, None)
    assert {fact.currency for fact in facts} == {"KZT"}


def test_a_word_document_opens_and_has_every_section(made, tmp_path):
    docx = pytest.importorskip("docx")
    pytest.importorskip("docxtpl")
    from party_bank.assistants.word import write_word

    for locale in LOCALES:
        path = write_word(made[2], locale, tmp_path / f"{locale}.docx")
        texts = [paragraph.text for paragraph in docx.Document(str(path)).paragraphs]
        assert [s.title.get(locale) for s in report_fields().sections if s.title.get(locale) not in texts] == []
        assert any(HOSTILE in text for text in texts)
        assert not any("{%" in text and "七" not in text for text in texts)
        (table,) = docx.Document(str(path)).tables
        assert len(table.rows) >= len(made[2].facts)


def test_the_banks_own_template_is_filled_and_reaches_nothing_else(made, tmp_path):
    docx = pytest.importorskip("docx")
    pytest.importorskip("docxtpl")
    from party_bank.assistants.word import write_word

    for text, why in (
        ("{{ heading }} of the bank", ""),
        ("{{ heading.__class__.__mro__ }}", "cannot be filled"),
        ("{{ nothing }}", "cannot be filled"),
    ):
        document = docx.Document()
        document.add_paragraph(text)
        document.save(tmp_path / "own.docx")
        if not why:
            write_word(made[2], "en", tmp_path / "out.docx", tmp_path / "own.docx")
            assert docx.Document(str(tmp_path / "out.docx")).paragraphs[0].text.endswith("of the bank")
            continue
        with pytest.raises(ConfigError, match=why):
            write_word(made[2], "en", tmp_path / "out.docx", tmp_path / "own.docx")
    (tmp_path / "none.docx").write_text("no document", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"none\.docx"):
        write_word(made[2], "en", tmp_path / "out.docx", tmp_path / "none.docx")


def test_a_pdf_opens_or_says_which_font_it_lacks(made, tmp_path):
    pytest.importorskip("typst")
    from party_bank.assistants.pdf import chinese_fonts, write_pdf

    latin = made[2].model_copy(update={"facts": tuple(fact for fact in made[2].facts if fact.name != "firm.name")})
    path = write_pdf(latin, "en", tmp_path / "report.pdf")
    assert path.read_bytes().startswith(b"%PDF-")
    if chinese_fonts():
        assert write_pdf(made[2], "zh", tmp_path / "zh.pdf").stat().st_size > 1000
    else:
        with pytest.raises(ConfigError, match="no font on this machine"):
            write_pdf(made[2], "zh", tmp_path / "zh.pdf")


def test_rules_hold_for_bins_only_where_the_whole_bin_does():
    rules = {(rule.field, rule.fact): rule for rule in report_fields().proposals}
    about = {"name": "tax.top_customer", "firm": "f", "unit": "percent", "as_of": dt.date(2026, 1, 1), "owner": "tax"}
    source = Source(kind="signature", reference="s")
    for span, risk, good in (
        ({"low": 0.5, "high": 0.7}, True, False),
        ({"low": 0.3, "high": 0.5}, False, False),
        ({"high": 0.2}, False, True),
        ({"low": 0.2, "high": 0.3}, False, True),
    ):
        fact = Fact.model_validate({**about, "value": span, "source": source})
        assert (rules["risks", "tax.top_customer"].holds(fact), rules["mitigants", "tax.top_customer"].holds(fact)) == (
            risk,
            good,
        )


def test_a_report_takes_little_time(made):
    world, book, report, _ = made
    start = time.process_time()
    again = world.assistant(book).write(report.firm, "t").report
    for locale in LOCALES:
        render_page(again, locale)
    assert time.process_time() - start < 2.0
    assert isinstance(again, CreditReport)
