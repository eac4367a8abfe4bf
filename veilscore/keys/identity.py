"""A node is known by a P-256 key that never leaves its folder, and by a self-signed certificate that peers pin.

There is no certificate authority. The federation file holds each member's certificate, and a peer is who it
says only if the certificate of its TLS connection has the pinned fingerprint. The same key signs acceptances.

Source: NIST FIPS 186-5 (ECDSA, P-256), RFC 5280 (certificates).
Protects: the private key at rest, by file mode 0600 and, if a passphrase is given, by encryption (PKCS #8 under
scrypt, key_source.py). A certificate can commit to a recovery key, kept elsewhere, that revokes it (rotation.py).
Does not protect: a key on a machine whose root user is hostile.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from veilscore.errors import ConfigError, IdentityError, StateError
from veilscore.files.private import check_private, private_folder
from veilscore.keys.key_source import (
    PASSPHRASE_FILE_VARIABLE,
    PASSPHRASE_VARIABLE,
    default_source,
    encrypt_pkcs8,
    write_new,
)

ROLES = ("bank", "holder", "coordinator", "operator")
KEY_FILE = "key.pem"
CERTIFICATE_FILE = "certificate.pem"
RECOVERY_FILE = "recovery.pem"
CURRENT_FILE = "current"  # names the folder of the key in use, once it was rotated
MOST_DAYS = 36_500
NAME_PATTERN = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_SIGNATURES = "veilscore/1"  # the form of signatures, not of messages: receipts outlive versions of the wire
_HOST = re.compile(r"[\w.-]{1,253}|\[[0-9a-fA-F:.]{2,45}(%[\w.-]{1,15})?\]", re.ASCII)

# Extension of a certificate with the SHA-256 of a recovery key; an arc of a random UUID (ITU-T X.667).
RECOVERY_OID = x509.ObjectIdentifier("2.25.187134260512219436177812356481123547890")

Passphrase = Callable[[], str | None]


def passphrase_from_environment() -> str | None:
    """Return the passphrase of VEILSCORE_KEY_PASSPHRASE_FILE or VEILSCORE_KEY_PASSPHRASE; None if neither is set."""
    return default_source().secret(Path())


@dataclass(frozen=True)
class Certificate:
    """The public half of an identity, which checks its signatures.

    name : of the node (common name and subject alternative name).
    role : bank, holder, coordinator or operator (organisational unit).
    fingerprint : SHA-256 of the DER form, 64 hexadecimal digits.
    not_before, not_after : period of validity, UTC.
    recovery : SHA-256 of the recovery public key, 64 hexadecimal digits, if the certificate commits to one.
    """

    name: str
    role: str
    fingerprint: str
    not_before: dt.datetime
    not_after: dt.datetime
    pem: bytes = field(repr=False)
    public_key: ec.EllipticCurvePublicKey = field(repr=False, compare=False)
    recovery: str | None = None

    def check_valid(self, now_s: float) -> None:
        """Refuse a certificate that is expired or not yet valid at `now_s`, in seconds since the epoch."""
        now = utc_time(now_s)
        if self.not_before <= now <= self.not_after:
            return
        period = f"valid from {self.not_before:%Y-%m-%d %H:%M} to {self.not_after:%Y-%m-%d %H:%M} UTC"
        today = f"this node's clock says {now:%Y-%m-%d %H:%M}"
        if now > self.not_after:
            raise IdentityError(
                f"certificate of {self.name} has expired ({period}, {today}): make a new identity for "
                f"{self.name} and put its certificate into the federation file of every member",
                party=self.name,
            )
        raise IdentityError(
            f"certificate of {self.name} is not valid yet ({period}, {today}): check the clocks of both nodes, or wait",
            party=self.name,
        )

    def verify(self, data: bytes, signature: bytes, purpose: str) -> None:
        """Check a signature by `Identity.sign`; IdentityError unless it is this node's for this data and purpose."""
        try:
            self.public_key.verify(signature, _labelled(data, purpose, self.fingerprint), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise IdentityError(
                f"signature for {purpose!r} is not {self.name}'s, or what it signed was changed",
                party=self.name,
            ) from error


@dataclass(frozen=True)
class Identity:
    """A node's own certificate and private key, which signs; the key is absent from repr."""

    certificate: Certificate
    _key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Return the name of the node."""
        return self.certificate.name

    @property
    def role(self) -> str:
        """Return the role that the certificate states."""
        return self.certificate.role

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the certificate, 64 hexadecimal digits."""
        return self.certificate.fingerprint

    def key_pem(self) -> bytes:
        """Return the private key unencrypted, for the TLS library only."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, data: bytes, purpose: str) -> bytes:
        """Return an ECDSA signature of `data`, bound to the form of signatures, `purpose` and this certificate."""
        return self._key.sign(_labelled(data, purpose, self.fingerprint), ec.ECDSA(hashes.SHA256()))


def utc_time(at_s: float) -> dt.datetime:
    """Return seconds since the epoch as a date; IdentityError beyond the calendar, since peers' dates are hostile."""
    try:
        return dt.datetime.fromtimestamp(at_s, dt.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise IdentityError("a date is not within the years 1 to 9999") from error


def _labelled(data: bytes, purpose: str, fingerprint: str) -> bytes:
    # each with its length, so that no two sets of fields give the same bytes
    fields = (_SIGNATURES, "signature", purpose, fingerprint)
    return b"".join(len(f.encode()).to_bytes(2, "little") + f.encode() for f in fields) + data


def check_name(name: str) -> str:
    """Return `name` if a node can have it, as a TLS host name too; ConfigError otherwise."""
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError(
            f"node name {name!r} cannot be used: lower-case letters, digits, - and _, beginning with a letter, "
            "at most 63"
        )
    return name


def check_address(address: str) -> str:
    """Return `address` if it is host:port with a port from 1 to 65535; ConfigError otherwise.

    Nothing but letters, digits and marks of host names: it comes from peers, and is shown beside words that people
    compare, where a line break or a control character could write other words over them.
    """
    host, _, port = address.rpartition(":")
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if not _HOST.fullmatch(host) or not digits or not 1 <= int(port) <= 65535:
        raise ConfigError(f"address {address!r} must be host:port, for example tax.example.org:7101")
    return address


def parse_certificate(pem: bytes) -> Certificate:
    """Return a member's certificate.

    Raises IdentityError unless it is exactly one PEM certificate, P-256, self-signed, and states a name and a role.
    """
    if pem.count(b"-----BEGIN CERTIFICATE-----") != 1:
        raise IdentityError("expected exactly one PEM certificate")
    try:
        return _checked(x509.load_pem_x509_certificate(pem))
    except _UNREADABLE as error:
        raise IdentityError("certificate cannot be read: damaged, or not made by Veilscore") from error


# All that `cryptography` raises of a certificate that another program made; an unknown curve is UnsupportedAlgorithm.
_UNREADABLE = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)


def _checked(parsed: x509.Certificate) -> Certificate:
    public_key = parsed.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or public_key.curve.name != "secp256r1":
        raise IdentityError("certificate has a key other than P-256")
    parsed.verify_directly_issued_by(parsed)
    names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    common = [str(a.value) for a in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    roles = [str(a.value) for a in parsed.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
    if len(common) != 1 or names.get_values_for_type(x509.DNSName) != common:
        raise IdentityError("certificate must state one node name, the same as common and alternative name")
    if len(roles) != 1 or roles[0] not in ROLES:
        raise IdentityError(f"certificate of {common[0]!r} states no role out of {', '.join(ROLES)}")
    return Certificate(
        name=common[0],
        role=roles[0],
        fingerprint=parsed.fingerprint(hashes.SHA256()).hex(),
        not_before=parsed.not_valid_before_utc,
        not_after=parsed.not_valid_after_utc,
        pem=parsed.public_bytes(serialization.Encoding.PEM),
        public_key=public_key,
        recovery=_recovery_of(parsed),
    )


def _recovery_of(certificate: x509.Certificate) -> str | None:
    try:
        value = certificate.extensions.get_extension_for_oid(RECOVERY_OID).value
    except x509.ExtensionNotFound:
        return None
    if not isinstance(value, x509.UnrecognizedExtension) or len(value.value) != 34 or value.value[:2] != b"\x04\x20":
        raise IdentityError("certificate commits to a recovery key in a form that is not Veilscore's")
    return value.value[2:].hex()


def create_identity(
    folder: Path,
    name: str,
    role: str,
    days: float = 365,
    *,
    passphrase: Passphrase = passphrase_from_environment,
    recovery: bool | str = False,
) -> Identity:
    """Make a key and its certificate in `folder` (key.pem and certificate.pem, mode 0600).

    days : validity from now on; zero or less gives a certificate that has already expired.
    passphrase : called once; None leaves the key unencrypted.
    recovery : True also makes recovery.pem, which can revoke the identity and should be kept elsewhere; a SHA-256 makes
        the certificate commit to a recovery key that exists.
    Raises ConfigError on a bad name or role or where the folder has an identity already, StateError where it cannot be
        written.
    """
    check_name(name)
    if role not in ROLES:
        raise ConfigError(f"role {role!r} of node {name} is unknown: use one of {', '.join(ROLES)}")
    if not abs(days) <= MOST_DAYS:
        raise ConfigError(f"a certificate of {days:g} days: give at most {MOST_DAYS}")
    if (folder / KEY_FILE).exists():  # before a key source makes anything new for this folder
        raise ConfigError(
            f"{folder} has an identity already: move it away first; all members must then pin the new one"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    secret = passphrase()
    files = [(KEY_FILE, _key_bytes(key, secret), 0o600)]
    if recovery is True:
        rescue = ec.generate_private_key(ec.SECP256R1())
        recovery = fingerprint_of_key(rescue.public_key())
        files.append((RECOVERY_FILE, _key_bytes(rescue, secret), 0o600))
    certificate = _self_signed(key, name, role, days, recovery or None)
    files.append((CERTIFICATE_FILE, certificate, 0o600))
    try:
        private_folder(folder)
        _write_all(folder, files)
    except FileExistsError as error:
        raise ConfigError(
            f"{folder} has an identity already: move it away first; all members must then pin the new one"
        ) from error
    except OSError as error:
        raise StateError(f"identity cannot be written to {folder}: {error.strerror}") from error
    return Identity(parse_certificate(certificate), key)


def _key_bytes(key: ec.EllipticCurvePrivateKey, secret: str | None) -> bytes:
    none = serialization.NoEncryption()
    if not secret:
        return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none)
    return encrypt_pkcs8(key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, none), secret)


def _self_signed(key: ec.EllipticCurvePrivateKey, name: str, role: str, days: float, recovery: str | None) -> bytes:
    now = dt.datetime.now(dt.UTC)
    end = now + dt.timedelta(days=days)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
        ]
    )
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign"),
        False,
    ) | dict.fromkeys(("crl_sign", "encipher_only", "decipher_only"), False)
    extended = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - dt.timedelta(minutes=10))  # peers' clocks may be a little behind
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(extended, critical=False)
    )
    if recovery is not None:
        commitment = x509.UnrecognizedExtension(RECOVERY_OID, b"\x04\x20" + bytes.fromhex(recovery))
        builder = builder.add_extension(commitment, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _write_all(folder: Path, files: list[tuple[str, bytes, int]]) -> None:
    """Write all files or none; FileExistsError if one is there."""
    written: list[Path] = []
    try:
        for name, content, mode in files:
            write_new(folder / name, content, mode)
            written.append(folder / name)
    except OSError:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def load_identity(folder: Path, *, passphrase: Passphrase = passphrase_from_environment) -> Identity:
    """Read the identity in `folder`, after a rotation that of the key in use.

    Raises ConfigError where a file or the passphrase is missing or wrong, IdentityError where files are damaged, do not
        match or are expired, or other users can read the key.
    """
    for place in (folder, current := current_folder(folder)):
        if place.is_dir():
            check_private(place, "identity folder")
    folder = current
    key_path = folder / KEY_FILE
    try:
        mode = key_path.stat().st_mode
        key_pem = key_path.read_bytes()
        certificate_pem = (folder / CERTIFICATE_FILE).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"no identity in {folder} ({error.strerror}: {Path(str(error.filename)).name}): create one first"
        ) from error
    certificate = parse_certificate(certificate_pem)
    if mode & 0o077:
        raise IdentityError(
            f"{key_path} can be read by other users: chmod 600 it; make a new identity if others had access",
            party=certificate.name,
        )
    key = _load_key(key_pem, key_path, passphrase)
    if key.public_key() != certificate.public_key:
        raise IdentityError(
            f"{KEY_FILE} and {CERTIFICATE_FILE} in {folder} do not belong together", party=certificate.name
        )
    certificate.check_valid(dt.datetime.now(dt.UTC).timestamp())
    return Identity(certificate, key)


