"""Groups of commands of which one is usual: `crossfade slo` and `crossfade slo shop/production` are `crossfade slo show …`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


def with_usual(name: str) -> type[TyperGroup]:
    """The class of a group whose first word may be left out when it is ``name``. A word that names a command is that command."""

    class WithUsual(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if not args or args[0] not in (*self.commands, *ctx.help_option_names):
                args = [name, *args]
            return super().parse_args(ctx, args)

    return WithUsual
