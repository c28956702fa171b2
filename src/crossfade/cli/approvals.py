"""`crossfade approvals`, `approve` and `reject`: a second person's word before a rollout begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from crossfade.cli.client import Client
from crossfade.cli.context import FAILED, Context, Json, progressing, telling
from crossfade.domain.values import show_duration

POLL = 0.5

Number = Annotated[int, typer.Argument(help="The approval's number.", min=1, show_default=False)]


def is_approval(answer: Mapping[str, Any]) -> bool:
    """Whether a deployment was answered by an approval that waits, in place of a rollout."""
    return "approval" in answer and "phase" not in answer


def describe(approval: Mapping[str, Any]) -> str:
    """What waits for whom."""
    return (
        f"{approval['release']} waits for approval {approval['approval']}: anybody but {approval['by']} with the role "
        f"{approval['role']} for {approval['service']}/{approval['environment']} may give it "
        f"(`crossfade approve {approval['approval']}`, or the dashboard)."
    )


def rollout_of(ctx: Context, client: Client, approval: Mapping[str, Any]) -> Mapping[str, Any]:
    """Wait until somebody decides; the rollout that begins then. Exits with 1 when it is rejected."""
    id = int(approval["approval"])
    with progressing(ctx) as progress:
        progress(describe(approval))
        while (found := client.approval(id))["state"] == "waiting" or _begins(found):
            time.sleep(POLL)
    if found["state"] != "approved":
        why = f": {found['why']}" if found["why"] else ""
        by = f" by {found['decided_by']}" if found["decided_by"] else ""
        words = f"{found['release']} was {found['state']}{by}{why}."
        ctx.say(found, lambda: words)
        raise typer.Exit(FAILED)
    assert found["rollout"] is not None
    return client.rollout(found["rollout"])


def _begins(approval: Mapping[str, Any]) -> bool:
    return approval["state"] == "approved" and approval["rollout"] is None


def approvals(context: typer.Context, as_json: Json = False) -> None:
    """The releases that wait for a second person's word."""
    with telling(context, as_json) as ctx:
        found = [one for one in ctx.client().approvals() if one["state"] == "waiting"]
        if not found and not as_json:
            ctx.console.print("Nothing waits for approval.")
            return
        ctx.say(found, lambda: _table(found))


def _table(found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("approval", "release", "environment", "asked by", "since", "wants"):
        table.add_column(column)
    for one in found:
        since = show_duration(max(0.0, time.time() - one["asked"]))
        place = f"{one['service']}/{one['environment']}"
        table.add_row(str(one["approval"]), one["release"], place, one["by"], since, one["role"])
    return table


def approve(context: typer.Context, number: Number, as_json: Json = False) -> None:
    """Let a release that waits begin its rollout. Never one's own."""
    with telling(context, as_json) as ctx:
        rollout = ctx.client().approve(number)
        words = f"Rollout #{rollout['id']} of {rollout['candidate']} has begun. See `crossfade status`."
        ctx.say(rollout, lambda: words)


def reject(
    context: typer.Context,
    number: Number,
    why: Annotated[str, typer.Option(help="What the one who asked should know.")] = "",
    as_json: Json = False,
) -> None:
    """Say no to a release that waits, or take one's own back."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        client.reject(number, why)
        found = client.approval(number)
        ctx.say(found, lambda: f"{found['release']} is rejected; nothing was rolled out.")


COMMANDS: tuple[Callable[..., None], ...] = (approvals, approve, reject)
