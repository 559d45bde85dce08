"""`flowguard worker`: run a worker."""

from __future__ import annotations

from typing import NoReturn

import click
from mode.utils.loops import get_event_loop

from flowguard.app import App
from flowguard.cli.exit_codes import NO_BROKER, CommandError
from flowguard.cli.find_app import find_app
from flowguard.cli.output import app_option, config_option
from flowguard.config import read_config_file
from flowguard.worker import BrokerNotReached, Worker, check_port, reach_broker, use_broker

__all__ = ["configure", "worker"]

LEVELS = click.Choice(["crit", "error", "warn", "info", "debug"], case_sensitive=False)


@click.command
@app_option
@click.option("--broker", metavar="URL", help="Kafka, such as kafka://HOST:PORT.")
@click.option("--memory", metavar="SIZE", help="Most that feeds hold, such as 512MiB.")
@click.option("--spill-dir", metavar="DIR", help="Where lanes spill to, on a local disk.")
@click.option("--web-host", metavar="HOST", help="Address of the worker's pages; 127.0.0.1.")
@click.option("--web-port", metavar="PORT", type=click.IntRange(1, 65535), help="Their port; 6066.")
@click.option(
    "--instance-id", metavar="ID", help="Name in the group that a restart comes back under."
)
@click.option(
    "--web-token-file", metavar="FILE", help="What changes anything needs the token in this file."
)
@click.option(
    "--drain-timeout", metavar="TIME", help="How long stopping waits for what is in flight; 25s."
)
@config_option
@click.option("-l", "--loglevel", type=LEVELS, default="info", show_default=True)
def worker(
    app: str,
    broker: str | None,
    memory: str | None,
    spill_dir: str | None,
    web_host: str | None,
    web_port: int | None,
    instance_id: str | None,
    web_token_file: str | None,
    drain_timeout: str | None,
    config: str | None,
    loglevel: str,
) -> NoReturn:
    """Run a worker.

    SIGTERM and SIGINT: finish what is in flight, commit, exit 0; after SIGTERM a restart gets the
    same partitions, after SIGINT they go to other workers at once. A second signal: stop at once.
    """
    loop = get_event_loop()  # before the import: whatever the app makes must belong to it
    found = find_app(app)
    found.command_line = {
        "memory": memory,
        "spill_dir": spill_dir,
        "drain_timeout": drain_timeout,
        "instance_id": instance_id,
    }
    configure(found, config=config, broker=broker)
    set_address(found, web_host, web_port)
    found.web_token_file = web_token_file
    found.check()
    check_port(found)
    try:
        loop.run_until_complete(reach_broker(found))
    except BrokerNotReached as error:
        raise CommandError(str(error), NO_BROKER) from error
    Worker(found, loglevel=loglevel, loop=loop).execute_from_commandline()


def configure(app: App, *, config: str | None, broker: str | None = None) -> None:
    """Give the app its configuration file, and its broker from there or the command line."""
    table, name = app.config_file = read_config_file(config)
    if broker is not None:
        use_broker(app, broker, origin="command line")
    elif "broker" in table and app.conf.origins.get("broker") in (None, "code"):
        use_broker(app, str(table["broker"]), origin=name)


def set_address(app: App, host: str | None, port: int | None) -> None:
    """Set where the worker's pages are served."""
    if host is not None:
        app.conf.change("web_bind", host, origin="command line")
    if port is not None:
        app.conf.change("web_port", port, origin="command line")
        # Faust makes it of the port, but has done so already.
        if "canonical_url" not in app.conf.origins:
            url = app.conf.canonical_url.with_port(port)
            app.conf.change("canonical_url", url, origin="command line")
