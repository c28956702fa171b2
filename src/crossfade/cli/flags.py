"""`crossfade flags`: who gets what, changed, ramped, killed and explained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from crossfade.cli import flag_show as show
from crossfade.cli.context import Context, Json, telling, which
from crossfade.cli.flag_client import FlagClient
from crossfade.cli.flag_files import export, import_, promote, read_json, serve
from crossfade.cli.flag_ramps import ramp, ramps
from crossfade.domain.errors import Invalid
from crossfade.domain.flags.model import Split
from crossfade.domain.flags.split import reallocate
from crossfade.domain.values import Weight

flags = typer.Typer(help="Feature flags: who gets what of them, and how that changes.", no_args_is_help=True)

Flag = Annotated[str, typer.Argument(help="The flag's key.", show_default=False)]
Environment = Annotated[
    str | None, typer.Option("--env", "-e", help="The environment, if there are several.", show_default=False)
]
Note = Annotated[str, typer.Option(help="Why, for the versions and the audit log.", show_default=False)]
Number = Annotated[int, typer.Argument(help="The request's number.", min=1, show_default=False)]


def where(ctx: Context, env: str | None) -> tuple[FlagClient, str]:
    """The client, and the environment that is meant."""
    client = ctx.client()
    return client.flags, which(client, env)


@flags.command("list")
def list_(
    context: typer.Context,
    env: Environment = None,
    stale: Annotated[bool, typer.Option("--stale", help="Only those that could go.")] = False,
    as_json: Json = False,
) -> None:
    """The flags of an environment: what each gives, who owns it, and which could go."""
    with telling(context, as_json) as ctx:
        client, key = where(ctx, env)
        found = client.flags(key, stale)
        ctx.say(found, lambda: show.listed(found))


@flags.command()
def get(context: typer.Context, flag: Flag, env: Environment = None, as_json: Json = False) -> None:
    """One flag: its rules in words, its usage by release, and its data."""
    with telling(context, as_json) as ctx:
        client, key = where(ctx, env)
        found = client.flag(key, flag)
        ctx.say(found, lambda: show.one(found))


@flags.command("set")
def set_(
    context: typer.Context,
    flag: Flag,
    env: Environment = None,
    file: Annotated[
        Path | None,
        typer.Option(help="The flag's data as JSON, as `get --json` shows it; - reads it.", show_default=False),
    ] = None,
    default: Annotated[
        str | None, typer.Option(help="The variant that is served by default.", show_default=False)
    ] = None,
    owner: Annotated[str | None, typer.Option(help="Who answers for it.", show_default=False)] = None,
    description: Annotated[str | None, typer.Option(help="What it is for.", show_default=False)] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; in place of all before.", show_default=False)] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(help="RULE:VARIANT=10%: the share of a variant in a rule's split.", show_default=False),
    ] = None,
    pause: Annotated[list[str] | None, typer.Option(help="A rule to pass over.", show_default=False)] = None,
    resume: Annotated[list[str] | None, typer.Option(help="A rule to take up again.", show_default=False)] = None,
    on: Annotated[
        bool | None, typer.Option("--on/--off", help="Enable it, or leave all to the code's default.")
    ] = None,
    note: Note = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show who would get what, change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Make a flag from a file, or change what it is given here. One that nobody has made yet is off for everybody."""
    with telling(context, as_json) as ctx:
        client, key = where(ctx, env)
        shares = _shares(share or [])
        if shares and file is not None:
            raise Invalid("--share", ", ".join(share or []), "without --file: the file says all shares itself")
        given: dict[str, Any] = {"description": description, "owner": owner, "tags": tag}
        expects = None
        if file is not None:
            data = _data(file)
        elif flag in {one["key"] for one in client.flags(key)["flags"]}:
            found = client.flag(key, flag)
            data, expects = found["flag"], found["version"]
        else:
            data = _boolean()
        data = _changed(data, default, given, on, pause or [], resume or [])
        for rule, wanted in shares.items():
            data = _moved(data, rule, wanted)
        if dry_run:
            seen = client.preview(key, flag, data, [])
            ctx.say(seen, lambda: show.preview(seen))
            return
        done = client.save(key, flag, data, expects, note)
        ctx.say(done, lambda: show.done(done, f"{flag} in {key}"))


