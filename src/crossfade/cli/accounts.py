"""`crossfade accounts` and `crossfade tokens`: who may come in, and as what."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from crossfade.cli.context import Context, Json, telling
from crossfade.domain.access import Grant
from crossfade.domain.errors import Invalid
from crossfade.domain.values import parse_duration

NEVER = "never"

accounts = typer.Typer(help="Who may come in, and as what.", invoke_without_command=True)
tokens = typer.Typer(help="Credentials for programs.", invoke_without_command=True)

Name = Annotated[str, typer.Argument(help="The account's name.", show_default=False)]
Role = Annotated[str, typer.Option("--role", help="viewer, operator or admin.", show_default=False)]
On = Annotated[
    list[str] | None,
    typer.Option("--on", help="Only there: SERVICE/ENVIRONMENT, either may be *. Repeatable.", show_default=False),
]
FromStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]


def grants_of(role: str, on: Sequence[str] | None) -> list[str]:
    """``operator`` on two environments as two grants. Raises Invalid."""
    texts = [f"{role}@{place}" for place in on] if on else [role]
    return [str(Grant.parse(text)) for text in texts]


def _password(from_stdin: bool) -> str:
    """Asked for twice, unseen; or the first line of standard input. Raises Invalid."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise Invalid("password", "no terminal to ask on", "--password-stdin, with the password on standard input")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt="Once more"))


def _time(at: float | None, otherwise: str) -> str:
    return otherwise if at is None else datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def _table(rows: Sequence[Sequence[str]], *columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


# --- accounts


def _list(ctx: Context) -> None:
    found = ctx.client().accounts()
    if not found and not ctx.json:
        ctx.console.print("No accounts yet. The first: crossfade accounts add NAME --role admin")
        return
    ctx.say(found, lambda: _table([_account(row) for row in found], "account", "may", "logs in by", "since", ""))


def _account(row: Mapping[str, Any]) -> tuple[str, ...]:
    by = row["issuer"] or ("password" if row["has_password"] else "tokens only")
    return row["name"], ", ".join(row["grants"]), by, _time(row["created"], ""), "disabled" if row["disabled"] else ""


@accounts.callback()
def accounts_root(context: typer.Context, as_json: Json = False) -> None:
    """Who may come in, and as what. Without a word more: the list."""
    if context.invoked_subcommand is None:
        with telling(context, as_json) as ctx:
            _list(ctx)


@accounts.command("list")
def list_accounts(context: typer.Context, as_json: Json = False) -> None:
    """All accounts, and what each may do."""
    with telling(context, as_json) as ctx:
        _list(ctx)


@accounts.command("add")
def add(
    context: typer.Context,
    name: Name,
    role: Role,
    on: On = None,
    password_stdin: FromStdin = False,
    no_password: Annotated[bool, typer.Option("--no-password", help="Only tokens will let it in.")] = False,
    as_json: Json = False,
) -> None:
    """Let somebody in. Asks for a password."""
    with telling(context, as_json) as ctx:
        grants = grants_of(role, on)
        account = ctx.client().add_account(name, grants, None if no_password else _password(password_stdin))
        ctx.say(account, lambda: f"{account['name']} is {', '.join(account['grants'])}.")


@accounts.command("change")
def change(
    context: typer.Context,
    name: Name,
    role: Annotated[
        str | None,
        typer.Option("--role", help="viewer, operator or admin, in place of all before.", show_default=False),
    ] = None,
    on: On = None,
    disable: Annotated[
        bool | None, typer.Option("--disable/--enable", help="Keep it out, or let it in again.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Change what an account may do, from its next request on."""
    with telling(context, as_json) as ctx:
        if role is None and on:
            raise Invalid("--role", "nothing", "the role that --on is about")
        if role is None and disable is None:
            raise Invalid("accounts change", "nothing to change", "--role, --disable or --enable")
        grants = None if role is None else grants_of(role, on)
        account = ctx.client().change_account(name, grants, disable)
        state = "disabled" if account["disabled"] else ", ".join(account["grants"])
        ctx.say(account, lambda: f"{account['name']} is {state}.")


@accounts.command("password")
def password(context: typer.Context, name: Name, password_stdin: FromStdin = False, as_json: Json = False) -> None:
    """Set an account's password, and end its sessions."""
    with telling(context, as_json) as ctx:
        ctx.client().set_password(name, _password(password_stdin))
        ctx.say({"name": name, "changed": True}, lambda: f"{name} has a new password; its sessions have ended.")


@accounts.command("remove")
def remove(
    context: typer.Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove an account with its tokens and sessions. The audit log keeps its name."""
    with telling(context, as_json) as ctx:
        _confirm(f"This removes {name}, its tokens and sessions. Go on?", yes)
        ctx.client().remove_account(name)
        ctx.say({"name": name, "removed": True}, lambda: f"{name} is gone.")


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Invalid("--yes", "nothing", "--yes, where there is no terminal to ask on")
    typer.confirm(question, abort=True)


# --- tokens


def _list_tokens(ctx: Context) -> None:
    found = ctx.client().tokens()
    if not found and not ctx.json:
        ctx.console.print("No tokens yet. One for a pipeline: crossfade tokens add ci --role operator --on 'shop/*'")
        return
    columns = ("id", "name", "of", "may", "expires", "used")
    ctx.say(found, lambda: _table([_token(row) for row in found], *columns))


def _token(row: Mapping[str, Any]) -> tuple[str, ...]:
    ends = "revoked" if row["revoked"] is not None else _time(row["expires"], NEVER)
    if row["revoked"] is None and row["expires"] is not None and row["expires"] <= time.time():
        ends = "expired"
    grants = ", ".join(row["grants"])
    return row["id"], row["name"], row["owner"] or "the installation", grants, ends, _time(row["used"], NEVER)


@tokens.callback()
def tokens_root(context: typer.Context, as_json: Json = False) -> None:
    """Credentials for programs. Without a word more: the list."""
    if context.invoked_subcommand is None:
        with telling(context, as_json) as ctx:
            _list_tokens(ctx)


@tokens.command("list")
def list_tokens(context: typer.Context, as_json: Json = False) -> None:
    """All tokens, without their secrets."""
    with telling(context, as_json) as ctx:
        _list_tokens(ctx)


@tokens.command("add")
def add_token(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is for.", show_default=False)],
    role: Role,
    on: On = None,
    expires: Annotated[str, typer.Option(help="How long it is good for: 30d, 12h, or never.")] = "90d",
    owner: Annotated[
        str | None,
        typer.Option(help="An account that it belongs to, and never does more than.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a token. It is shown this once."""
    with telling(context, as_json) as ctx:
        until = None if expires == NEVER else time.time() + parse_duration("--expires", expires)
        made = ctx.client().issue_token(name, grants_of(role, on), until, owner)
        if not as_json:
            ends = f"until {_time(until, '')}" if until is not None else "until it is revoked"
            told = f"{', '.join(made['grants'])}, {ends}. It is not shown again; `crossfade tokens revoke {made['id']}` ends it."
            ctx.errors.print(told, markup=False, highlight=False, soft_wrap=True)
        ctx.say_whole(made, str(made["token"]))


@tokens.command("revoke")
def revoke(
    context: typer.Context,
    id: Annotated[str, typer.Argument(help="The token's id, as `tokens` lists it.", show_default=False)],
    as_json: Json = False,
) -> None:
    """End a token, at once."""
    with telling(context, as_json) as ctx:
        ctx.client().revoke_token(id)
        ctx.say({"id": id, "revoked": True}, lambda: f"Token {id} is revoked.")
