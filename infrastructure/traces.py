"""Traces by OTLP/HTTP, when a collector is given: a command, the saga steps it causes and the folds of its facts.

The envelope is all that travels. A trace's id is the correlation id, and a command's span id the last 64 bits of its
command id; whoever handles a fact knows both, so that its span joins the trace and hangs below the command that
recorded the fact, in whichever process and however late. Without a collector nothing is imported and nothing is done.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from domain.kernel.fact import Fact

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

MAX_FOLDS: Final = 100
"""Commands of one batch that get a span for its fold."""
TIMEOUT_S: Final = 2
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_LOW: Final = 2**64 - 1

_tracer: "Tracer | None" = None
_next: ContextVar[tuple[int, int | None]] = ContextVar("next_ids", default=(0, None))
"""Ids of the span that is begun next: its trace, and its own where that is known beforehand."""


def configure(url: str | None, process: str) -> None:
    """Send this process's spans to a collector (`http://host:4318/v1/traces`); with none, tracing is off."""
    global _tracer
    if url is None:
        _tracer = None
        return
    import random

    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import IdGenerator

    class Ids(IdGenerator):
        def generate_trace_id(self) -> int:
            return _next.get()[0]

        def generate_span_id(self) -> int:
            return _next.get()[1] or random.getrandbits(64) or 1

    provider = TracerProvider(
        resource=Resource.create({"service.name": f"village-{process}", "service.namespace": "ai-village"}),
        id_generator=Ids(),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=TIMEOUT_S)))
    _tracer = provider.get_tracer("ai-village")


def flush() -> None:
    """Send what has not been sent."""
    if _tracer is not None:
        provider: Any = _tracer
        provider.span_processor.force_flush(TIMEOUT_S * 1_000)


def parse(traceparent: str | None) -> tuple[UUID, int] | None:
    """Trace and span of a W3C `traceparent`; None when it is malformed or names nothing."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None:
        return None
    trace, span = int(found[1], 16), int(found[2], 16)
    return (UUID(int=trace), span) if trace and span else None


@contextmanager
def span(
    name: str, correlation_id: UUID, command_id: UUID | None = None, parent: int | UUID | None = None
) -> Iterator[None]:
    """A span of the trace of a correlation id, and the command's own when one is given, below a parent."""
    if _tracer is None:
        yield
        return
    from opentelemetry import trace

    parent_id = parent.int & _LOW if isinstance(parent, UUID) else parent
    above: trace.Span = trace.INVALID_SPAN
    if parent_id:
        known = trace.SpanContext(correlation_id.int, parent_id, is_remote=True, trace_flags=trace.TraceFlags(1))
        above = trace.NonRecordingSpan(known)
    token = _next.set((correlation_id.int, command_id.int & _LOW if command_id else None))
    try:
        begun = _tracer.start_span(name, trace.set_span_in_context(above))
    finally:
        _next.reset(token)
    try:
        yield
    except BaseException as error:
        begun.set_status(trace.StatusCode.ERROR, type(error).__name__)  # a message may tell what nobody should read
        raise
    finally:
        begun.end()


@contextmanager
def folding(model: str, facts: Iterable[Fact]) -> Iterator[None]:
    """A span for each command whose facts are folded together, at most MAX_FOLDS."""
    if _tracer is None:
        yield
        return
    from contextlib import ExitStack

    commands = {fact.command_id: fact for fact in facts}
    with ExitStack() as spans:
        for fact in list(commands.values())[:MAX_FOLDS]:
            spans.enter_context(span(f"fold {model}", fact.correlation_id, parent=fact.command_id))
        yield
