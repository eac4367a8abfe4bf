"""Traces by OpenTelemetry, for operators who collect them: off unless node.yaml names a collector (`traces`).

Source  : OTLP over HTTP; W3C Trace Context. The only file that imports opentelemetry, an extra.
Reveals : to the collector, of the party's own: name of a call between nodes or pattern of a page, the other node, how
          long it took, whether it failed, and the number that the log has of a request. Never a firm, person, job or
          argument. To a node that is called: a random number for what belongs together (`traceparent`), and nothing
          where no traces are kept.
Assumes : nothing of a peer's traceparent; what it names is only where a span is shown.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from veilscore.errors import ConfigError
from veilscore.terms.traces import TraceConfig

HEADER = "traceparent"
_EXTRA = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
_EXPORT_S = 5.0
_LONGEST = 64
_kept: list[Any] = []  # the tracer of this process, where there is one


@contextlib.contextmanager
def tracing(config: TraceConfig | None, party: str, site: str) -> Iterator[None]:
    """Send spans to the collector of a configuration while the block runs; ConfigError where the extra is missing.

    site : what of the party this process is, such as node or console.
    """
    if config is None:
        yield
        return
    try:
        for name in _EXTRA:
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"traces needs {error.name}: run `pip install 'veilscore[traces]'`") from error
    provider = _provider(config, party, site)
    _kept.append(provider.get_tracer("veilscore"))
    try:
        yield
    finally:
        _kept.pop()
        provider.shutdown()


def _provider(config: TraceConfig, party: str, site: str) -> Any:
    import requests  # noqa: PLC0415 - of the extra
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415

    session = requests.Session()
    session.trust_env = False  # no proxy and no password that the environment names
    ca = None if config.ca is None else str(config.ca)
    exporter = OTLPSpanExporter(config.url, certificate_file=ca, headers={}, timeout=_EXPORT_S, session=session)
    about = {"service.name": "veilscore", "service.namespace": party, "service.instance.id": f"{party}/{site}"}
    # a peer's own choice of what is kept counts for nothing here
    provider = TracerProvider(sampler=ALWAYS_ON, resource=Resource(about))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


@contextlib.contextmanager
def span(name: str, parent: str = "", **about: str) -> Iterator[Any]:
    """Run the block as a span; what it gives takes `set_attribute`, and is None where no traces are kept.

    parent : traceparent of who called; "" for the span that runs here already. An error's class is kept, not its text.
    """
    if not _kept:
        yield None
        return
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    context = TraceContextTextMapPropagator().extract({HEADER: parent[:_LONGEST]}) if parent else None
    with _kept[-1].start_as_current_span(
        name, context, attributes=about, record_exception=False, set_status_on_exception=False
    ) as found:
        try:
            yield found
        except Exception as error:
            found.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise


def carried() -> tuple[tuple[str, str], ...]:
    """Return the header by which a call that is made now belongs to the span that runs; nothing without one."""
    if not _kept:
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    found: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(found)
    return ((HEADER, found[HEADER]),) if HEADER in found else ()
