"""Groups of commands."""

from __future__ import annotations

import click


class SuggestingGroup(click.Group):
    """A group that names the nearest command where one is mistyped, as click does for options."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See `click.Group`."""
        from matchgraph.graphdb.queries import did_you_mean

        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = did_you_mean(args[0], self.list_commands(ctx))
            ctx.fail(f"There is no command {args[0]!r}{near}.")
        return super().resolve_command(ctx, args)
