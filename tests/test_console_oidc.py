"""Entering by an OpenID provider: a real one over TLS in this process, honest and not."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from console_visits import ORIGIN, OpenedConsole, with_people
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey
from trial_federation import make_homes

from veilscore.console.serve import oidc_of
from veilscore.errors import ConfigError
from veilscore.files.private import private_folder
from veilscore.keys.door_certificates import key_pem, make_certificate


class Provider:
    """One provider: `lies` changes what the next id token says."""

    def __init__(self, folder):
        key, pem = make_certificate("login", ("localhost",), "server", 30)
        private_folder(folder)
        (folder / "ca.pem").write_bytes(pem)
        (folder / "key.pem").write_bytes(key_pem(key, None))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
        self.ca, provider = pem, self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(provider.described() if "openid" in self.path else provider.keys())

            def do_POST(self):
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                self.answer(provider.token({name: values[0] for name, values in form.items()}))

            def answer(self, content):
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.issuer = f"https://localhost:{self.server.server_address[1]}"
        self.key, self.lies, self.asked = ECKey.generate_key("P-256", {"kid": "a", "use": "sig"}), {}, {}
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def described(self):
        paths = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
        return {"issuer": self.issuer, **{name: f"{self.issuer}/{path}" for name, path in paths.items()}}

    def keys(self):
        return {"keys": [self.key.as_dict(private=False)]}

    def token(self, form):
        fits = create_s256_code_challenge(form["code_verifier"]) == self.asked["code_challenge"]
        now_s = int(time.time())
        claims = {
            "iss": self.issuer, "aud": "veilscore", "sub": "1", "iat": now_s, "exp": now_s + 300,
            "nonce": self.asked["nonce"] if fits else "", "preferred_username": "stella",
        } | {name: value for name, value in self.lies.items() if name not in {"alg", "key"}}  # fmt: skip
        key, header = self.lies.get("key", self.key), {"alg": self.lies.get("alg", "ES256"), "kid": "a"}
        token = jwt.encode(header, {k: v for k, v in claims.items() if v is not None}, key, algorithms=[header["alg"]])
        return {"access_token": "x", "token_type": "Bearer", "id_token": token}


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    found = Provider(tmp_path_factory.mktemp("login") / "tls")
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture(scope="module")
def tax(tmp_path_factory, provider):
    home = make_homes(tmp_path_factory.mktemp("oidc")) / "tax"
    (home / "login.pem").write_bytes(provider.ca)
    oidc = {"issuer": provider.issuer, "client_id": "veilscore", "client_secret_env": "OIDC_SECRET", "ca": "login.pem"}
    opened = OpenedConsole(with_people(home, oidc=oidc, entries_per_minute=1000, per_minute=100_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OIDC_SECRET", "s3cret")
        opened.desk.oidc = oidc_of(opened.home.config.console, ORIGIN)
    yield opened
    opened.close()


def asked_at(provider, browser, to="/accounts"):
    answer = browser.get(f"/login/oidc?next={to}")
    assert answer.status == 303, answer.text
    url = urlsplit(answer.header("location"))
    provider.asked = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert answer.header("location").startswith(f"{provider.issuer}/authorize?")
    assert provider.asked["redirect_uri"] == f"{ORIGIN}/login/oidc/back"
    return provider.asked["state"]


def test_whom_the_provider_names_gets_the_roles_of_the_node(provider, tax):
    provider.lies, browser = {}, tax.browser()
    assert "own login" in browser.get("/login").text
    state = asked_at(provider, browser)
    answer = browser.get(f"/login/oidc/back?state={state}&code=c")
    assert answer.status == 200
    assert 'content="0; url=/accounts"' in answer.text
    assert browser.get("/accounts").status == 200
    assert browser.get("/node").status == 403
    assert ("stella", "enter by oidc", "done") in tax.acts()
    assert browser.get(f"/login/oidc/back?state={state}&code=c").status == 403, "once"


@pytest.mark.parametrize(
    "lies",
    [
        {"iss": "https://evil.example"},
        {"aud": "another"},
        {"aud": ["veilscore", "another"]},
        {"aud": ["veilscore", "another"], "azp": "another"},
        {"nonce": "another"},
        {"nonce": None},
        {"exp": 1},
        {"exp": None},
        {"preferred_username": None},
        {"preferred_username": ["stella"]},
        {"preferred_username": "nobody"},
        {"key": ECKey.generate_key("P-256", {"kid": "a"})},
        {"alg": "HS256", "key": OctKey.import_key("s3cret-s3cret-s3cret-s3cret-s3cret")},
    ],
    ids=",".join,
)
def test_a_token_that_is_not_as_it_must_be(provider, tax, lies):
    provider.lies, browser = lies, tax.browser()
    state = asked_at(provider, browser)
    assert browser.get(f"/login/oidc/back?state={state}&code=c").status == 403
    assert "__Host-session" not in browser.cookies


def test_an_answer_to_another_browser_is_none(provider, tax):
    provider.lies, browser, victim = {}, tax.browser(), tax.browser()
    state = asked_at(provider, browser)
    assert victim.get(f"/login/oidc/back?state={state}&code=c").status == 403
    asked_at(provider, victim)
    assert victim.get(f"/login/oidc/back?state={state}&code=c").status == 403
    assert asked_at(provider, victim, to="https://evil.example")
    assert 'url=/"' in victim.get(f"/login/oidc/back?state={provider.asked['state']}&code=c").text


def test_without_a_secret_it_says_which_variable(tax, monkeypatch):
    monkeypatch.delenv("OIDC_SECRET", raising=False)
    with pytest.raises(ConfigError, match="OIDC_SECRET with the client's secret is not set"):
        oidc_of(tax.home.config.console, ORIGIN)
