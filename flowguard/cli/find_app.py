"""Find the app that `-A MODULE[:APP]` names."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from types import ModuleType

import faust
from faust.cli.base import prepare_app

from flowguard.app import App
from flowguard.cli.exit_codes import USAGE, CommandError
from flowguard.errors import FlowguardError
from flowguard.suggest import nearest

__all__ = ["find_app"]


def find_app(spec: str) -> App:
    """Import a module of the current directory, and return its app, ready for a command.

    Args:
        spec: `MODULE` or `MODULE:APP`; without a name it is `app`, or the only one there is.

    Raises:
        CommandError: There is no such module or app, or the import failed.
    """
    module_name, _, attribute = spec.partition(":")
    module = load_module(module_name)
    app = getattr_app(module, attribute) if attribute else only_app(module)
    prepare_app(app, spec)
    return app


def load_module(name: str) -> ModuleType:
    """Import a module by name; the current directory comes first."""
    if name.endswith(".py") or "/" in name:
        dotted = name.removesuffix(".py").strip("./").replace("/", ".")
        raise CommandError(f"-A {name}: give the module's name instead: -A {dotted}", USAGE)
    if not all(part.isidentifier() for part in name.split(".")):
        raise CommandError(f"-A {name}: that is no name of a module; use -A MODULE[:APP]", USAGE)
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise cannot_import(name, error) from error
        raise CommandError(
            f"-A {name}: there is no module {error.name!r} in {here}; run in the directory that "
            f"holds it, or set PYTHONPATH",
            USAGE,
        ) from None
    except FlowguardError:
        raise
    except Exception as error:
        raise cannot_import(name, error) from error


def cannot_import(name: str, error: Exception) -> CommandError:
    """Return what went wrong inside of a module, with the line that did it."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and frame.filename != __file__
    ]
    if isinstance(error, SyntaxError):
        place = f" ({error.filename}, line {error.lineno})"
    else:
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    why = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
    return CommandError(f"-A {name}: importing it failed: {why}{place}", USAGE)


def getattr_app(module: ModuleType, attribute: str) -> App:
    """Return the app of that name."""
    if not hasattr(module, attribute):
        like = nearest(attribute, list(apps_of(module)) or list(vars(module)))
        hint = f"did you mean {module.__name__}:{like}?" if like else "check the name"
        raise CommandError(f"module {module.__name__} has no {attribute!r}; {hint}", USAGE)
    return as_app(getattr(module, attribute), f"{module.__name__}:{attribute}")


def only_app(module: ModuleType) -> App:
    """Return the module's `app`, or the one app that it has under another name."""
    if isinstance(getattr(module, "app", None), faust.App):
        return as_app(module.app, f"{module.__name__}:app")
    found = apps_of(module)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        names = ", ".join(f"{module.__name__}:{name}" for name in found)
        raise CommandError(f"module {module.__name__} has several apps; choose: {names}", USAGE)
    raise CommandError(
        f"module {module.__name__} has no flowguard.App; name it `app`, or give MODULE:APP", USAGE
    )


def apps_of(module: ModuleType) -> dict[str, App]:
    """Return the apps of a module, by name."""
    return {name: value for name, value in vars(module).items() if isinstance(value, App)}


def as_app(value: object, name: str) -> App:
    """Return the value if it is an app of flowguard."""
    if isinstance(value, App):
        return value
    if isinstance(value, faust.App):
        raise CommandError(
            f"{name} is a faust.App; make it a flowguard.App, or run it with `faust`", USAGE
        )
    raise CommandError(f"{name} is a {type(value).__name__}, and no flowguard.App", USAGE)