def _moved(data: Mapping[str, Any], name: str, wanted: Mapping[str, int]) -> dict[str, Any]:
    """With other shares in a rule's split: raising one takes the variant from nobody, lowering it the newest first."""
    ours = dict(data.get("crossfade") or {})
    rules = [dict(rule) for rule in ours.get("rules", [])]
    rule = next((rule for rule in rules if rule["name"] == name), None)
    if rule is None or not isinstance(rule["serve"], dict) or "split" not in rule["serve"]:
        splits = [r["name"] for r in rules if isinstance(r["serve"], dict) and "split" in r["serve"]]
        raise Invalid("--share", name, f"a rule of the flag that splits ({', '.join(splits) or 'it has none'})")
    known = rule["serve"]["split"]
    had = {variant: tuple((begin, end) for begin, end in slices) for variant, slices in known["shares"].items()}
    split = reallocate(Split(had, known["rest"]), wanted)
    shares = {variant: [list(one) for one in slices] for variant, slices in split.shares.items()}
    rule["serve"] = {"split": {**known, "shares": shares}}
    return {**data, "crossfade": {**ours, "rules": rules}}


def _boolean() -> dict[str, Any]:
    return {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}


def _data(file: Path) -> dict[str, Any]:
    found = read_json(file)
    if isinstance(found.get("flag"), dict) and "variants" not in found:
        found = found["flag"]  # as `get --json` prints it
    return found


def _changed(
    data: Mapping[str, Any],
    default: str | None,
    given: Mapping[str, Any],
    on: bool | None,
    pause: list[str],
    resume: list[str],
) -> dict[str, Any]:
    made, ours = dict(data), dict(data.get("crossfade") or {})
    if default is not None:
        made["defaultVariant"] = default
    if on is not None:
        made["state"] = "ENABLED" if on else "DISABLED"
    ours |= {name: value for name, value in given.items() if value is not None}
    if pause or resume:
        rules = [dict(rule) for rule in ours.get("rules", [])]
        for name in (*pause, *resume):
            if name not in {rule["name"] for rule in rules}:
                names = ", ".join(rule["name"] for rule in rules) or "none"
                raise Invalid("rule", name, f"a rule of the flag ({names})")
        for rule in rules:
            if rule["name"] in (*pause, *resume):
                rule["paused"] = rule["name"] in pause
        ours["rules"] = rules
    return {**made, "crossfade": ours} if ours else made


