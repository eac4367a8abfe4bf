"""Ids: one spelling per firm, and clear refusals."""

import numpy as np
import pytest
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st
from reference import load_parties

from veilscore.data.ids import (
    USCC_ALPHABET,
    check_ids,
    duplicate_rows,
    malformed_uscc,
    normalise_ids,
    normalise_one,
    normalise_uscc,
    uscc_from_stems,
)
from veilscore.errors import ConfigError, IdError

# printed in public company filings
KNOWN = "91350100M000100Y43"
stems = st.lists(st.integers(0, 30), min_size=17, max_size=17)


def random_ids(n, seed=0):
    return uscc_from_stems(np.random.default_rng(seed).integers(0, 31, (n, 17)))


def test_known_code_has_its_check_character():
    stem = np.array([[USCC_ALPHABET.index(letter) for letter in KNOWN[:-1]]])
    assert uscc_from_stems(stem).tolist() == [KNOWN]
    check_ids(normalise_uscc([KNOWN]))


def test_spellings_become_one():
    full_width = "".join(chr(ord(letter) + 0xFEE0) for letter in KNOWN)
    spelled = [KNOWN, KNOWN.lower(), f"  {KNOWN}\n", full_width]
    assert set(normalise_uscc(np.array(spelled, dtype=object)).tolist()) == {KNOWN}


def one_by_arrays(text, normaliser):
    try:
        ids = normalise_ids([text], normaliser)
        check_ids(ids, normaliser, source="the request")
        return str(ids[0])
    except IdError as error:
        return error.message


def one_alone(text, normaliser):
    try:
        return normalise_one(text, normaliser)
    except IdError as error:
        return error.message


letters = st.sampled_from([*"09aZ.+eE='\"-~ \t\x1c\x7f\0\u3000\u200b\uff11企", "A1", ".0", KNOWN[:17], "000000", "5"])


@given(st.lists(letters, max_size=8).map("".join) | st.sampled_from([KNOWN, KNOWN.lower(), f"\u3000{KNOWN} "]))
def test_a_single_id_gets_the_spelling_and_the_refusal_of_the_array_code(text):
    for normaliser in ("uscc", "text"):
        assert one_alone(text, normaliser) == one_by_arrays(text, normaliser)


@given(stems)
def test_a_single_code_is_spelled_and_refused_as_in_a_column(stem):
    right = str(uscc_from_stems(np.array([stem]))[0])
    for text in (right, right.lower(), right[:-1] + USCC_ALPHABET[(USCC_ALPHABET.index(right[-1]) + 7) % 31]):
        assert one_alone(text, "uscc") == one_by_arrays(text, "uscc")


@given(stems, st.integers(0, 16), st.integers(1, 30))
def test_every_single_wrong_letter_is_found(stem, position, shift):
    right = uscc_from_stems(np.array([stem]))[0]
    wrong_value = (USCC_ALPHABET.index(right[position]) + shift) % 31
    wrong = right[:position] + USCC_ALPHABET[wrong_value] + right[position + 1 :]
    assert malformed_uscc(np.array([right, wrong])).tolist() == [False, True]


@pytest.mark.parametrize(
    "bad", [KNOWN[:-1], KNOWN + "1", KNOWN[:-1] + "I", "企业" * 9, "x", KNOWN[:8] + " " + KNOWN[9:]]
)
def test_malformed(bad):
    with pytest.raises(IdError, match=r"1 malformed \(row 2\)"):
        check_ids(normalise_uscc([KNOWN, bad]))


def test_message_counts_and_names_rows_not_ids():
    ids = normalise_ids(np.array([KNOWN, None, "", float("nan"), KNOWN.lower(), "SECRET"], dtype=object))
    with pytest.raises(IdError) as caught:
        check_ids(ids, source="bank.csv")
    message = str(caught.value)
    assert "bank.csv" in message
    assert "3 empty (row 2, 3, 4)" in message
    assert "1 malformed (row 6)" in message
    assert "1 duplicate (row 5)" in message
    assert "SECRET" not in message
    assert KNOWN not in message


def test_text_ids_keep_case_and_are_not_checked_for_form():
    ids = normalise_ids([" a1", "A1", 7], "text")
    assert ids.tolist() == ["a1", "A1", "7"]
    check_ids(ids, "text")
    assert normalise_ids(np.array([12, 13]), "text").tolist() == ["12", "13"]


def test_unusable_id_arrays():
    with pytest.raises(ConfigError, match="choose one of text, uscc"):
        normalise_ids(["a"], "vat")
    with pytest.raises(IdError, match="decimal"):
        normalise_ids(np.array([1.0, 2.0]))
    with pytest.raises(IdError, match="one column"):
        normalise_ids(np.array([["a", "b"]]))


def test_no_ids():
    check_ids(normalise_uscc(np.array([], dtype=str)))


@given(st.lists(st.sampled_from(["", "a", "b", "c", "dd"]), max_size=30))
def test_duplicates_equal_a_plain_search(words):
    seen, expected = set(), []
    for row, word in enumerate(words):
        if word and word in seen:
            expected.append(row)
        seen.add(word)
    assert duplicate_rows(np.array(words, dtype="<U2")).tolist() == expected


@pytest.mark.slow
def test_a_million_ids_stay_as_they_are():
    ids = random_ids(1_000_000).astype(object)
    normal = normalise_uscc(ids)
    check_ids(normal)
    assert (normal == ids).all()


@pytest.mark.parametrize(
    "name", ["kz_corporate", "polish_1year", "default_credit", pytest.param("sba_loans", marks=pytest.mark.slow)]
)
def test_real_ids_pass(name):
    for party in load_parties(shared_data(name)).values():
        ids = normalise_uscc(party["ids"])
        check_ids(ids)
        assert (ids == party["ids"]).all()
