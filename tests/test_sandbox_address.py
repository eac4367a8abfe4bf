"""Addresses of people in PySyft: one plain part of a path, a header and a line; all else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mock_drive import need_pysyft

from veilscore.errors import ConfigError
from veilscore.sandbox.address import email_address

TAKEN = ["m@bank.example", "a.b+c_d-e@x-y.co", "_x@b", f"{'a' * 64}@b.example", f"a@{'b' * 63}.example"]
REFUSED = [
    "", "@", "a", "a@", "@b", "a@b@c", "a b@c", ".a@b", "a.@b", "a..b@c", "-rf@b", "a@-b", "a@b-", "a@b..c", "a@.b",
    "../../etc@b", "a/b@c", "a\\b@c", "a@b/c", "a@b\n", "a\n@b", "a@b\r\nBcc: c@d", "a\x00@b", "~a@b", "$(id)@b",
    "a%2f@b", '"a b"@c', "a@[127.0.0.1]", "é@b.example", "\u0430@b.example", "a@b.exämple", "*@b", "a,b@c",
    f"{'a' * 65}@b", f"a@{'b' * 64}", f"a@{'b.' * 130}c", "a@b" * 100_000,
    None, 3, b"a@b.example", ["a@b.example"], Path("a@b.example"),
]  # fmt: skip


@pytest.mark.parametrize("text", TAKEN)
def test_addresses_that_are_taken_also_by_pysyft(text):
    assert email_address(text) == text
    need_pysyft()
    from syft_job.models import JobSubmissionMetadata

    assert JobSubmissionMetadata.is_valid_email(text)


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text)[:20])
def test_addresses_that_are_refused_in_one_short_line(text):
    with pytest.raises(ConfigError) as caught:
        email_address(text)
    assert len(str(caught.value)) < 700
    assert str(caught.value).isprintable()


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab@.-+_/\\\n\x00 %"), max_size=20) | st.text(max_size=40) | st.emails())
def test_any_text_is_an_address_of_one_plain_path_part_or_refused(text):
    try:
        address = email_address(text)
    except ConfigError:
        return
    assert Path("x", address).parts == ("x", text)
    assert text.isascii()
    assert text.isprintable()
    assert text.count("@") == 1
