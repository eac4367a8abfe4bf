"""What a running node tells its operators' machines: gRPC health, counts, its log."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time

import grpc
import pytest
import yaml
from fabric_network import make_fabric, raw_channel, running
from pydantic import ValidationError
from trial_federation import make_homes, until

from coordinator.service import Coordinator
from veilscore.cli.node import open_node
from veilscore.errors import ConfigError
from veilscore.fabric.grpc_channel import HEALTH, SERVICE
from veilscore.keys.identity import create_identity, load_identity
from veilscore.node import health, watched
from veilscore.node.watched import WatchedNode
from veilscore.terms.federation import load_federation
from veilscore.terms.node_config import load_node_config
from veilscore.terms.watching import LogConfig, MetricsConfig
from veilscore.v1 import control_pb2, health_pb2


@pytest.fixture
def homes(tmp_path):
    make_homes(tmp_path)
    for name in ("tax", "coordinator"):
        path = tmp_path / name / "node.yaml"
        content = yaml.safe_load(path.read_text()) | {"metrics": {"port": 0}}
        path.write_text(yaml.safe_dump(content))
    return tmp_path


async def get(port, path="/metrics", host="127.0.0.1:9464", method="GET"):
    """Status and body of one request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return (int(head.split()[1]) if head else 0), body


async def check(node, identity, service=""):
    """A probe as every other: no version of ours, a certificate and a pinned peer."""
    pinned = load_identity(node.node.home / "identity")
    async with raw_channel(node.node.fabric, identity, pinned) as channel:
        call = channel.unary_unary(f"/{HEALTH}/Check")
        reply = await call(health_pb2.HealthCheckRequest(service=service).SerializeToString(), timeout=5)
    return health_pb2.HealthCheckResponse.FromString(reply).status


def test_a_probe_and_a_scrape(homes, monkeypatch):
    monkeypatch.setattr(watched, "LOOK_S", 0.05)
    stranger = create_identity(homes / "stranger", "tax", "holder", passphrase=lambda: None)
    bank, own = (load_identity(homes / name / "identity") for name in ("bank", "tax"))
    (homes / "tax" / "identity" / "recovery.pem").unlink()
    monkeypatch.setattr(health, "running_pid", lambda _home: 1)  # the node runs in this process, without its pid file

    async def scenario():
        tax, hub = open_node(homes / "tax"), open_node(homes / "coordinator")
        await tax.start()
        await hub.start()
        try:
            assert await check(tax, bank) == health_pb2.HealthCheckResponse.SERVING
            assert await check(tax, own, SERVICE) == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check(tax, bank, "other.Service")
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check(tax, stranger)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE  # TLS ends before a byte is read

            status, text = await get(tax.port)
            assert status == 200
            counts = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            assert counts["veilscore_node_up"] == "1"
            assert float(counts['veilscore_certificate_seconds_left{party="bank"}']) > 360 * 86400
            assert abs(float(counts['veilscore_clock_ahead_seconds{party="coordinator"}'])) < 5
            assert int(counts["veilscore_log_entries_total"]) == tax.node.evidence.log.size
            assert "# TYPE veilscore_account_mu_left gauge" in text
            status, text = await get(hub.port)
            assert (status, "veilscore_node_up 1" in text, "account" in text) == (200, True, False)
            assert (await get(tax.port, host="attacker.example.org"))[0] == 403  # a page in a browser of this machine
            assert (await get(tax.port, method="POST"))[0] == 405
            assert (await get(tax.port, "/etc/passwd"))[0] == 404
            assert await get(tax.port, "/" + 9000 * "a") == (0, "")
            assert await get(tax.port, "/health") == (
                200,
                json.dumps({"node": "tax", "healthy": True, "look_at": []}) + "\n",
            )

            monkeypatch.setattr(health, "LITTLE_DISK", 1 << 62)
            await until(lambda: not tax.healthy())
            assert await check(tax, bank) == health_pb2.HealthCheckResponse.NOT_SERVING
            status, text = await get(tax.port, "/health")
            assert (status, json.loads(text)["healthy"]) == (503, False)
        finally:
            await asyncio.gather(tax.stop(), hub.stop())

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_port_in_use_and_an_address_for_all_are_refused(homes):
    path = homes / "coordinator" / "node.yaml"

    async def scenario():
        taken = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        port = taken.sockets[0].getsockname()[1]
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"metrics": {"port": port}}))
        node = WatchedNode(Coordinator(homes / "coordinator"))
        with pytest.raises(ConfigError, match="choose another port under `metrics`"):
            await node.start()
        taken.close()

    asyncio.run(scenario())
    with pytest.raises(ValidationError):
        MetricsConfig(host="0.0.0.0")  # noqa: S104 - which is refused
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"metrics": {"host": "10.0.0.1"}}))
    with pytest.raises(ConfigError, match=r"metrics\.host"):
        load_node_config(homes / "coordinator")


def test_a_clock_that_is_off_is_told(homes):
    """Before it is so far off that the greeting ends."""
    config = load_node_config(homes / "tax")
    federation = load_federation(config.federation)
    told = [one.plain for one in health.findings(homes / "tax", config, federation, {"bank": -61.4, "registry": 2.0})]
    assert "The clock of bank is -61 s off this one: set both by a time server." in told
    assert not any("registry" in text for text in told)


def test_a_fabric_knows_the_clocks_of_those_who_greeted_it():
    async def scenario():
        bank, tax = make_fabric("bank"), make_fabric("tax", clock=lambda: time.time() + 40)
        bank.register("Ping", {"holder"}, control_pb2.Empty, same)
        async with running(bank, tax):
            await tax.call("bank", "Ping", control_pb2.Empty(), control_pb2.Empty, timeout_s=10)
            assert 35 < bank.clocks["tax"] < 45
            assert -45 < tax.clocks["bank"] < -35

    asyncio.run(scenario())


async def same(request, _peer):
    return request


def test_the_log_goes_to_a_file_of_bounded_size_or_to_standard_error(tmp_path):
    code = (
        "import sys, structlog; from pathlib import Path; from veilscore.fabric.process import log_to\n"
        "from veilscore.terms.watching import LogConfig\n"
        "log_to(Path(sys.argv[1]), rules=LogConfig(megabytes=1, kept=2))\n"
        "for n in range(4000): structlog.get_logger('x').info('a' * 1000, n=n)\n"
        "log_to(Path(sys.argv[1]), rules=LogConfig(to='stderr'))\n"
        "structlog.get_logger('x').info('to the journal', n=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    line = json.loads(done.stderr)
    assert (line["event"], line["level"]) == ("to the journal", "info")
    files = sorted((tmp_path / "log").iterdir())
    assert [path.name for path in files] == ["node.log", "node.log.1", "node.log.2"]
    assert all(path.stat().st_size <= 1 << 20 for path in files)
    assert json.loads(files[0].read_text().splitlines()[-1])["n"] == 3999
    assert LogConfig().to == "file"
