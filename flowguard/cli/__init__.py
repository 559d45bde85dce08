"""The command line: `flowguard VERB`, one file a verb.

A verb is imported when it is used, so that `flowguard --help` answers at once, and so that
a verb whose extra packages are not installed breaks no other. Errors are one line on
standard error; exit codes are in `exit_codes`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Final, NoReturn

import click
from click.shell_completion import CompletionItem

from flowguard.cli.exit_codes import CORRUPT, FAILED, INTERRUPTED, USAGE, CommandError
from flowguard.cli.terminal import printable
from flowguard.errors import ConfigError, FlowguardError, WireError
from flowguard.suggest import nearest

__all__ = ["cli", "main"]


@dataclass(frozen=True, slots=True)
class Verb:
    """A command that is not imported yet.

    Args:
        place: `module:attribute` of the click command.
        help: One line for the list of commands.
    """

    place: str
    help: str

    def load(self) -> click.Command:
        """Import the command.

        Raises:
            CommandError: A module that it needs is not there.
        """
        module, _, attribute = self.place.partition(":")
        try:
            command = getattr(import_for_good(module), attribute)
        except ImportError as error:
            raise CommandError(
                f"{attribute} cannot be loaded: {error}; install what is missing"
            ) from error
        assert isinstance(command, click.Command)
        return command


def import_for_good(name: str) -> ModuleType:
    """Import a module, and let all that it brings stay as long as the process does.

    Python would look through the first hundred thousand objects for garbage again and again
    meanwhile, which is a tenth of the time that a worker needs to start, and finds none.
    """
    if name in sys.modules or not gc.isenabled():
        return import_module(name)
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()  # otherwise the next object would have it look through all of them
        gc.enable()


VERBS: Final[Mapping[str, Verb]] = {
    "worker": Verb("flowguard.cli.worker:worker", "Run a worker."),
    "check": Verb("flowguard.cli.check:check", "Look for mistakes in an app; start nothing."),
    "demo": Verb("flowguard.cli.demo:demo", "See lanes at work, without a Kafka of your own."),
    "stress": Verb("flowguard.cli.stress:stress", "Put a worker to the test, or simulate it."),
    "dlq": Verb("flowguard.cli.dlq:dlq", "Look after dead letters."),
    "offsets": Verb("flowguard.cli.offsets:offsets", "Look at committed offsets, or reset them."),
    "spill": Verb("flowguard.cli.spill:spill", "Look after a spill directory."),
    "bench": Verb("flowguard.cli.bench:bench", "Measure the throughput of this machine."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def __init__(self, *args: Any, verbs: Mapping[str, Verb] = VERBS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of their declaration."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one verb, None if there is no such."""
        verb = self.verbs.get(cmd_name)
        return None if verb is None else verb.load()

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return what may come next, without importing a verb."""
        verbs = [
            CompletionItem(name, help=verb.help)
            for name, verb in self.verbs.items()
            if name.startswith(incomplete)
        ]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb that the arguments begin with, or name the nearest one."""
        if args and not args[0].startswith("-") and args[0] not in self.verbs:
            like = nearest(args[0], self.verbs)
            hint = f"did you mean {like}?" if like else f"commands are {', '.join(self.verbs)}"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in self.verbs.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line; an error becomes one line and an exit code."""
        run: Callable[..., Any] = super().main
        if not kwargs.pop("standalone_mode", True):
            return run(*args, **kwargs, standalone_mode=False)
        try:
            code = run(*args, **kwargs, standalone_mode=False)
        except click.Abort:
            give_up("interrupted", INTERRUPTED)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(USAGE)
        except click.ClickException as error:
            give_up(one_line(error), error.exit_code)
        except FlowguardError as error:
            give_up(str(error), exit_code_of(error))
        sys.exit(code if isinstance(code, int) else 0)


def one_line(error: click.ClickException) -> str:
    """Return an error of click as flowguard words its own."""
    if not isinstance(error, click.NoSuchOption):
        return error.format_message()
    command = "" if error.ctx is None else f"{error.ctx.command_path} has "
    like = f"did you mean {' or '.join(error.possibilities)}?" if error.possibilities else "try -h"
    return f"{command}no option {error.option_name}; {like}"


def exit_code_of(error: FlowguardError) -> int:
    """Return the exit code that an error of flowguard means."""
    if isinstance(error, ConfigError):
        return USAGE
    return CORRUPT if isinstance(error, WireError) else FAILED


def give_up(message: str, code: int) -> NoReturn:
    """Say what is wrong in one line, and exit."""
    click.echo(f"flowguard: {printable(' '.join(message.split()))}", err=True)
    sys.exit(code)


EPILOG: Final = """\
Shell completion: eval "$(_FLOWGUARD_COMPLETE=bash_source flowguard)" in ~/.bashrc; zsh_source
and fish_source likewise.
"""


def print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Print the version, and leave."""
    if value and not ctx.resilient_parsing:
        from flowguard import __version__

        click.echo(f"flowguard {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("-A", "--app", "app", metavar="MODULE[:APP]", help="The app that the command is for.")
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=print_version,
    help="Show the version and exit.",
)  # fmt: skip
@click.pass_context
def cli(ctx: click.Context, app: str | None) -> None:
    """Streaming backpressure for real-time inference on Faust and Kafka."""
    ctx.obj = app


def main() -> NoReturn:
    """Run the command line; the console script of the package."""
    cli(prog_name="flowguard")
    raise AssertionError("click exits")
