"""How commands report: for people, as JSON, or into a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from flowguard.cli.exit_codes import CommandError
from flowguard.cli.terminal import encoded

__all__ = [
    "app_option",
    "broker_option",
    "config_option",
    "html_option",
    "optional_app_option",
    "report",
    "report_options",
]

Command = TypeVar("Command", bound=Callable[..., Any])


def report_options(command: Command) -> Command:
    """Add `--json` and `--output FILE`, as `as_json` and `output`."""
    command = click.option(
        "--output",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write the report as JSON to FILE.",
    )(command)
    return click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")(
        command
    )


def html_option(command: Command) -> Command:
    """Add `--html FILE`, as `html`; what draws must be installed before anything starts."""

    def check(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
        if value is not None and not ctx.resilient_parsing:
            from flowguard.stress.charts import require_pygal  # few commands draw

            require_pygal()
        return value

    return click.option(
        "--html",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=check,
        help="Write the report as one page with charts to FILE.",
    )(command)


def app_option(command: Command) -> Command:
    """Add `-A MODULE[:APP]`, as `app`; given before the verb it is found in the context."""

    def from_group(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        spec = value or ctx.find_root().obj
        if spec is None and not ctx.resilient_parsing:
            raise click.UsageError("say which app: -A MODULE or -A MODULE:APP", ctx)
        return spec

    return app_given(from_group, "The app, such as shop.stream or shop.stream:app.")(command)


def optional_app_option(about: str) -> Callable[[Command], Command]:
    """Add `-A MODULE[:APP]`, as `app`; None where nobody gave it."""

    def from_group(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        return value or ctx.find_root().obj

    return app_given(from_group, about)


def app_given(callback: Callable[..., str | None], about: str) -> Callable[[Command], Command]:
    return click.option("-A", "--app", "app", metavar="MODULE[:APP]", callback=callback, help=about)


def config_option(command: Command) -> Command:
    """Add `--config FILE`, as `config`."""
    return click.option(
        "--config",
        metavar="FILE",
        help="TOML file of settings; default [tool.flowguard] of pyproject.toml.",
    )(command)


def broker_option(command: Command) -> Command:
    """Add `--broker URL`, as `broker`, to a command that may have the app's instead."""
    return click.option(
        "--broker",
        metavar="URL",
        envvar="FLOWGUARD_BROKER",
        help="Kafka, such as kafka://HOST:PORT; without it the app's.",
    )(command)


def report(
    document: dict[str, Any], text: Callable[[], str], *, as_json: bool, output: Path | None
) -> None:
    """Print a report, and write it where it was asked for.

    Args:
        document: The report for programs.
        text: Makes the report for people.
        as_json: Print the document instead of the text.
        output: Write the document here too.

    Raises:
        CommandError: The file cannot be written.
    """
    as_written = encoded(document)
    if output is not None:
        try:
            output.write_text(as_written + "\n", encoding="utf-8")
        except OSError as error:
            raise CommandError(f"cannot write {output}: {error.strerror}") from error
    click.echo(as_written if as_json else text())
