"""Spans to a collector by OTLP over HTTP, in binary protobuf: the encoding that every receiver takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2 as pb

from crossfade import __version__
from crossfade.domain.trace import Mark, Span, Value
from crossfade.notifiers.posting import WITHIN, post
from crossfade.ports.notices import Answer

PATH: Final = "/v1/traces"
SAMPLED: Final = 0x01
"""The flag of W3C Trace Context: whoever keeps traces keeps this one."""


def request(spans: Sequence[Span], service_name: str) -> ExportTraceServiceRequest:
    """As the protocol has it."""
    resource = Resource(
        attributes=_attributes(
            {
                "service.name": service_name,
                "service.version": __version__,
                "telemetry.sdk.language": "python",
                "telemetry.sdk.name": "crossfade",
            }
        )
    )
    scope = pb.ScopeSpans(
        scope=InstrumentationScope(name="crossfade", version=__version__), spans=[_span(one) for one in spans]
    )
    return ExportTraceServiceRequest(resource_spans=[pb.ResourceSpans(resource=resource, scope_spans=[scope])])


class Otlp:
    """`ports.notices.Tracer`. ``url`` is the collector's, to which `PATH` is added. ``headers`` may hold a token."""

    def __init__(
        self, url: str, headers: Mapping[str, str], service_name: str = "crossfade", within: float = WITHIN
    ) -> None:
        self._url = url.rstrip("/").removesuffix(PATH) + PATH
        self._headers, self._service_name, self._within = dict(headers), service_name, within

    def export(self, spans: Sequence[Span]) -> Answer:
        """See the port."""
        body = request(spans, self._service_name).SerializeToString(deterministic=True)
        headers = {**self._headers, "Content-Type": "application/x-protobuf"}
        return post(self._url, body, headers, tuple(self._headers.values()), self._within)


def _span(span: Span) -> pb.Span:
    error = pb.Status(code=pb.Status.STATUS_CODE_ERROR, message=span.error) if span.error else pb.Status()
    return pb.Span(
        trace_id=bytes.fromhex(span.trace),
        span_id=bytes.fromhex(span.id),
        parent_span_id=bytes.fromhex(span.parent),
        flags=SAMPLED,
        name=span.name,
        kind=pb.Span.SPAN_KIND_SERVER if span.server else pb.Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=_nano(span.began),
        end_time_unix_nano=_nano(span.ended),
        attributes=_attributes(span.attributes),
        events=[_event(mark) for mark in span.marks],
        links=[
            pb.Span.Link(trace_id=bytes.fromhex(trace), span_id=bytes.fromhex(id), flags=SAMPLED)
            for trace, id in span.links
        ],
        status=error,
    )


def _event(mark: Mark) -> pb.Span.Event:
    return pb.Span.Event(time_unix_nano=_nano(mark.at), name=mark.name, attributes=_attributes(mark.attributes))


def _attributes(values: Mapping[str, Value]) -> Iterable[KeyValue]:
    return [KeyValue(key=name, value=_any(value)) for name, value in values.items()]


def _any(value: Value) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            # Half of a surrogate pair is no text in protobuf.
            return AnyValue(string_value=value.encode(errors="replace").decode())


def _nano(at: float) -> int:
    return max(0, round(at * 1_000_000) * 1000)