def _shares(texts: list[str]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for text in texts:
        rule, colon, rest = text.rpartition(":")
        variant, equals, share = rest.partition("=")
        if not (colon and equals and rule and variant):
            raise Invalid("--share", text, "RULE:VARIANT=10%, for example everybody:on=10%")
        found.setdefault(rule, {})[variant] = Weight.parse(share, "--share").bp
    return found


@flags.command()
def remove(context: typer.Context, flag: Flag, env: Environment = None, as_json: Json = False) -> None:
    """Take a flag away. Refused while others require it, or it is ramped or tried."""
    with telling(context, as_json) as ctx:
        client, key = where(ctx, env)
        done = client.remove(key, flag)
        ctx.say(done, lambda: show.done(done, f"{flag} in {key}"))


@flags.command()
def kill(
    context: typer.Context,
    flag: Flag,
    env: Environment = None,
    why: Annotated[str, typer.Option(help="What others should know.", show_default=False)] = "",
    as_json: Json = False,
) -> None:
    """Serve its off variant to everybody, at once. Waits for nobody's approval."""
    with telling(context, as_json) as ctx:
        client, key = where(ctx, env)
        done = client.order(key, flag, "kill", why=why)
        ctx.say(done, lambda: f"{flag} is killed in {key}: everybody gets its off variant. "
                              f"`crossfade flags revive {flag}` undoes it.")  # fmt: skip


@flags.command()
def revive(context: typer.Context, flag: Flag, env: Environment = None, as_json: Json = False) -> None:
    """Serve a killed flag as before."""
    with telling(context, as_json) as ctx:
        client, key = where(ctx, env)
        done = client.order(key, flag, "revive")
        ctx.say(done, lambda: f"{flag} is served again in {key}, as before it was killed.")


@flags.command()
def why(
    context: typer.Context,
    flag: Flag,
    attributes: Annotated[
        list[str] | None,
        typer.Argument(help="NAME=VALUE of the context; `key=…` is the targeting key.", show_default=False),
    ] = None,
    env: Environment = None,
    file: Annotated[
        Path | None, typer.Option("--context", help="The context as a JSON file; - reads it.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """What somebody gets of a flag, and each step that led there."""
    with telling(context, as_json) as ctx:
        client, key = where(ctx, env)
        who = read_json(file) if file is not None else {}
        for text in attributes or []:
            name, equals, value = text.partition("=")
            if not equals or not name:
                raise Invalid("context", text, "NAME=VALUE, for example email=ada@example.org")
            who["targetingKey" if name == "key" else name] = _value(value)
        found = client.why(key, flag, who)
        ctx.say(found, lambda: show.trace(found))


def _value(text: str) -> Any:
    """A number or a truth value as such; all else is text."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, (int, float)) else text


@flags.command()
def versions(
    context: typer.Context,
    env: Environment = None,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=1000)] = 20,
    as_json: Json = False,
) -> None:
    """What the flags of an environment have been, newest first."""
    with telling(context, as_json) as ctx:
        client, key = where(ctx, env)
        found = client.versions(key, limit)
        ctx.say(found, lambda: show.versions(found))


@flags.command()
def diff(
    context: typer.Context,
    one: Annotated[int, typer.Argument(help="A version; 0 is before the first one.", min=0)],
    other: Annotated[int, typer.Argument(help="Another.", min=1)],
    env: Environment = None,
    as_json: Json = False,
) -> None:
    """What differs between two versions, in words."""
    with telling(context, as_json) as ctx:
        client, key = where(ctx, env)
        found = client.compare(key, one, other)
        ctx.say(found, lambda: show.changes(found))


@flags.command()
def restore(
    context: typer.Context,
    version: Annotated[int, typer.Argument(help="What is to be again.", min=1)],
    env: Environment = None,
    note: Note = "",
    as_json: Json = False,
) -> None:
    """Make the flags what they were in a version. What was killed since stays so."""
    with telling(context, as_json) as ctx:
        client, key = where(ctx, env)
        done = client.restore(key, version, note)
        ctx.say(done, lambda: show.done(done, f"the flags of {key}"))


@flags.command()
def settings(
    context: typer.Context,
    env: Environment = None,
    approval: Annotated[
        str | None,
        typer.Option(help="Whose word changes wait for: operator, admin, or nobody.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Whether changes of an environment's flags wait for a second person. Setting it wants an admin."""
    with telling(context, as_json) as ctx:
        client, key = where(ctx, env)
        if approval is not None and approval not in ("nobody", "operator", "admin"):
            raise Invalid("--approval", approval, "nobody, operator or admin")
        if approval is None:
            found = client.settings(key)
        else:
            found = client.set_settings(key, None if approval == "nobody" else approval)
        role = found["approval"]
        words = f"Changes wait for somebody else with the role {role}." if role else "Changes wait for nobody."
        ctx.say(found, lambda: f"{key}: {words}")


@flags.command()
def requests(context: typer.Context, as_json: Json = False) -> None:
    """Changes that wait for a second person's word."""
    with telling(context, as_json) as ctx:
        found = [one for one in ctx.client().flags.requests(200) if one["state"] == "waiting"]
        ctx.say(found, lambda: show.requests(found))


@flags.command()
def approve(context: typer.Context, number: Number, as_json: Json = False) -> None:
    """Let a change be made that waits. Never one's own."""
    with telling(context, as_json) as ctx:
        done = ctx.client().flags.approve(number)
        ctx.say(done, lambda: f"Request {number} is approved: version {done['version']} is served.")


@flags.command()
def reject(
    context: typer.Context,
    number: Number,
    why: Annotated[str, typer.Option(help="What the one who asked should know.", show_default=False)] = "",
    as_json: Json = False,
) -> None:
    """Say no to a change that waits, or take one's own back."""
    with telling(context, as_json) as ctx:
        done = ctx.client().flags.reject(number, why)
        ctx.say(done, lambda: f"Request {number} is rejected; nothing was changed.")


for _name, _command in (
    ("ramp", ramp),
    ("ramps", ramps),
    ("import", import_),
    ("export", export),
    ("promote", promote),
    ("serve", serve),
):
    flags.command(_name)(_command)