def current_folder(folder: Path) -> Path:
    """Return the folder of the key in use: `folder` itself, or the one in it that the file `current` names."""
    try:
        name = (folder / CURRENT_FILE).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return folder
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{folder / CURRENT_FILE} cannot be read") from error
    if not re.fullmatch(r"[0-9a-f]{16}", name):
        raise ConfigError(f"{folder / CURRENT_FILE} must name a folder of 16 hexadecimal digits beside it")
    return folder / name


def make_current(folder: Path, fingerprint: str) -> None:
    """Make the key in the folder of this fingerprint the one in use, at once or not at all."""
    temporary = folder / f".{CURRENT_FILE}.new"
    try:
        temporary.unlink(missing_ok=True)
        write_new(temporary, f"{fingerprint[:16]}\n".encode(), 0o600)
        temporary.replace(folder / CURRENT_FILE)  # a rename: a crash leaves the old key in use or the new one
    except OSError as error:
        raise StateError(f"{folder / CURRENT_FILE} cannot be written: {error.strerror}") from error


def load_recovery_key(
    path: Path, *, passphrase: Passphrase = passphrase_from_environment
) -> ec.EllipticCurvePrivateKey:
    """Read a recovery key; ConfigError if it cannot be read."""
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"recovery key {path} cannot be read: {error.strerror}") from error
    return _load_key(pem, path, passphrase)


def _load_key(pem: bytes, path: Path, passphrase: Passphrase) -> ec.EllipticCurvePrivateKey:
    encrypted = b"BEGIN ENCRYPTED PRIVATE KEY" in pem
    secret = passphrase() if encrypted else None
    if encrypted and not secret:
        raise ConfigError(
            f"{path} is encrypted: set {PASSPHRASE_VARIABLE} or {PASSPHRASE_FILE_VARIABLE}, or name its key source in "
            "node.yaml"
        )
    try:
        key = serialization.load_pem_private_key(pem, secret.encode() if secret else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = "wrong passphrase, or damaged" if encrypted else "damaged"
        raise ConfigError(f"{path} cannot be read: {reason}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError(f"{path} is not a P-256 key")
    return key


def fingerprint_of_key(key: ec.EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of a public key, 64 hexadecimal digits, by which a certificate commits to its recovery key."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()
