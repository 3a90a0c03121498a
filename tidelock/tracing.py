"""One record, one trace: OpenTelemetry spans from the source's commit to the destination's answer.

The trace id *is* the event id, so every stage knows from the change or the write alone whether it is sampled, and an event that is not
costs one comparison. Context travels in the Kafka header ``traceparent`` (W3C Trace Context), set and never appended. Names follow
OpenTelemetry's messaging conventions. Batches to a destination are spans of their own with links.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from tidelock.config import TracingSpec

TRACEPARENT = "traceparent"
_MOST_LINKS = 2000  # the SDK keeps 128 unless told; a batch would silently lose the rest
Headers = list[tuple[str, bytes]]


def trace_id(event: bytes) -> str:
    """Spell the trace id of an event."""
    return event.hex()


def moment(at: int | dt.datetime) -> str:
    """Spell a time (microseconds since 1970, or a datetime) as ISO 8601 in UTC."""
    known = at if isinstance(at, dt.datetime) else dt.datetime.fromtimestamp(at / 1e6, dt.UTC)
    return known.isoformat(timespec="milliseconds")


def _span_id(event: bytes, step: str) -> int:
    return int.from_bytes(hashlib.blake2b(event + step.encode(), digest_size=8).digest(), "big") or 1


def _context(event: bytes, span: int) -> SpanContext:
    return SpanContext(int.from_bytes(event, "big"), span, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


class Tracing:
    """Spans of one worker; without an endpoint (or an exporter) nothing is sampled."""

    def __init__(self, spec: TracingSpec, role: str, exporter: SpanExporter | None = None) -> None:
        self.bound = int(spec.ratio * 65536) if spec.endpoint or exporter else 0
        self._tracer: trace.Tracer | None = None
        self._provider: TracerProvider | None = None
        if self.bound:
            provider = TracerProvider(
                resource=Resource.create({"service.name": f"tidelock.{role}"}),
                span_limits=SpanLimits(max_links=_MOST_LINKS),
                shutdown_on_exit=False,
            )
            target = exporter or OTLPSpanExporter(endpoint=f"{str(spec.endpoint).rstrip('/')}/v1/traces", timeout=5)
            provider.add_span_processor(BatchSpanProcessor(target))
            self._provider = provider
            self._tracer = provider.get_tracer("tidelock")

    def sampled(self, event: bytes) -> bool:
        """Tell whether an event is traced: by its id alone, so that every stage says the same."""
        return self.bound > 0 and int.from_bytes(event[:2], "big") < self.bound

    def step(
        self,
        event: bytes,
        name: str,
        kind: SpanKind,
        start: int,
        end: int,
        headers: Headers | None = None,
        attributes: dict[str, str | int] | None = None,
        error: str | None = None,
    ) -> Headers:
        """Record one finished step of a traced event (times in microseconds); return the headers to send on.

        The parent is the step named in ``headers``; without one it is the source's own commit.
        """
        assert self._tracer is not None
        parent = parse(headers) or _context(event, _span_id(event, "source"))
        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(NonRecordingSpan(parent)),
            kind=kind,
            start_time=start * 1000,
            attributes={"messaging.system": "kafka", "tidelock.event.id": event.hex(), **(attributes or {})},
            links=[Link(parent)] if headers else (),
        )
        if error is not None:
            span.set_status(StatusCode.ERROR, error)
            span.set_attribute("error.type", error)
        span.end(end * 1000)
        return replace(headers, span.get_span_context())

    def batch(self, name: str, events: Iterable[bytes], start: int, end: int, attributes: dict[str, str | int]) -> None:
        """Record a batch as a span of its own, with a link to each traced event in it."""
        links = [Link(_context(e, _span_id(e, "source"))) for e in events if self.sampled(e)]
        if links and self._tracer is not None:
            span = self._tracer.start_span(
                name, kind=SpanKind.CLIENT, start_time=start * 1000, links=links[:_MOST_LINKS], attributes=attributes
            )
            span.end(end * 1000)

    def call(self, name: str, start: int, end: int, attributes: dict[str, str | int], error: str | None = None) -> None:
        """Record a call to an API as a span of its own (times in microseconds); nothing without an endpoint."""
        if self._tracer is None:
            return
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, start_time=start * 1000, attributes=attributes)
        if error is not None:
            span.set_status(StatusCode.ERROR, error)
            span.set_attribute("error.type", error)
        span.end(end * 1000)

    def close(self) -> None:
        """Send what is left."""
        if self._provider is not None:
            self._provider.shutdown()


def parse(headers: Headers | None) -> SpanContext | None:
    """Read the W3C context of Kafka headers; None if there is none or it is malformed."""
    for name, value in headers or ():
        if name == TRACEPARENT:
            parts = value.decode("ascii", "replace").split("-")
            if len(parts) == 4 and len(parts[1]) == 32 and len(parts[2]) == 16:
                try:
                    return SpanContext(
                        int(parts[1], 16), int(parts[2], 16), is_remote=True, trace_flags=TraceFlags(int(parts[3], 16))
                    )
                except ValueError:
                    return None
    return None


def replace(headers: Headers | None, context: SpanContext) -> Headers:
    """Return headers with this context in place of any other."""
    text = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}".encode()
    return [(n, v) for n, v in headers or () if n != TRACEPARENT] + [(TRACEPARENT, text)]
