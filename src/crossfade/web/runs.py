"""`/runs`: commits on their way through the pipeline, each with its stages, nodes, results and logs, and its orders."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from crossfade.domain.access import Actor, Role
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, NotFound, Refused
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.service import Service
from crossfade.service.accounts import Session
from crossfade.web import run_view as view
from crossfade.web.house import House
from crossfade.web.rollouts import Once

RUNS_SHOWN: Final = 30
FLOWS_SHOWN: Final = 40
TAIL: Final = 64 * 1024
"""Bytes of a log that a page begins with."""
PART: Final = 256 * 1024
ATTESTED_LATELY: Final = 60.0
"""Seconds for which a statement that was looked at is believed by the pages."""
STATEMENTS_KEPT: Final = 200
SERVICES: Final = "services"
"""The name of the log that a stage's dependent services write to."""

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
Offset = Annotated[int, Query(ge=0, le=2**50)]
Data = Mapping[str, Any]
_FOR_A_FILE: Final = re.compile(r"[^A-Za-z0-9._-]+")


class Attested:
    """What is signed about releases. To say whether it holds the artifact is read, so it is asked for now and then only."""

    def __init__(self, service: Service, clock: Callable[[], float] = time.monotonic) -> None:
        self._service, self._clock = service, clock
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[str, str], tuple[float, Data]] = OrderedDict()

    def of(self, run: Data) -> list[Data]:
        """Of each release that came of a run; all are of one artifact."""
        stages = [stage for stage in run["stages"] if stage["release"] is not None]
        said = [(stage["environment"], self._statement(run["service"], stage["release"])) for stage in stages]
        return [{"environment": environment, **found} for environment, found in said if found]

    def _statement(self, service: str, release: str) -> Data:
        with self._lock:
            known = self._found.get((service, release))
            if known is not None and self._clock() - known[0] < ATTESTED_LATELY:
                return known[1]
            try:
                found = self._service.runs.statement(service, ReleaseNumber.parse(release))
            except CrossfadeError:
                found = {}
            self._found[service, release] = (self._clock(), found)
            self._found.move_to_end((service, release))
            while len(self._found) > STATEMENTS_KEPT:
                self._found.popitem(last=False)
            return found


def router(house: House) -> APIRouter:
    """The routes. All want a session whose actor sees the run; orders want the role operator there."""
    service = house.service
    routes = APIRouter(include_in_schema=False)
    once, attested = Once(), Attested(service)
    log_place = "/runs/{id}/stages/{stage}/nodes/{node}"

    def seen(request: Request, id: int) -> tuple[Session, EnvKey]:
        session = house.session(request)
        key = service.runs.key(id)
        session.actor.require(Role.VIEWER, key)
        return session, key

    def page_of(session: Session, of: str, before: int | None) -> dict[str, Any]:
        _, seq = service.hub.kept()
        rows = service.runs.runs(of or None, RUNS_SHOWN, before, session.actor.sees)
        names = {key.service for key in filter(session.actor.sees, service.keys())} | {row["service"] for row in rows}
        return {
            "runs": rows,
            "names": sorted({*names, *([of] if of else [])}),
            "of": of,
            "before": before,
            "more": rows[-1]["id"] if len(rows) == RUNS_SHOWN else None,
            "view": view,
            "seq": seq,
        }

    @routes.get("/runs")
    def runs(
        request: Request, of: Annotated[str, Query(alias="service", max_length=50)] = "", before: Before = None
    ) -> Response:
        """The last runs of all services, or of one."""
        session = house.session(request)
        template = "runs_part.html" if house.is_fetch(request) else "runs.html"
        return house.page(request, session, template, **page_of(session, of, before))

    @routes.get("/runs/{id}")
    def run(request: Request, id: Id) -> Response:
        """One run."""
        session, key = seen(request, id)
        return house.page(request, session, "run.html", **_shown(service, attested, id, key, session.actor))

    @routes.get("/runs/{id}/part")
    def part(request: Request, id: Id) -> Response:
        """What changes in it."""
        session, key = seen(request, id)
        return house.page(request, session, "run_part.html", **_shown(service, attested, id, key, session.actor))

    def node_of(id: int, stage: str, node: str) -> dict[str, Any]:
        _, seq = service.hub.kept()
        found = service.runs.run(id)
        in_stage = next((one for one in found["stages"] if one["name"] == stage), None)
        in_node = next((one for one in in_stage["nodes"] if one["name"] == node), None) if in_stage else None
        if in_stage is None or (in_node is None and node != SERVICES):
            raise NotFound(f"Run #{id} has no {node} in a stage {stage}.", hint="Its page shows those it has.")
        return {"run": found, "stage": in_stage, "node": in_node, "name": node, "view": view, "seq": seq}

    @routes.get(log_place)
    def node(request: Request, id: Id, stage: str, node: str) -> Response:
        """One node: what came of it, and the end of its log."""
        session, key = seen(request, id)
        found, tail = node_of(id, stage, node), _tail(service, id, stage, node)
        return house.page(request, session, "run_node.html", key=key, tail=tail, **found)

    @routes.get(log_place + "/part")
    def node_part(request: Request, id: Id, stage: str, node: str) -> Response:
        """What changes in it, but for the log."""
        session, key = seen(request, id)
        return house.page(request, session, "run_node_part.html", key=key, **node_of(id, stage, node))

    @routes.get(log_place + "/log")
    def log(request: Request, id: Id, stage: str, node: str, offset: Offset = 0) -> dict[str, Any]:
        """What has been written since: as `service.runs.log`."""
        seen(request, id)
        return service.runs.log(id, stage, node, offset, TAIL)

    @routes.get(log_place + "/log.txt")
    def whole(request: Request, id: Id, stage: str, node: str) -> Response:
        """All that has been written, to keep."""
        seen(request, id)
        first = service.runs.log(id, stage, node, 0, PART)
        name = _FOR_A_FILE.sub("-", f"run-{id}-{stage}-{node}.txt")
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(_parts(service, id, stage, node, first), media_type="text/plain", headers=headers)

    @routes.get("/runs/{id}/orders/{order}")
    def ask(request: Request, id: Id, order: str) -> Response:
        """Says what an order will do, and asks."""
        session, key = seen(request, id)
        return _ask(house, request, session, id, key, order)

    @routes.post("/runs/{id}/orders/{order}")
    async def give(request: Request, id: Id, order: str) -> Response:
        """Gives the order. A refused one is told where it was asked for."""
        session, form = await house.posted(request)
        return await run_in_threadpool(_give, request, session, form, id, order)

    def _give(request: Request, session: Session, form: Mapping[str, str], id: int, order: str) -> Response:
        key, by = service.runs.key(id), session.actor
        by.require(Role.VIEWER, key)
        view.refuse_unknown(order)
        try:
            by.require(Role.OPERATOR, key)
            given = form.get("once", "")
            if not 16 <= len(given) <= 64:
                raise Invalid("once", given, "the value that the form came with")
            do = service.runs.cancel if order == "cancel" else service.runs.restart
            place = once.act(f"{by.identity} {id} {order} {given}", lambda: f"/runs/{do(id, by)['id']}")
        except (Refused, Forbidden) as error:
            return _ask(house, request, session, id, key, order, error)
        return RedirectResponse(place, 303)

    @routes.get("/services/{name}/stream")
    def stream(request: Request, name: str) -> Response:
        """How long its commits took to production, and what they waited for."""
        session = house.session(request)
        newest = service.runs.runs(name, 1)
        if not newest:
            raise NotFound("This service has no runs yet.", hint="`crossfade run` begins one.")
        session.actor.require(Role.VIEWER, EnvKey.parse(newest[0]["key"]))
        found = service.runs.value_stream(name, FLOWS_SHOWN)
        longest = view.longest(found["runs"])
        flows = [(flow, view.bars(flow, longest)) for flow in found["runs"]]
        return house.page(
            request,
            session,
            "value_stream.html",
            service=name,
            summary=found["summary"],
            flows=flows,
            longest=longest,
            view=view,
        )

    return routes


