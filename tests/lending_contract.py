"""What campaigns, applications and renewals promise, run against SQLite and PostgreSQL."""

from __future__ import annotations

import csv
import datetime as dt
import itertools
import stat

import pytest
import sqlalchemy as sa
from bank_trial import SETTINGS, Joint, add_firms, consent, table_of

from party_bank import applications, campaigns, offers, renewals
from party_bank.applications import ApplicationRequest, by_ladder, settle
from party_bank.book_check import check_book
from party_bank.book_tables import APPLICATIONS, CONTRACTS, DECISIONS, HISTORY, LINES, OFFERS, WORK
from party_bank.contracts import draw, owed, sign
from party_bank.due import do_due
from party_bank.firms import withdraw_consent
from party_bank.offers import secret_of
from party_bank.recurring import tasks
from party_bank.settings import BankSettings
from veilscore.errors import BookError, ConfigError, DataError

KEY = bytes(32)
_names = itertools.count()


def some(book, n, *purposes):
    firms = [f"L{next(_names):05d}" for _ in range(n)]
    add_firms(book, firms)
    consent(book, firms, *purposes)
    return firms


def campaign(book, joint, firms, settings=SETTINGS):
    name = f"c{next(_names)}"
    campaigns.create(book, settings, name, "tax", "test")
    return name, campaigns.run(book, settings, joint, name, KEY, "test", firms)


def offer_of(book, firm):
    return book.rows(sa.select(OFFERS).where(OFFERS.c.firm == firm).order_by(OFFERS.c.id.desc()))[0]


def offered(book, step=2):
    (firm,) = some(book, 1, "proactive", "application", "renewal")
    campaign(book, Joint({firm: step}), [firm])
    return firm, offer_of(book, firm)


def asked(firm, row=None, /, amount=3_000_000, **changes):
    on = {"offer": row["number"], "secret": secret_of(KEY, row["number"])} if row else {}
    values = {"request": f"r-{firm}", "product": "tax", "amount": amount, "months": 6, **on, **changes}
    return ApplicationRequest(firm=firm, **values)


def apply(book, request, joint=None, judge=by_ladder, settings=SETTINGS):
    return applications.apply(book, settings, joint or Joint({}), judge, request, "test")


def line_of(book, firm):
    return book.rows(sa.select(LINES).where(LINES.c.firm == firm).order_by(LINES.c.id.desc()))[0]


