"""One record, one trace: ids, sampling, headers, links."""

from __future__ import annotations

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tidelock.config import TracingSpec
from tidelock.tracing import TRACEPARENT, Tracing, parse

EVENT = bytes([0, 1]) + b"\x07" * 14


def _tracing(ratio: float = 1.0) -> tuple[Tracing, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    return Tracing(TracingSpec(ratio=ratio), "merge", exporter), exporter


def test_without_an_endpoint_nothing_is_sampled() -> None:
    assert not Tracing(TracingSpec(ratio=1.0), "merge").sampled(EVENT)


def test_sampling_is_decided_by_the_event_alone() -> None:
    tracing, _ = _tracing(0.5)
    assert tracing.sampled(b"\x7f\xff" + bytes(14))
    assert not tracing.sampled(b"\x80\x00" + bytes(14))
    tracing.close()


def test_steps_of_one_event_are_one_trace_and_follow_each_other() -> None:
    tracing, exporter = _tracing()
    headers = tracing.step(EVENT, "send cdc.crm.contact", SpanKind.PRODUCER, 1_000_000, 2_000_000)
    old = [("other", b"kept"), *headers]
    again = tracing.step(EVENT, "process journal.contact", SpanKind.CONSUMER, 3_000_000, 4_000_000, old)
    tracing.close()
    first, second = exporter.get_finished_spans()
    assert first.context.trace_id == second.context.trace_id == int.from_bytes(EVENT, "big")
    assert second.parent is not None
    assert second.parent.span_id == first.context.span_id
    assert second.links[0].context.span_id == first.context.span_id
    assert first.start_time == 1_000_000_000
    assert [n for n, _ in again] == ["other", TRACEPARENT], "the context is replaced, never appended"
    found = parse(again)
    assert found is not None
    assert found.span_id == second.context.span_id


def test_a_batch_links_every_sampled_event_beyond_the_sdks_own_limit() -> None:
    tracing, exporter = _tracing()
    tracing.batch("send erp", [i.to_bytes(16, "big") for i in range(1, 301)], 0, 1, {})
    tracing.close()
    (span,) = exporter.get_finished_spans()
    assert len(span.links) == 300


def test_malformed_contexts_are_no_contexts() -> None:
    for text in (b"", b"00-xyz-1-01", b"00-" + b"g" * 32 + b"-" + b"1" * 16 + b"-01"):
        assert parse([(TRACEPARENT, text)]) is None
    assert parse(None) is None
