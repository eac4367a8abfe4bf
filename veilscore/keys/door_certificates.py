"""Makes and reads the certificates of the door: the server's own, and those that callers show.

They are self-signed P-256 like a node's, and pinned: a caller trusts the server's, the door trusts each caller's. They
are no identities of the federation and open nothing there. A caller may bring one of its own instead, of any kind of
key that TLS 1.3 takes.

Source: NIST FIPS 186-5 (ECDSA, P-256), RFC 5280 (certificates), RFC 9525 (names of a server).
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from veilscore.errors import ConfigError, IdentityError
from veilscore.keys.key_source import encrypt_pkcs8

_BEFORE = dt.timedelta(minutes=10)  # clocks may be a little behind
_LEAST_RSA_BITS = 2048
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    InvalidSignature,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True)
class ShownCertificate:
    """What a certificate says of whoever shows it.

    name : its common name.
    fingerprint : SHA-256 of its DER form, 64 hexadecimal digits.
    self_signed : whether it vouches for itself, so that it has to be pinned.
    """

    name: str
    fingerprint: str
    not_after: dt.datetime
    self_signed: bool
    pem: bytes = field(repr=False)
    parsed: x509.Certificate = field(repr=False, compare=False)

    @classmethod
    def read(cls, pem: bytes, source: str) -> ShownCertificate:
        """Read one PEM certificate; ConfigError unless it is one that a client of TLS 1.3 can show."""
        if pem.count(b"-----BEGIN CERTIFICATE-----") != 1:
            raise ConfigError(f"{source}: expected exactly one PEM certificate")
        try:
            return cls.of(x509.load_pem_x509_certificate(pem))
        except (*_UNREADABLE, IdentityError) as error:
            why = error.message if isinstance(error, IdentityError) else "damaged, or of an unknown kind"
            raise ConfigError(f"{source}: the certificate cannot be used: {why}") from error

    @classmethod
    def shown(cls, der: bytes) -> ShownCertificate:
        """Read what a peer of TLS showed, which TLS has checked; IdentityError if it cannot be read."""
        try:
            return cls.of(x509.load_der_x509_certificate(der))
        except _UNREADABLE as error:
            raise IdentityError("the certificate shown cannot be read") from error

    @classmethod
    def of(cls, parsed: x509.Certificate) -> ShownCertificate:
        """Return what a parsed certificate says; IdentityError where its key or its use does not do."""
        key = parsed.public_key()
        strong = isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey))
        if not strong and not (isinstance(key, rsa.RSAPublicKey) and key.key_size >= _LEAST_RSA_BITS):
            raise IdentityError(f"its key is neither P-256, Ed25519 nor RSA of at least {_LEAST_RSA_BITS} bits")
        try:
            usage = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            usage = None
        if usage is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
            raise IdentityError("it is not for a client (extended key usage clientAuth)")
        names = [str(a.value) for a in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        return cls(
            name=names[0] if len(names) == 1 else "",
            fingerprint=parsed.fingerprint(hashes.SHA256()).hex(),
            not_after=parsed.not_valid_after_utc,
            self_signed=parsed.subject == parsed.issuer,
            pem=parsed.public_bytes(serialization.Encoding.PEM),
            parsed=parsed,
        )

    def issued_by(self, authority: x509.Certificate) -> bool:
        """Return whether an authority signed it itself."""
        try:
            self.parsed.verify_directly_issued_by(authority)
        except _UNREADABLE:
            return False
        return not self.self_signed


def read_authority(pem: bytes, source: str) -> x509.Certificate:
    """Read the certificate of an authority that issues callers' certificates; ConfigError if it is none."""
    try:
        if pem.count(b"-----BEGIN CERTIFICATE-----") != 1:
            raise ConfigError(f"{source}: expected exactly one PEM certificate, of the authority itself")
        parsed = x509.load_pem_x509_certificate(pem)
        basic = parsed.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (*_UNREADABLE, x509.ExtensionNotFound) as error:
        raise ConfigError(f"{source}: not the certificate of an authority") from error
    if not basic.ca:
        raise ConfigError(f"{source}: not the certificate of an authority (basic constraints: CA false)")
    return parsed


def make_certificate(
    name: str, hosts: Sequence[str], use: Literal["server", "client"], days: float
) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """Make a P-256 key and its self-signed certificate, as PEM.

    name : its common name; hosts : names and addresses of a server; none of a client.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    now, subject = dt.datetime.now(dt.UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    wanted = ExtendedKeyUsageOID.SERVER_AUTH if use == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign")
    usage = dict.fromkeys((*others, "crl_sign", "encipher_only", "decipher_only"), False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([wanted]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts or (name,)]), critical=False)
    )
    return key, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: str | None) -> bytes:
    """Return a key as PKCS #8, encrypted if there is a passphrase."""
    none = serialization.NoEncryption()
    if not passphrase:
        return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none)
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, none)
    return encrypt_pkcs8(der, passphrase)


def hosts_of(pem: bytes) -> set[str]:
    """Return the names and addresses that a server's certificate has."""
    parsed = x509.load_pem_x509_certificates(pem)[0]
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return set(names.get_values_for_type(x509.DNSName)) | {
        str(address) for address in names.get_values_for_type(x509.IPAddress)
    }


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
