"""key_source.py: encryption of keys at rest and where passphrases come from; real files and programs."""

from __future__ import annotations

import importlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from test_rotation import veilscore

from veilscore.errors import ConfigError
from veilscore.keys.identity import KEY_FILE, RECOVERY_FILE, create_identity, load_identity, load_recovery_key
from veilscore.keys.key_source import (
    PASSPHRASE_FILE_VARIABLE,
    PASSPHRASE_VARIABLE,
    WRAPPED_FILE,
    CommandSource,
    EnvironmentSource,
    FileSource,
    PromptSource,
    TokenSource,
    default_source,
    encrypt_pkcs8,
)
from veilscore.terms.key_settings import KeyConfig
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import load_node_config
from veilscore.terms.settings import parse

# A key service in eight lines: it holds a key of its own and encrypts with it.
SERVICE = """
import hashlib, sys
from pathlib import Path
key = Path(__file__).with_name("service.key").read_bytes()
data = sys.stdin.buffer.read()
stream = b"".join(hashlib.sha256(key + bytes([i])).digest() for i in range(8))
sys.stdout.buffer.write(bytes(a ^ b for a, b in zip(data, stream)))
"""


@pytest.fixture(autouse=True)
def _no_passphrase(monkeypatch):
    for name in (PASSPHRASE_VARIABLE, PASSPHRASE_FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def service(tmp_path):
    """Command of a key service on this machine."""
    (tmp_path / "kms").mkdir()
    (tmp_path / "kms" / "service.key").write_bytes(os.urandom(32))
    (tmp_path / "kms" / "service.py").write_text(SERVICE)
    return sys.executable, str(tmp_path / "kms" / "service.py")


def make(folder, source, **options):
    return create_identity(folder, "tax", "holder", passphrase=lambda: source.new_secret(folder), **options)


def load(folder, source):
    return load_identity(folder, passphrase=lambda: source.secret(folder))


def test_encrypted_key_is_standard_scrypt(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    none = serialization.NoEncryption()
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, none)
    pem = encrypt_pkcs8(der, "correct horse ✓")
    loaded = serialization.load_pem_private_key(pem, "correct horse ✓".encode())
    assert loaded.private_numbers() == key.private_numbers()
    with pytest.raises(ValueError, match=r"."):
        serialization.load_pem_private_key(pem, b"staple")
    assert pem != encrypt_pkcs8(der, "correct horse ✓")
    (tmp_path / "key.pem").write_bytes(pem)
    if openssl := shutil.which("openssl"):  # a second reader, where there is one
        arguments = [openssl, "pkey", "-in", str(tmp_path / "key.pem"), "-passin", "pass:correct horse ✓", "-noout"]
        assert subprocess.run(arguments, check=False).returncode == 0
        arguments = [openssl, "asn1parse", "-in", str(tmp_path / "key.pem")]
        text = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
        assert ":scrypt" in text
        assert "aes-256-cbc" in text


def test_file_source(tmp_path):
    path = tmp_path / "passphrase"
    path.write_text("correct horse\nsecond line\n")
    path.chmod(0o600)
    made = make(tmp_path / "id", FileSource(path), recovery=True)
    for name in (KEY_FILE, RECOVERY_FILE):
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in (tmp_path / "id" / name).read_bytes()
    assert load(tmp_path / "id", FileSource(path)).key_pem() == made.key_pem()
    assert load_recovery_key(tmp_path / "id" / RECOVERY_FILE, passphrase=lambda: "correct horse")
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load(tmp_path / "id", FileSource(path))
    path.chmod(0o600)
    path.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        load(tmp_path / "id", FileSource(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not text"):
        load(tmp_path / "id", FileSource(path))
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "id", FileSource(tmp_path / "nowhere"))


def test_default_is_the_file_then_the_variable(tmp_path, monkeypatch):
    assert default_source().secret(tmp_path) is None
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "variable")
    assert default_source() == EnvironmentSource()
    assert default_source().secret(tmp_path) == "variable"
    (tmp_path / "p").write_text("file")
    (tmp_path / "p").chmod(0o600)
    monkeypatch.setenv(PASSPHRASE_FILE_VARIABLE, str(tmp_path / "p"))
    assert default_source().new_secret(tmp_path) == "file"


def test_prompt_needs_a_terminal_and_two_equal_answers(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no terminal"):
        PromptSource().secret(tmp_path)
    answers = iter(["one", "one", "one", "two", "one"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _text: next(answers))
    made = make(tmp_path / "id", PromptSource())
    with pytest.raises(ConfigError, match="differ"):
        make(tmp_path / "other", PromptSource())
    assert load(tmp_path / "id", PromptSource()).fingerprint == made.fingerprint


def test_command_wraps_and_unwraps(tmp_path, service):
    source = CommandSource(unwrap=service, wrap=service)
    made = make(tmp_path / "id", source)
    wrapped = tmp_path / "id" / WRAPPED_FILE
    assert stat.S_IMODE(wrapped.stat().st_mode) == 0o600
    assert len(wrapped.read_bytes()) == 64
    assert load(tmp_path / "id", source).key_pem() == made.key_pem()
    wrapped.write_bytes(os.urandom(64))
    with pytest.raises(ConfigError, match=r"wrong passphrase|gave no passphrase"):
        load(tmp_path / "id", source)
    wrapped.unlink()
    with pytest.raises(ConfigError, match=r"passphrase.wrapped cannot be read"):
        load(tmp_path / "id", source)


@pytest.mark.parametrize(
    ("wrap", "unwrap", "words"),
    [
        (None, ["cat"], "key.wrap in node.yaml is missing"),
        (["cat"], ["cat"], "gave the passphrase back unencrypted"),
        (["rev"], ["cat"], "does not undo"),
        (["false"], ["cat"], r"failed \(exit code 1, 0 bytes\)"),
        (["true"], ["cat"], r"failed \(exit code 0, 0 bytes\)"),
        (["head", "-c", "100000", "/dev/zero"], ["cat"], "failed"),
        (["no-such-program-here"], ["cat"], "cannot be run: No such file"),
        (["sleep", "5"], ["cat"], "no answer within 0.3 s"),
    ],
)
def test_command_that_fails_makes_no_key(tmp_path, wrap, unwrap, words):
    with pytest.raises(ConfigError, match=words):
        make(tmp_path / "id", CommandSource(tuple(unwrap), tuple(wrap or ()), timeout_s=0.3))
    assert not (tmp_path / "id" / KEY_FILE).exists()


def test_what_a_key_program_says_is_not_shown(tmp_path):
    (tmp_path / WRAPPED_FILE).write_bytes(b"wrapped")
    source = CommandSource(("sh", "-c", "echo secret-passphrase; echo secret-passphrase >&2; exit 3"))
    with pytest.raises(ConfigError, match="exit code 3") as caught:
        source.secret(tmp_path)
    assert "secret-passphrase" not in str(caught.value)


def test_token_without_the_library_says_what_to_install(tmp_path, monkeypatch):
    def absent(name, *arguments):
        if name == "pkcs11":
            raise ImportError(name)
        return original(name, *arguments)

    original = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ConfigError, match="pip install python-pkcs11"):
        make(tmp_path / "id", TokenSource(Path("/lib/token.so"), "veilscore", "wrapping"))
    assert not (tmp_path / "id").exists()
    assert "TOKEN_PIN" not in repr(TokenSource(Path("/lib/token.so"), "veilscore", "wrapping"))


def test_second_identity_leaves_the_first_ones_passphrase(tmp_path, service):
    source = CommandSource(service, service)
    make(tmp_path, source)
    wrapped = (tmp_path / WRAPPED_FILE).read_bytes()
    with pytest.raises(ConfigError, match="has an identity already"):
        make(tmp_path, source)
    assert (tmp_path / WRAPPED_FILE).read_bytes() == wrapped
    load(tmp_path, source)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"source": "file"}, "source file needs path"),
        ({"source": "command"}, "needs unwrap"),
        ({"source": "pkcs11", "module": "x.so"}, "needs token, label"),
        ({"source": "vault"}, "source"),
        ({"sauce": "file"}, "did you mean 'source'"),
    ],
)
def test_key_section_is_checked(content, words):
    with pytest.raises(ConfigError, match=words):
        parse(KeyConfig, content, "node.yaml")