def _shown(service: Service, attested: Attested, id: int, key: EnvKey, actor: Actor) -> dict[str, Any]:
    """What the templates of a run are given. ``seq`` is taken first: nothing that happens after it is missed."""
    _, seq = service.hub.kept()
    run = service.runs.run(id)
    return {
        "run": run,
        "key": key,
        "stages": [(stage, view.graph(stage["nodes"]), _has_services(service, id, stage)) for stage in run["stages"]],
        "results": [(stage, view.results(stage)) for stage in run["stages"]],
        "statements": attested.of(run),
        "why_not": {order: view.why_not(run, order) for order in view.ORDERS},
        "forbidden": _forbidden(actor, key),
        "view": view,
        "seq": seq,
    }


def _has_services(service: Service, id: int, stage: Data) -> bool:
    if stage["began"] is None:
        return False
    return bool(service.runs.log(id, stage["name"], SERVICES, 0, 4)["size"])


def _tail(service: Service, id: int, stage: str, node: str) -> dict[str, Any]:
    """The end of a log, from the beginning of a line on."""
    size = service.runs.log(id, stage, node, 0, 4)["size"]
    begin = max(0, size - TAIL)
    part = service.runs.log(id, stage, node, begin, TAIL)
    text = part["text"]
    if begin:
        text = text.partition("\n")[2] or text
    # A line that is being written comes to those who watch when it is whole, or at once by the page's script.
    return {"text": view.plain(text), "next": part["next"], "ended": part["ended"], "size": size, "cut": begin > 0}


def _parts(service: Service, id: int, stage: str, node: str, first: Data) -> Iterator[str]:
    """A log as it was when it was asked for, part by part."""
    part = first
    while part["text"]:
        yield part["text"]
        if part["next"] >= first["size"]:
            return
        part = service.runs.log(id, stage, node, part["next"], PART)


def _forbidden(actor: Actor, key: EnvKey) -> str:
    return "" if actor.may(Role.OPERATOR, key) else f"This wants the role operator for {key}."


def _ask(
    house: House,
    request: Request,
    session: Session,
    id: int,
    key: EnvKey,
    order: str,
    error: CrossfadeError | None = None,
) -> Response:
    run = house.service.runs.run(id)
    why_not = view.why_not(run, order) or _forbidden(session.actor, key)
    return house.page(
        request,
        session,
        "run_ask.html",
        status=200 if error is None else 403 if isinstance(error, Forbidden) else 409,
        run=run,
        key=key,
        order=order,
        label=order.capitalize(),
        what=view.what_happens(run, order) if not why_not else [],
        why_not=why_not,
        error=error,
        once=secrets.token_urlsafe(24),
    )