class LendingContract:
    """Needs the fixtures book and clock."""

    def test_a_campaign_offers_what_was_decided_once(self, book):
        firms = some(book, 5, "proactive")
        joint = Joint(dict(zip(firms, (0, 1, 2, None, 2), strict=True)))
        name, ended = campaign(book, joint, firms)
        assert ended == {"declined": 1, "offered": 3, "unknown": 1}
        before = len(table_of(book, HISTORY))
        assert campaigns.run(book, SETTINGS, joint, name, KEY, "test") == ended
        assert len(table_of(book, HISTORY)) == before
        assert joint.asked == [(f"campaign/{name}", "proactive", tuple(firms))]
        assert [offer_of(book, firm)["amount"] for firm in firms[1:3]] == [3_000_000, 6_000_000]
        assert campaigns.candidates(book, name) == firms
        decided = {row["firm"]: row for row in book.rows(sa.select(DECISIONS).where(DECISIONS.c.firm.in_(firms)))}
        assert decided[firms[0]]["reasons"] == ["no: the joint decision gives it no limit"]
        assert decided[firms[1]]["reasons"] == ["yes: earns 5.00% of its limit a year; no budget is scarce"]
        assert decided[firms[1]]["holders"] == ["tax", "registry"]

    def test_what_was_opened_is_kept_although_the_policy_cannot_judge(self, book):
        (firm,) = some(book, 1, "application")
        joint, request = Joint({firm: 1}), asked(firm)

        def lacks(_inputs):
            raise ConfigError("the policy lacks blacklisted")

        with pytest.raises(ConfigError, match="lacks blacklisted"):
            apply(book, request, joint, lacks)
        (decided,) = book.rows(sa.select(DECISIONS).where(DECISIONS.c.firm == firm))
        (kept,) = book.rows(sa.select(APPLICATIONS).where(APPLICATIONS.c.firm == firm))
        assert (decided["outcome"], decided["step"], decided["bits"]) == ("opened", 1, 1.6)  # holders were charged
        assert (kept["status"], kept["decision"], line_of(book, firm)["state"]) == ("received", None, "applied")
        assert apply(book, request, joint)["status"] == "approved"
        assert len(joint.asked) == 1

    def test_an_application_is_two_transactions_and_a_repeat_one(self, book):
        (firm,) = some(book, 1, "application")
        commits = []
        note = commits.append
        sa.event.listen(book._engine, "commit", note)
        try:
            first = apply(book, asked(firm), Joint({firm: 1}))
            n = len(commits)
            assert apply(book, asked(firm)) == first
        finally:
            sa.event.remove(book._engine, "commit", note)
        assert (n, len(commits)) == (2, 3)

    def test_a_firm_in_two_campaigns_is_refused(self, book):
        firm, _ = offered(book)
        with pytest.raises(BookError, match=rf"{firm} has an open line of tax \(offered, offered by campaign c\d+\)"):
            campaign(book, Joint({firm: 1}), [firm])
        (other,) = some(book, 1)
        joint = Joint({other: 1})
        with pytest.raises(BookError, match=f"{other} gave no consent for proactive"):
            campaign(book, joint, [other])
        assert joint.asked == []

    def test_without_consents_two_stewards_file_a_basis(self, book):
        (firm,) = some(book, 1)
        for stewards in ((), ("a",), ("a", "a")):
            with pytest.raises(ConfigError, match="two stewards"):
                campaigns.create(book, SETTINGS, "b", "tax", "test", basis="law", stewards=stewards)
        name = f"basis{next(_names)}"
        campaigns.create(book, SETTINGS, name, "tax", "test", basis="article 6 (1) f", stewards=("wang", "chen"))
        assert campaigns.run(book, SETTINGS, Joint({firm: 1}), name, KEY, "test", [firm]) == {"offered": 1}

    def test_a_budget_and_caps_bound_the_offers(self, book):
        firms = some(book, 6, "proactive")
        lent = sum(r["amount"] for r in table_of(book, CONTRACTS) if r["status"] in ("draft", "signed"))
        lent += sum(r["amount"] for r in table_of(book, OFFERS) if r["status"] == "open")
        budget = {"total": lent // 100 + 150_000}
        settings = BankSettings.model_validate({**SETTINGS.model_dump(), "budget": budget})
        _, ended = campaign(book, Joint(dict.fromkeys(firms, 2)), firms, settings)
        assert ended == {"offered": 2, "declined": 4}  # 60,000 each of 150,000
        why = [r["reasons"][0] for r in book.rows(sa.select(DECISIONS).where(DECISIONS.c.firm.in_(firms)))]
        assert sum(text.startswith("no: earns 5.00%") for text in why) == 4
        short = BankSettings.model_validate({**SETTINGS.model_dump(), "budget": {"total": 1}})
        with pytest.raises(BookError, match=r"the budget of total is 1 and .* is lent already"):
            campaign(book, Joint(dict.fromkeys(more := some(book, 1, "proactive"), 2)), more, short)

    def test_lists_and_codes(self, book, tmp_path):
        firms = some(book, 3, "proactive")
        with book.writing("test") as entry:
            entry.db.execute(
                sa.text("UPDATE firms SET name = '=1+1', manager = 'a/b' WHERE firm = :f"), {"f": firms[0]}
            )
        name, _ = campaign(book, Joint(dict.fromkeys(firms, 1)), firms)
        offers.note_contact(book, offer_of(book, firms[1])["number"], "li")
        with book.writing("test") as entry:
            number = campaigns.find_campaign(entry, name)["id"]
        found = offers.write_lists(book, SETTINGS, number, tmp_path / "lists", KEY)
        assert found == {"a/b": 1, "li": 2}
        files = {path.name for path in (tmp_path / "lists").iterdir()}
        assert files >= {"li.csv", "offers.xlsx", *(f"{offer_of(book, firm)['number']}.svg" for firm in firms)}
        assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "lists").iterdir()} == {0o600}
        (odd,) = (tmp_path / "lists").glob("a_b-*.csv")
        rows = list(csv.reader(odd.read_text(encoding="utf-8-sig").splitlines()))
        assert rows[1][2] == "'=1+1"
        contacted = list(csv.reader((tmp_path / "lists" / "li.csv").read_text(encoding="utf-8-sig").splitlines()))
        assert [row[-1] for row in contacted] == ["contacted", "yes", ""]
        with book.writing("test") as entry:
            entry.db.execute(
                sa.text("UPDATE firms SET name = :n, manager = 'li' WHERE firm = :f"),
                {"n": f"Firm {firms[0]}", "f": firms[0]},
            )

    def test_an_application_on_an_offer_runs_to_the_draw(self, book):
        firm, offer = offered(book)
        secret = secret_of(KEY, offer["number"])
        assert offers.look(book, offer["number"], secret)["amount"] == 6_000_000
        joint = Joint({})
        first = apply(book, request := asked(firm, offer), joint)
        assert (first["status"], joint.asked) == ("approved", [])  # the offer's decision serves
        assert apply(book, request, joint)["contract"] == first["contract"]
        sign(book, first["contract"], "test")
        draw(book, first["contract"], 1_000_000, f"d-{firm}", "test")
        assert line_of(book, firm)["state"] == "drawn"
        with pytest.raises(BookError, match="was used for an application"):
            offers.look(book, offer["number"], secret)
        with pytest.raises(BookError, match="was used for another application"):
            apply(book, asked(firm, offer, amount=1))
        with pytest.raises(BookError, match="was used for an application"):
            apply(book, asked(firm, offer, request=f"r2-{firm}"))

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"secret": "x"}, "number and secret do not fit"),
            ({"offer": "O9999999"}, "number and secret do not fit"),
            ({"amount": 6_000_001}, "is for at most 60,000"),
            ({"product": "flow"}, "is for another firm or product"),
            ({"months": 0}, "for 1 to 120 months"),
            ({"request": ""}, "needs an id of its request"),
        ],
    )
    def test_bad_applications_change_nothing(self, book, changes, why):
        firm, offer = offered(book)
        before = len(table_of(book, HISTORY))
        with pytest.raises((BookError, ConfigError), match=why):
            apply(book, asked(firm, offer, **changes))
        assert len(table_of(book, HISTORY)) == before

    def test_an_offer_past_its_date(self, book, clock):
        firm, offer = offered(book)
        clock.days(31)
        with pytest.raises(BookError, match=f"offer {offer['number']} was valid until {offer['valid_until']}"):
            apply(book, asked(firm, offer))
        with pytest.raises(BookError, match="is no longer open"):
            offers.note_contact(book, offer["number"], "li")
        assert offers.expire(book) >= 1
        assert offers.expire(book) == 0
        assert (line_of(book, firm)["state"], line_of(book, firm)["reason"]) == ("closed", "offer expired")

    def test_online_approved_referred_declined(self, book):
        firms = some(book, 5, "application")
        steps = dict(zip(firms, (2, 1, 0, None, 3), strict=True))
        joint = Joint(steps)
        found = [apply(book, asked(firm, amount=6_000_000), joint) for firm in firms[:4]]
        assert [row["status"] for row in found] == ["approved", "referred", "declined", "referred"]
        assert [bool(row["contract"]) for row in found] == [True, False, False, False]
        assert found[1]["reasons"] == ["asks for more than its limit of 30,000"]
        assert found[2]["reasons"] == ["the joint decision gives no limit"]
        assert line_of(book, firms[2])["reason"] == "declined: the joint decision gives no limit"
        asked_before = list(joint.asked)
        for firm, row in zip(firms, found, strict=False):
            assert apply(book, asked(firm, amount=6_000_000), joint)["status"] == row["status"]
        assert joint.asked == asked_before  # nothing was released twice
        with pytest.raises(ConfigError, match="needs a reason"):
            settle(book, SETTINGS, f"r-{firms[1]}", "wang", approve=True, reasons=[" "])
        for _ in range(2):
            done = settle(book, SETTINGS, f"r-{firms[1]}", "wang", approve=True, reasons=["orders seen"])
        assert (done["status"], done["reasons"][-1], bool(done["contract"])) == ("approved", "orders seen", True)
        assert settle(book, SETTINGS, f"r-{firms[3]}", "wang", approve=False, reasons=["no"])["status"] == "declined"
        with pytest.raises(BookError, match="is approved; a person decides on referred ones"):
            settle(book, SETTINGS, f"r-{firms[1]}", "wang", approve=False, reasons=["no"])
        with pytest.raises(BookError, match="step 3 is beyond the ladder of 2 limits"):
            apply(book, asked(firms[4]), joint)

    def test_consent_is_needed_and_can_be_withdrawn(self, book):
        (firm,) = some(book, 1)
        joint = Joint({firm: 1})
        with pytest.raises(BookError, match=f"{firm} gave no consent for application"):
            apply(book, asked(firm), joint)
        consent(book, [firm], "application")
        assert withdraw_consent(book, firm, "application", "test") == 1
        with pytest.raises(BookError, match="gave no consent"):
            apply(book, asked(firm), joint)
        assert joint.asked == []

    def test_caps_refer_what_would_pass_them(self, book):
        firm, offer = offered(book)
        tight = BankSettings.model_validate({**SETTINGS.model_dump(), "firm_cap": 20_000})
        found = apply(book, asked(firm, offer), settings=tight)
        assert (found["status"], found["reasons"][-1]) == ("referred", "asks for more than caps still allow, 20,000.00")

    def test_an_unreachable_holder_leaves_the_application_to_be_repeated(self, book):
        (firm,) = some(book, 1, "application")
        with pytest.raises(DataError, match=r"lacks 1 of 1 firms"):
            apply(book, asked(firm), Joint({}))
        joint = Joint({firm: 1})
        assert apply(book, asked(firm), joint)["status"] == "approved"
        assert len(book.rows(sa.select(APPLICATIONS).where(APPLICATIONS.c.firm == firm))) == 1

    def test_a_renewal_is_prepared_once_and_accepted_the_same_day(self, book, clock):
        firm, offer = offered(book)
        contract = apply(book, asked(firm, offer))["contract"]
        sign(book, contract, "test")
        draw(book, contract, 2_000_000, f"d-{firm}", "test")
        joint = Joint({firm: 2})
        inflow = [0, 0, 0, 0, 9, 9, 0, 0, 5, 5, 0, 0]
        work = tasks(SETTINGS, joint, lambda _firm: inflow)
        with pytest.raises(BookError, match="has no proposal to accept: none was prepared"):
            renewals.accept(book, SETTINGS, contract, "test")
        for _ in range(4):
            clock.days(30)
            do_due(book, work)
            do_due(book, work)
        assert [entry[:2] for entry in joint.asked if firm in entry[2]] == [(f"renewal/{contract}", "renewal")]
        rows = book.rows(sa.select(WORK).where(WORK.c.task == "renew", WORK.c.firm == firm))
        assert [(row["status"], row["result"]) for row in rows] == [("done", f"{contract}: proposed")]
        proposed = renewals.prepare(book, SETTINGS, joint, contract, "test")
        assert (proposed["amount"], proposed["months"]) == (6_000_000, renewals.fitted_months(inflow, book.today(), 6))
        new = renewals.accept(book, SETTINGS, contract, "test")
        assert renewals.accept(book, SETTINGS, contract, "test") == new
        with book.writing("test") as entry:
            ids = {row["number"]: row["id"] for row in entry.rows(sa.select(CONTRACTS).where(CONTRACTS.c.firm == firm))}
            assert [owed(entry, ids[number]) for number in (contract, new)] == [0, 2_000_000]
        assert line_of(book, firm)["state"] == "renewed"
        with pytest.raises(BookError, match=f"contract {new} has no proposal to accept: none was prepared"):
            renewals.accept(book, SETTINGS, new, "test")
        assert renewals.prepare(book, SETTINGS, joint, contract, "test")["status"] == "accepted"

    def test_a_closed_contract_is_not_renewed(self, book):
        firm, offer = offered(book)
        contract = apply(book, asked(firm, offer))["contract"]
        with pytest.raises(BookError, match=f"contract {contract} is draft .* it is not renewed"):
            renewals.prepare(book, SETTINGS, Joint({firm: 1}), contract, "test")
        with pytest.raises(BookError, match="no contract 'C-none' in the book"):
            renewals.prepare(book, SETTINGS, Joint({}), "C-none", "test")

    def test_a_weak_check_declines_and_what_is_left_lapses(self, book, clock):
        firm, offer = offered(book)
        contract = apply(book, asked(firm, offer, amount=6_000_000))["contract"]
        sign(book, contract, "test")
        draw(book, contract, 6_000_000, f"d-{firm}", "test")
        declined = renewals.prepare(book, SETTINGS, Joint({firm: 1}), contract, "test")
        assert declined["status"] == "declined"
        with pytest.raises(BookError, match="has no proposal to accept: its renewal is declined"):
            renewals.accept(book, SETTINGS, contract, "test")
        other, its_offer = offered(book)
        second = apply(book, asked(other, its_offer))["contract"]
        sign(book, second, "test")
        assert renewals.prepare(book, SETTINGS, Joint({other: 1}), second, "test")["status"] == "proposed"
        for _ in range(7):
            clock.days(30)
            book.confirm_date(dt.datetime.fromtimestamp(clock.now_s).astimezone().date(), "test")
        with pytest.raises(BookError, match=f"contract {second} is ended"):
            renewals.accept(book, SETTINGS, second, "test")
        assert renewals.lapse(book) >= 1

    def test_the_book_balances_after_all_that(self, book):
        wrong = [text for text in check_book(book) if not text.startswith("firms ")]  # names set by hand above
        assert wrong == []