def test_key_section_opens_the_source_it_names(tmp_path):
    def opened(**content):
        return parse(KeyConfig, content, "node.yaml").open(tmp_path)

    assert opened() == EnvironmentSource()
    assert opened(source="environment", variable="TAX_KEY") == EnvironmentSource("TAX_KEY")
    assert opened(source="file", path="p") == FileSource(tmp_path / "p")
    assert opened(source="file", path="/run/p") == FileSource(Path("/run/p"))
    assert opened(source="prompt") == PromptSource()
    assert opened(source="command", unwrap=["a"], wrap=["b"]) == CommandSource(("a",), ("b",))
    token = opened(source="pkcs11", module="/lib/t.so", token="t", label="l")  # noqa: S106
    assert token == TokenSource(Path("/lib/t.so"), "t", "l")


def test_home_with_a_key_service_rotates(tmp_path, service):
    """The command makes and rotates keys of a home whose node.yaml names the service, and loads both."""
    homes = tmp_path / "trial"
    veilscore("init", homes, "--party", "bank:bank", "--party", "tax:holder")
    home = homes / "tax"
    assert "is not encrypted" in veilscore("keys", "check", home, exit_code=1)
    node = (home / "node.yaml").read_text()
    quoted = ", ".join(f'"{word}"' for word in service)
    (home / "node.yaml").write_text(node + f"key: {{source: command, unwrap: [{quoted}], wrap: [{quoted}]}}\n")
    veilscore("keys", "rotate", home)
    (folder,) = (p for p in (home / "identity").iterdir() if p.is_dir())
    assert b"ENCRYPTED" in (folder / KEY_FILE).read_bytes()
    (home / "identity" / "current").write_text(folder.name + "\n")
    (home / "identity" / RECOVERY_FILE).rename(tmp_path / "safe.pem")
    identity, federation = load_membership(home, load_node_config(home))
    assert identity.fingerprint == federation.member("tax").fingerprint
    assert "the key is encrypted" in veilscore("keys", "check", home)
    assert identity.fingerprint in veilscore("identity", "show", home)


def test_identity_create_with_a_passphrase_file(tmp_path):
    path = tmp_path / "passphrase"
    path.write_text("correct horse\n")
    path.chmod(0o600)
    home = tmp_path / "tax"
    arguments = ("--name", "tax", "--role", "holder")
    text = veilscore("identity", "create", home, *arguments, "--passphrase-file", path)
    assert "not encrypted" not in text
    assert "safe place" in text
    assert "valid until" in veilscore("identity", "show", home)
    assert load_node_config(home).key.source == "file"
    assert "not encrypted" in veilscore("identity", "create", tmp_path / "other", *arguments)
    with pytest.raises(ConfigError, match="not both"):
        veilscore("identity", "create", tmp_path / "x", *arguments, "--passphrase-file", path, "--ask-passphrase")
    with pytest.raises(ConfigError, match="without the option"):
        veilscore("identity", "create", home, *arguments, "--passphrase-file", path)
