"""Holders' sections: what consent and policy allow, what a bank can choose to read, and what the bank checks."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import shutil
import time
from dataclasses import replace

import pytest
import yaml
from report_world import HOLDERS, drawn_features, quick_world
from trial_federation import commanding, running

from party_bank.assistants.section_calls import METHOD, ask_sections
from party_bank.assistants.sections import ToldFacts
from party_bank.firms import ABOUT, import_consents, put_firms, report_consents
from veilscore.errors import ConfigError, IdentityError, ParameterError, RefusedError, SchemaError
from veilscore.keys.identity import create_identity
from veilscore.node.node import Node
from veilscore.release.issuer import import_consent
from veilscore.release.scope import Scope
from veilscore.reports.section import SignedSection, period_of
from veilscore.reports.section_desk import told_sections
from veilscore.reports.section_fields import section_fields
from veilscore.v1 import control_pb2 as pb

QUARTER_S = 93 * 86400


@pytest.fixture(scope="module")
def founded(tmp_path_factory):
    return quick_world(tmp_path_factory.mktemp("world"))


def copy_of(world, folder):
    shutil.copytree(world.folder, folder)
    return replace(world, folder=folder)


@pytest.fixture(scope="module")
def made(founded, tmp_path_factory):
    """Homes that several tests share, which count nothing in them."""
    return copy_of(founded, tmp_path_factory.mktemp("made") / "copy")


@pytest.fixture
def world(founded, tmp_path):
    """Homes that a test may change."""
    return copy_of(founded, tmp_path / "copy")


@pytest.fixture(scope="module")
def signed(made):
    """A section of the tax bureau that the first firm of `made` consented to; the bank has the consent."""
    return written(made, made.consent(made.firms[:1]))[0]


def set_policy(world, party, **changes):
    path = world.home(party) / "node.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["policy"] |= changes
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def written(world, consent, firms=None, holder="tax", **more):
    return world.desk(holder, **more).write(consent, firms or world.firms[:1], "main")


def taken(world, signed, **more):
    return world.shelf(**more).take(signed.write(world.folder / "section.json"))


def test_a_section_tells_what_consent_and_policy_list_and_nothing_else(world):
    consent = world.consent(world.firms[:1], fields=["tax.turnover", "tax.customers", "court.cases"])
    set_policy(world, "tax", report_fields=["tax.turnover", "tax.paid"])
    (signed,) = written(world, consent)
    assert list(signed.section.told) == ["tax.turnover"]
    assert set(written(world, consent, holder="court")[0].section.told) == {"court.cases"}
    with pytest.raises(RefusedError, match="lists no field"):
        written(world, consent, holder="bureau")
    set_policy(world, "tax", report_fields=[])
    with pytest.raises(RefusedError, match="names no report_fields"):
        written(world, consent)


def test_what_is_told_is_a_published_code_and_no_value(signed):
    fields = section_fields().of_catalogue("tax")
    assert set(signed.section.told) == set(fields)
    for name, one in signed.section.told.items():
        assert one.code is None or 0 <= one.code < fields[name].n_codes
    facts = signed.section.facts()
    assert {fact.owner for fact in facts} == {"tax"}
    assert all("signed by tax" in fact.source.reference for fact in facts)


def test_a_repeat_says_the_same_whatever_was_built_since(world):
    consent = world.consent(world.firms[:1])
    (first,) = written(world, consent)
    drawn_features(world, ["tax"], seed=2)
    (again,) = written(world, consent)
    assert again.section == first.section
    another = world.consent(world.firms[:1])
    assert written(world, another)[0].section.told == first.section.told
    later = lambda: time.time() + QUARTER_S  # noqa: E731
    new = world.consent(world.firms[:1], now_s=later())
    assert written(world, new, clock=later)[0].section.told != first.section.told


def test_fields_split_over_many_consents_read_one_record(world):
    """A bank that asks field by field, with new data between, has no more than one consent to all would give."""
    names = sorted(section_fields().of_catalogue("tax"))
    (whole,) = written(world, world.consent(world.firms[:1], fields=names[:8]))
    drawn_features(world, ["tax"], seed=3)
    parts = {}
    for some in (names[:2], names[2:8], names[8:]):
        parts |= written(world, world.consent(world.firms[:1], fields=some))[0].section.told
    assert {name: parts[name] for name in names[:8]} == whole.section.told
    (told,) = told_sections(world.home("tax"))
    assert (told.bank, told.firms, told.sections, told.fields) == ("bank", 1, 4, 16)
    assert told.bits == pytest.approx(sum(one.bits for one in section_fields().of_catalogue("tax").values()))


def test_a_firm_that_the_holder_does_not_know_is_told_as_unknown(made):
    stranger = "91310000MA1K35TQ6F"
    (signed,) = written(made, made.consent([stranger]), [stranger])
    assert {one.code for one in signed.section.told.values()} == {None}
    assert signed.section.facts() == ()


def test_where_an_owner_records_what_happened_no_event_is_told_as_none(made):
    stranger = "91310000MA1K35TQ6F"
    (signed,) = written(made, made.consent([stranger]), [stranger], holder="court")
    assert {one.code for one in signed.section.told.values()} == {0}
    facts = {fact.name: fact.value for fact in signed.section.facts()}
    assert facts["court.dishonest"] is False
    assert (facts["court.cases"].low, facts["court.cases"].high) == (None, 1.0)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"holders": ["registry"]}, "does not name tax"),
        ({"days": -0.00001}, "expired"),
    ],
)
def test_a_consent_to_something_else_is_refused(made, given, why):
    if "days" in given:
        consent = made.consent(made.firms[:1], now_s=time.time() - 10 * 86400, days=1)
    else:
        consent = made.consent(made.firms[:1], **given)
    with pytest.raises(RefusedError, match=why):
        written(made, consent)


def test_what_is_allowed_now_is_told_also_where_more_was_before(world):
    consent = world.consent(world.firms[:1])
    assert len(written(world, consent)[0].section.told) == 16
    set_policy(world, "tax", report_fields=["tax.customers"])
    assert list(written(world, consent)[0].section.told) == ["tax.customers"]
    with pytest.raises(IdentityError, match="no member 'nobody'"):
        written(world, world.consent(world.firms[:1], bank="nobody"))
    with pytest.raises(RefusedError, match="no bank of this federation"):
        written(world, world.consent(world.firms[:1], bank="court"))
    drawn_features(world, ["tax"], as_of="2999-01-01")
    with pytest.raises(RefusedError, match="a day to come"):
        written(world, consent)


def test_another_firms_consent_a_forged_one_and_a_revoked_one_are_refused(world):
    one, two = world.firms[:2]
    consent = world.consent([one])
    with pytest.raises(RefusedError, match="another firm"):
        written(world, consent, [two])
    with pytest.raises(RefusedError, match="not this firm"):
        written(world, world.consent(world.firms[:2]), [world.firms[2]])
    forged = type(consent)(consent.body.replace(b'"tax.paid",', b""), consent.signature, consent.commitments)
    with pytest.raises(RefusedError, match="changed"):
        written(world, forged)
    import_consent(world.home("tax"), world.issuer.revoke(firms=[one]), "revocations", "1")
    with pytest.raises(RefusedError, match="revoked"):
        written(world, consent)


def test_a_token_for_one_request_serves_one_quarter(world):
    consent = world.consent(world.firms[:1], once=True, days=200)
    assert written(world, consent)[0].section == written(world, consent)[0].section
    with pytest.raises(RefusedError, match="used for another request"):
        written(world, consent, clock=lambda: time.time() + QUARTER_S)


def test_the_policy_is_asked_as_on_every_path(world):
    consent = world.consent(world.firms[:1])
    set_policy(world, "tax", purposes=["credit"])
    with pytest.raises(RefusedError, match="purpose 'report'"):
        written(world, consent)


@pytest.mark.parametrize(
    "wrong",
    [
        {"fields": ()}, {"holders": ()}, {"bank": ""}, {"purpose": "credit"}, {"tasks": ("report_section", "decide")},
        {"tasks": ("decide",), "bits": 1.0}, {"fields": ("tax.turnover",) * 2}, {"bits": 2.0},
    ],
)  # fmt: skip
def test_a_consent_to_sections_names_bank_holders_and_fields(wrong):
    good = {"purpose": "report", "tasks": ("report_section",), "bank": "bank", "holders": ("tax",), "expires_s": 9.0}
    Scope(**good, fields=("tax.turnover",))
    with pytest.raises(ParameterError, match="consent"):
        Scope(**(good | {"fields": ("tax.turnover",)} | wrong))


# at the bank


def test_the_bank_takes_a_section_and_the_same_again(made, signed):
    assert taken(made, signed) == taken(made, signed)
    told = made.shelf().told(made.firms[0])
    known = [one for one in signed.section.told.values() if one.code is not None]
    assert (len(told.facts), told.left_out) == (len(known), ())
    assert told.references == {fact.source.reference for fact in signed.section.facts()}
    assert made.shelf().told(made.firms[1]) == ToldFacts((), frozenset(), ())


def changed(signed, **changes):
    content = json.loads(signed.to_text())
    content["section"] |= changes
    return SignedSection.from_text(json.dumps(content), "a file")


def test_a_changed_section_or_one_by_another_key_is_refused(made, signed, tmp_path):
    for changes in (
        {"firm": made.firms[1]},
        {"period": "2020Q1", "told": {"tax.paid": {"code": 1, "as_of": "2020-01-01"}}},
    ):
        with pytest.raises(IdentityError, match="signature"):
            taken(made, changed(signed, **changes))
    thief = create_identity(tmp_path / "thief", "tax", "holder")
    with pytest.raises(IdentityError, match="signature"):
        taken(made, SignedSection.sign(signed.section, thief))


def resigned(world, signed, **changes):
    """A section that the holder itself signed although it may not."""
    return SignedSection.sign(changed(signed, **changes).section, world.desk("tax")._identity)


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"bank": "other"}, RefusedError, "written for other"),
        ({"consent": "ab" * 16}, RefusedError, "is not here"),
        ({"period": "2999Q1"}, RefusedError, "not begun"),
        ({"fields_sha256": "ab" * 32}, SchemaError, "another version"),
        ({"told": {"tax.paid": {"code": 999, "as_of": "2026-01-01"}}}, SchemaError, "not published"),
        ({"told": {"court.cases": {"code": 1, "as_of": "2026-01-01"}}}, SchemaError, "not published"),
    ],
)
def test_what_a_holder_may_not_say_is_refused_although_it_signed(made, signed, changes, error, why):
    with pytest.raises(error, match=why):
        taken(made, resigned(made, signed, **changes))


def test_more_than_the_consent_lists_and_another_firm_are_refused_although_signed(made):
    (signed,) = written(made, made.consent(made.firms[:1], fields=["tax.turnover"]))
    with pytest.raises(IdentityError, match="does not list"):
        taken(made, resigned(made, signed, told={"tax.paid": {"code": 1, "as_of": "2026-01-01"}}))
    with pytest.raises(RefusedError, match="another firm"):
        taken(made, resigned(made, signed, firm=made.firms[1]))


def test_a_holder_tells_its_own_catalogue_alone_and_no_day_to_come(made, signed):
    told = {"court.dishonest": {"code": 1, "as_of": "2026-01-01"}}
    with pytest.raises(RefusedError, match="not its own here"):
        taken(made, resigned(made, signed, catalogue="court", told=told))
    today = dt.datetime.now(dt.UTC).date()
    ahead = [
        today + dt.timedelta(days=n) for n in (1, 0) if period_of(today + dt.timedelta(days=n)) == period_of(today)
    ]
    told = {"tax.paid": {"code": 1, "as_of": ahead[0].isoformat()}}
    if ahead[0] > today:
        with pytest.raises(RefusedError, match="days to come"):
            taken(made, resigned(made, signed, told=told))


def test_where_two_holders_tell_a_field_neither_is_used(world):
    firm = world.firms[0]
    world.sections(world.consent([firm]), [firm])
    (signed,) = written(world, world.consent([firm]))
    told = {"court.dishonest": {"code": 1, "as_of": "2026-10-01"}}
    shelf = replace(world.shelf(), tells={"tax": ("tax", "court")})
    shelf.take(resigned(world, signed, catalogue="court", told=told).write(world.folder / "x.json"))
    found = shelf.told(firm)
    names = {fact.name for fact in found.facts}
    assert "court.dishonest" not in names
    assert found.left_out == ("court.dishonest: more than one holder tells it, so none is used",)
    assert {"tax.turnover", "court.cases"} <= names


def test_a_consent_that_ended_ends_the_section_in_later_reports(world):
    firm = world.firms[0]
    (signed,) = written(world, world.consent([firm], days=30))
    taken(world, signed)
    later = world.shelf(lambda: time.time() + 31 * 86400).told(firm)
    assert (later.facts, later.references) == ((), frozenset())
    assert "expired" in later.left_out[0]
    shelf = world.shelf()
    assert shelf.told(firm).facts
    import_consent(world.home("bank"), world.issuer.revoke(firms=[firm]), "revocations", "1")
    assert "revoked" in shelf.told(firm).left_out[0]


def test_holders_nodes_write_sections_for_the_bank_that_the_consent_names(world):
    """Over the fabric, from real nodes: what is kept is what a file would have had; who is away or says no is named."""
    firm, stranger = world.firms[:2]
    set_policy(world, "registry", report_fields=[])
    consent = world.consent([firm], holders=("tax", "registry"))
    with contextlib.closing(world.book()) as book:
        put_firms(book, [{"firm": one, **dict.fromkeys(ABOUT, "x")} for one in (firm, stranger)], "test")
        assert import_consents(book, world.home("bank"), "test") == 1
        documents, none = report_consents(book, firm), report_consents(book, stranger)
    assert (documents, none) == ([world.id_of(consent)], [])

    async def work():
        nodes = {name: Node(world.home(name)) for name in ("tax", "registry")}
        async with (
            running(nodes),
            commanding(world.home("bank")) as bank,
            commanding(world.home("court")) as court,
        ):

            async def call(holder, message, by=bank):
                return await by.call(holder, METHOD, message, pb.WrittenSection, timeout_s=10)

            found = await ask_sections(world.shelf(), call, firm, documents, "main")
            again = await ask_sections(world.shelf(), call, firm, documents, "main")
            data = consent.to_message().SerializeToString()
            wrong = [
                pb.AskSection(consent=data, firm=stranger, dataset="main"),
                pb.AskSection(consent=data, firm=firm, dataset="none"),
                pb.AskSection(consent=world.consent([firm], bank="tax").to_message().SerializeToString(), firm=firm),
            ]
            says = []
            for message in wrong:
                with pytest.raises(RefusedError) as caught:
                    await call("tax", message)
                says.append(caught.value.message)
            with pytest.raises(IdentityError):
                await call("tax", wrong[0], court)
            with pytest.raises(RefusedError, match="no consent of this firm"):
                await ask_sections(world.shelf(), call, stranger, none, "main")
        return found, again, says

    found, again, says = asyncio.run(work())
    assert found == again
    assert [(one.holder, bool(one.fields)) for one in found] == [("registry", False), ("tax", True)]
    assert "writes no sections" in found[0].refusal
    for one, why in zip(says, ("another firm's", "its own log says why", "of another bank"), strict=True):
        assert why in one
    (ours,) = written(world, consent)
    assert {fact.name: fact.value for fact in world.shelf().told(firm).facts} == {
        fact.name: fact.value for fact in ours.section.facts()
    }


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"section": {}, "signature": "00"}', "[" * 70_000, "\x00"])
def test_what_is_no_section_is_one_sentence(text):
    with pytest.raises(ConfigError, match="is no section"):
        SignedSection.from_text(text, "a file")


def test_the_published_fields_are_of_shipped_variables_and_coarse():
    from veilscore.features.catalogue import find_catalogue
    from veilscore.features.expansion import expand

    published = section_fields()
    for catalogue in HOLDERS:
        known = {one.name for one in expand(find_catalogue(catalogue))}
        fields = published.of_catalogue(catalogue)
        assert {variable for one in fields.values() for variable in one.variables} <= known
        assert all(one.n_codes <= 8 for one in fields.values())
        for one in fields.values():
            assert len({str(one.value_of(code)) for code in range(one.n_codes)}) == one.n_codes
