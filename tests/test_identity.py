"""identity.py: keys, certificates, signatures."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from veilscore.errors import ConfigError, IdentityError, StateError
from veilscore.keys.identity import (
    CERTIFICATE_FILE,
    KEY_FILE,
    PASSPHRASE_VARIABLE,
    create_identity,
    load_identity,
    parse_certificate,
)

DAY_S = 86_400.0


@pytest.fixture(autouse=True)
def _no_passphrase(monkeypatch):
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)


def test_created_identity_loads_again(tmp_path):
    made = create_identity(tmp_path / "bank", "bank", "bank")
    loaded = load_identity(tmp_path / "bank")
    assert loaded.certificate == made.certificate
    assert (loaded.name, loaded.role) == ("bank", "bank")
    assert loaded.certificate.not_after - dt.datetime.now(dt.UTC) > dt.timedelta(days=364)


def test_key_file_is_for_its_owner_only(tmp_path):
    create_identity(tmp_path, "bank", "bank")
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    (tmp_path / KEY_FILE).chmod(0o640)
    tmp_path.chmod(0o710)
    with pytest.raises(ConfigError, match=r"identity folder .* has mode 0710.*run `chmod -R go-rwx "):
        load_identity(tmp_path)
    tmp_path.chmod(0o700)
    with pytest.raises(IdentityError, match="chmod 600"):
        load_identity(tmp_path)


def test_certificate_states_name_role_and_no_authority(tmp_path):
    pem = create_identity(tmp_path, "tax_bureau", "holder").certificate.pem
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.subject.rfc4514_string() == "OU=holder,CN=tax_bureau"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["tax_bureau"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_repr_hides_the_key(tmp_path):
    identity = create_identity(tmp_path, "bank", "bank")
    body = identity.key_pem().decode().splitlines()[1]
    assert "PRIVATE" not in repr(identity)
    assert "_key" not in repr(identity)
    assert body not in repr(identity)


def test_second_identity_in_one_folder_is_refused(tmp_path):
    create_identity(tmp_path, "bank", "bank")
    with pytest.raises(ConfigError, match="has an identity already"):
        create_identity(tmp_path, "bank", "bank")


@pytest.mark.parametrize("name", ["", "Bank", "1bank", "tax bureau", "a" * 64, "bank\n", "../bank"])
def test_bad_name_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be used"):
        create_identity(tmp_path, name, "bank")


def test_bad_role_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="use one of bank, holder"):
        create_identity(tmp_path, "bank", "king")


def test_expired_identity_names_dates_and_remedy(tmp_path):
    create_identity(tmp_path, "bank", "bank", days=-1)
    with pytest.raises(IdentityError, match=r"expired \(valid from 20.*UTC.*make a new identity"):
        load_identity(tmp_path)


def test_certificate_from_the_future_is_refused(tmp_path):
    certificate = create_identity(tmp_path, "bank", "bank").certificate
    now_s = dt.datetime.now(dt.UTC).timestamp()
    certificate.check_valid(now_s)
    certificate.check_valid(now_s + 364 * DAY_S)
    with pytest.raises(IdentityError, match="not valid yet"):
        certificate.check_valid(now_s - DAY_S)
    with pytest.raises(IdentityError, match="has expired"):
        certificate.check_valid(now_s + 366 * DAY_S)


def test_passphrase_encrypts_the_key(tmp_path, monkeypatch):
    made = create_identity(tmp_path, "bank", "bank", passphrase=lambda: "correct horse")
    assert b"ENCRYPTED" in (tmp_path / KEY_FILE).read_bytes()
    with pytest.raises(ConfigError, match=PASSPHRASE_VARIABLE):
        load_identity(tmp_path)
    with pytest.raises(ConfigError, match="wrong passphrase") as caught:
        load_identity(tmp_path, passphrase=lambda: "staple battery")
    assert "staple" not in str(caught.value)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    assert load_identity(tmp_path).key_pem() == made.key_pem()


def test_missing_identity_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"no identity in .*key\.pem"):
        load_identity(tmp_path)


def test_damaged_key_is_refused(tmp_path):
    create_identity(tmp_path, "bank", "bank")
    (tmp_path / KEY_FILE).write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigError, match="damaged"):
        load_identity(tmp_path)


def test_key_of_another_node_is_refused(tmp_path):
    create_identity(tmp_path / "a", "bank", "bank")
    create_identity(tmp_path / "b", "bank", "bank")
    (tmp_path / "a" / CERTIFICATE_FILE).write_bytes((tmp_path / "b" / CERTIFICATE_FILE).read_bytes())
    with pytest.raises(IdentityError, match="do not belong together"):
        load_identity(tmp_path / "a")


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be written"):
        create_identity(tmp_path / "file" / "bank", "bank", "bank")


def test_signature_is_bound_to_data_purpose_and_signer(tmp_path):
    bank = create_identity(tmp_path / "bank", "bank", "bank")
    tax = create_identity(tmp_path / "tax", "tax", "holder")
    signature = bank.sign(b"job", "acceptance")
    bank.certificate.verify(b"job", signature, "acceptance")
    for certificate, data, purpose in (
        (bank.certificate, b"other job", "acceptance"),
        (bank.certificate, b"job", "receipt"),
        (tax.certificate, b"job", "acceptance"),
    ):
        with pytest.raises(IdentityError, match="signature"):
            certificate.verify(data, signature, purpose)
    with pytest.raises(IdentityError):
        bank.certificate.verify(b"job", b"", "acceptance")


def test_labels_cannot_run_into_each_other(tmp_path):
    bank = create_identity(tmp_path, "bank", "bank")
    signature = bank.sign(b"xy", "purpose")
    with pytest.raises(IdentityError):
        bank.certificate.verify(b"y", signature, "purposex")


def test_certificate_must_be_one_intact_pem(tmp_path):
    pem = create_identity(tmp_path, "bank", "bank").certificate.pem
    with pytest.raises(IdentityError, match="exactly one"):
        parse_certificate(pem + pem)
    der = bytearray(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER))
    der[-1] ^= 1
    with pytest.raises(IdentityError, match="cannot be read"):
        parse_certificate(_pem_of(bytes(der)))


def _pem_of(der: bytes) -> bytes:
    import base64

    lines = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n".encode()
