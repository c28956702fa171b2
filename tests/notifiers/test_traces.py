"""Traces to a collector that reads them as OTLP has it."""

from __future__ import annotations

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from crossfade.domain.trace import Mark, Span
from crossfade.notifiers.traces import Otlp, request
from crossfade.ports.notices import Result
from tests.notifiers.targets import http_target

ROOT = Span(
    "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "", "rollout bookshop/production", 1_700_000_000.123456, 1_700_000_060.0,
    {"deployment.id": "rollout-8", "crossfade.weight": 2500, "share": 0.25, "good": True, "odd": "half \ud800"},
    (Mark(1_700_000_010.5, "weight moved", {"crossfade.weight": 100}),),
    (("1" * 32, "2" * 16),), "errors rose", server=True,
)  # fmt: skip
CHILD = Span(ROOT.trace, "00f067aa0ba902b7", ROOT.id, "preparing", 1_700_000_000.123456, 1_700_000_004.0)


def test_a_collector_reads_what_was_meant() -> None:
    with http_target() as twin:
        twin.answers = [200]
        tracer = Otlp(f"{twin.url}/", {"Authorization": "Bearer abc-token"}, "shipping")
        answer = tracer.export([ROOT, CHILD])
        assert answer.result is Result.SENT and "abc-token" not in answer.sentence
        [got] = twin.got
    assert (got.path, got.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
    assert got.headers["authorization"] == "Bearer abc-token"
    [resource] = ExportTraceServiceRequest.FromString(got.body).resource_spans
    said = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert said["service.name"] == "shipping"
    root, child = resource.scope_spans[0].spans
    assert (root.trace_id.hex(), root.span_id.hex(), root.parent_span_id) == (ROOT.trace, ROOT.id, b"")
    assert child.parent_span_id == root.span_id and child.trace_id == root.trace_id
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (
        1_700_000_000_123_456_000,
        1_700_000_060_000_000_000,
    )
    assert (root.kind, child.kind) == (Sent.SPAN_KIND_SERVER, Sent.SPAN_KIND_INTERNAL)
    assert (root.status.code, root.status.message) == (Status.STATUS_CODE_ERROR, "errors rose")
    assert child.status.code == Status.STATUS_CODE_UNSET
    found = {one.key: one.value for one in root.attributes}
    assert found["crossfade.weight"].int_value == 2500
    assert found["share"].double_value == 0.25
    assert found["good"].bool_value is True
    assert found["odd"].string_value == "half ?"
    assert root.events[0].time_unix_nano == 1_700_000_010_500_000_000
    assert root.links[0].trace_id.hex() == "1" * 32


def test_the_same_spans_are_the_same_bytes() -> None:
    once = request([ROOT, CHILD], "crossfade").SerializeToString(deterministic=True)
    assert once == request([ROOT, CHILD], "crossfade").SerializeToString(deterministic=True)


def test_a_token_that_a_collector_says_back_is_not_shown() -> None:
    with http_target() as twin:
        twin.answers, twin.says = [401], b"who is Bearer abc-token?"
        answer = Otlp(twin.url, {"Authorization": "Bearer abc-token"}).export([CHILD])
    assert answer.result is Result.REFUSED
    assert "abc-token" not in answer.sentence
