"""Spans reach a real collector over HTTP, join across nodes, and name no firm, person or argument."""

from __future__ import annotations

import asyncio
import http.server
import threading
from contextlib import contextmanager

import pytest
from console_visits import OpenedConsole, with_people
from trial_federation import commanding, make_homes, open_trial, running

from veilscore.errors import ConfigError
from veilscore.fabric import traces
from veilscore.fabric.traces import carried, span, tracing
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.traces import TraceConfig
from veilscore.v1 import control_pb2 as pb


@contextmanager
def collector():
    """A server that takes OTLP; what it was sent, as messages, and its address."""
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    got = []

    class Collects(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(
                service.ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            )
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collects)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield got, TraceConfig(url=f"http://127.0.0.1:{server.server_address[1]}/v1/traces")
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()


def spans(got):
    return [one for sent in got for each in sent.resource_spans for scope in each.scope_spans for one in scope.spans]


def test_a_page_and_the_call_behind_it_are_one_trace(tmp_path):
    homes = make_homes(tmp_path)
    with_people(homes / "tax")
    firm, opened = "91310000MA1K35TQ6F", OpenedConsole(homes / "tax")

    async def work():
        async with running(open_trial(homes, "tax")), commanding(homes / "bank") as bank:
            await bank.call("tax", "Ping", pb.Empty(), pb.Empty, timeout_s=10)

    with collector() as (got, config):
        with tracing(config, "tax", "node"):
            asyncio.run(work())
            assert opened.browser("otto").get(f"/data/{firm}").status == 403
            with pytest.raises(ValueError, match=firm), span("fails"):
                raise ValueError(firm)
        assert carried() == ()
    opened.close()
    by = {one.name: one for one in spans(got)}
    asked, answered, page = by["call Ping"], by["answer Ping"], by["GET /data/{name}"]
    assert answered.trace_id == asked.trace_id != page.trace_id
    assert answered.parent_span_id == asked.span_id
    about = {one.key: one.value for one in page.attributes}
    assert about["http.response.status_code"].int_value == 403
    assert len(about["request"].string_value) == 16
    assert (by["fails"].status.code, by["fails"].status.message) == (2, "ValueError")
    for word in (firm, "otto"):
        assert word not in str(got)


def test_without_a_collector_nothing_is_kept_or_sent(monkeypatch):
    with tracing(None, "tax", "node"), span("one") as found:
        assert (found, carried()) == (None, ())
    monkeypatch.setattr(traces, "_EXTRA", ("no_such_package",))
    config = TraceConfig(url="https://collector.example/v1/traces")
    with pytest.raises(ConfigError, match=r"pip install 'veilscore\[traces\]'"), tracing(config, "tax", "node"):
        pass
    for url in ("http://collector.example/v1/traces", "ftp://localhost/x"):
        with pytest.raises(ValueError, match=r"url|https"):
            NodeConfig.model_validate({"name": "tax", "role": "holder", "traces": {"url": url}})


@pytest.mark.parametrize("parent", ["", "x", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "00-" + "a" * 5000, "é"])
def test_what_is_no_traceparent_begins_a_trace_of_its_own(parent):
    with collector() as (got, config), tracing(config, "tax", "node"), span("answer", parent):
        pass
    (one,) = spans(got)
    assert (len(one.trace_id), one.parent_span_id) == (16, b"")
