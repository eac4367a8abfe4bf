"""TLS 1.3 alone: a peer with the right key that speaks TLS 1.2 is refused, as a client and as a server."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys

import pytest

from tests.fabric_network import IDENTITIES, make_fabric, point, running
from veilscore.errors import VeilscoreError
from veilscore.v1 import control_pb2


def context(tmp_path, side, name, version):
    """TLS of the Python library with a member's own key, of one version."""
    made = ssl.SSLContext(side)
    made.minimum_version = made.maximum_version = version
    made.check_hostname = False
    made.set_alpn_protocols(["h2"])
    identity = IDENTITIES[name]
    key, certificate, roots = (tmp_path / f"{name}.{part}" for part in ("key", "certificate", "roots"))
    key.write_bytes(identity.key_pem())
    certificate.write_bytes(identity.certificate.pem)
    roots.write_bytes(b"".join(i.certificate.pem for i in IDENTITIES.values()))
    made.load_cert_chain(certificate, key)
    made.load_verify_locations(roots)
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def shake_hands(port, made):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, made.wrap_socket(plain) as secure:
        return secure.version()


def test_a_client_of_tls_1_2_is_refused(tmp_path):
    async def scenario():
        tax = make_fabric("tax")
        async with running(tax):
            newer = context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, "bank", ssl.TLSVersion.TLSv1_3)
            assert await asyncio.to_thread(shake_hands, tax.port, newer) == "TLSv1.3"
            older = context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, "bank", ssl.TLSVersion.TLSv1_2)
            with pytest.raises(OSError, match=r"EOF|reset|HANDSHAKE"):
                await asyncio.to_thread(shake_hands, tax.port, older)

    asyncio.run(scenario())


@pytest.mark.parametrize(("version", "taken"), [(ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1_3, True)])
def test_a_server_of_tls_1_2_is_not_spoken_to(tmp_path, version, taken):
    """The server has the pinned key, and completes the handshake when its version allows it."""
    made, seen = context(tmp_path, ssl.PROTOCOL_TLS_SERVER, "tax", version), []

    def serve(listener):
        listener.settimeout(5)
        try:
            with listener.accept()[0] as plain, made.wrap_socket(plain, server_side=True) as secure:
                seen.append(secure.version())
        except OSError as error:
            seen.append(str(error))

    async def scenario():
        bank = make_fabric("bank")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with running(bank):
                await point(bank, "tax", listener.getsockname()[1])
                server = asyncio.create_task(asyncio.to_thread(serve, listener))
                with pytest.raises(VeilscoreError):
                    await bank.call("tax", "Ping", control_pb2.Empty(), control_pb2.Empty, timeout_s=1, retry=False)
                await server

    asyncio.run(scenario())
    assert (seen == ["TLSv1.3"]) is taken, seen
    assert taken or "NO_SHARED_CIPHER" in seen[0].replace(" ", "_").upper()


def test_a_program_that_loaded_grpc_before_is_told_so():
    """There the setting comes too late, so no connection is made at all."""
    program = (
        "import grpc\n"
        "from veilscore.errors import ConfigError\n"
        "from veilscore.fabric.grpc_channel import GrpcConnection\n"
        "try: GrpcConnection(None, (b'', b'', b''), None, '')\n"
        "except ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={}, check=True)
    assert "another library loaded gRPC before Veilscore" in done.stdout
