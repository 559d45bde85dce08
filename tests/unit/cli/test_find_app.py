"""-A MODULE[:APP]: found, or one line that says why not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowguard.cli.exit_codes import USAGE, CommandError
from flowguard.cli.find_app import find_app
from flowguard.errors import ConfigError

Module = Callable[[str], str]


def refused(spec: str) -> str:
    """Return the message of a name that finds no app."""
    with pytest.raises(CommandError) as error:
        find_app(spec)
    assert error.value.exit_code == USAGE
    return error.value.message


def test_an_app_is_found_with_and_without_its_name(good_app: str) -> None:
    assert find_app(good_app) is find_app(f"{good_app}:app")


def test_the_only_app_needs_no_name(module: Module) -> None:
    name = module("import flowguard as fg\nshop = fg.App('shop')")
    assert find_app(name).conf.id == "shop"


def test_several_apps_are_listed(module: Module) -> None:
    name = module("import flowguard as fg\none = fg.App('one')\ntwo = fg.App('two')")
    assert f"{name}:one, {name}:two" in refused(name)


def test_a_module_that_is_not_there(module: Module) -> None:
    module("")
    assert "there is no module 'nowhere'" in refused("nowhere")


def test_a_path_is_answered_with_the_module_name(module: Module) -> None:
    module("")
    assert refused("./pipelines/shop.py").endswith("-A pipelines.shop")


def test_a_wrong_name_gets_the_nearest_one(good_app: str) -> None:
    assert f"did you mean {good_app}:app?" in refused(f"{good_app}:ap")


def test_a_module_without_an_app(module: Module) -> None:
    assert "has no flowguard.App" in refused(module("x = 1"))


def test_a_plain_faust_app_is_named_as_such(module: Module) -> None:
    assert "is a faust.App" in refused(module("import faust\napp = faust.App('x')"))


def test_a_failing_import_shows_its_line(module: Module) -> None:
    name = module("import flowguard\n\n1 / 0")
    message = refused(name)
    assert "ZeroDivisionError" in message
    assert f"{name}.py, line 3" in message


def test_a_missing_package_is_not_taken_for_the_module(module: Module) -> None:
    message = refused(module("import no_such_package"))
    assert "No module named 'no_such_package'" in message


def test_a_wrong_declaration_keeps_its_own_message(module: Module) -> None:
    name = module("import flowguard as fg\napp = fg.App('x', lanes=[fg.Lane('a', wieght=2)])")
    with pytest.raises(ConfigError, match="did you mean weight"):
        find_app(name)
