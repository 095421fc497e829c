"""Groups of commands."""

from __future__ import annotations

import click

# Longer than any first sentence, which click would else cut to a line.
WHOLE = 200


class SuggestingGroup(click.Group):
    """A group that names the nearest command where one is mistyped, as click does for options, and lists its
    commands with the whole first sentence of their help.
    """

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Group`."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [(name, found.get_short_help_str(WHOLE)) for name, found in commands.items() if found]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See `click.Group`."""
        from matchgraph.graphdb.queries import did_you_mean

        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = did_you_mean(args[0], self.list_commands(ctx))
            ctx.fail(f"There is no command {args[0]!r}{near}.")
        return super().resolve_command(ctx, args)
