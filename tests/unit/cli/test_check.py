"""`flowguard check`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowguard.cli.check import masked_url, shown
from flowguard.cli.exit_codes import FAILED, OK, USAGE
from tests.unit.cli.conftest import Run

Module = Callable[[str], str]

HEAD = """
import flowguard as fg
realtime = fg.Lane("realtime", target="50ms")
backfill = fg.Lane("backfill")
"""
AGENT = """
@app.agent(orders)
async def read(batches):
    async for batch in batches:
        yield
"""


def findings(run: Run, module: str) -> dict[str, list[dict[str, str]]]:
    """Return what check finds, by severity."""
    document = json.loads(run("-A", module, "check", "--json").stdout)
    found: dict[str, list[dict[str, str]]] = {"error": [], "warning": [], "info": []}
    for finding in document["findings"]:
        found[finding["severity"]].append(finding)
    return found


def values(document: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return setting → value and origin."""
    return {each["name"]: (each["value"], each["origin"]) for each in document["settings"]}


def test_a_good_app_passes(run: Run, good_app: str) -> None:
    result = run("check", "-A", good_app)
    assert result.exit_code == OK, result.output
    assert "shop: pass" in result.stdout


def test_the_document_has_the_keys_of_its_schema(run: Run, good_app: str) -> None:
    document = json.loads(run("check", "-A", good_app, "--json").stdout)
    assert list(document) == ["schema", "app", "result", "settings", "lanes", "feeds", "findings"]
    assert document["schema"] == "flowguard.check/v1"
    assert [lane["name"] for lane in document["lanes"]] == ["realtime", "backfill"]
    assert document["feeds"][0]["columns"] == {"id": "!int64"}
    assert document["findings"] == []


def test_what_lanes_and_feeds_declare_is_shown_without_the_registrys_password(
    run: Run, module: Module
) -> None:
    name = module(
        "import flowguard as fg\n"
        'vip = fg.Lane("vip", rate="5k/s", fair_by=fg.header("tenant"), demote_after="1m")\n'
        'rest = fg.Lane("rest", fair_by="kind")\n'
        'app = fg.App("x", broker="kafka://h", lanes=[vip, rest])\n'
        'orders = app.feed("orders", codec="avro", registry="https://user:s3cret@h", order="key",\n'
        '    columns={"kind": "string"}, lanes=fg.by_column({"kind": {"v": vip}}, rest))\n' + AGENT
    )

    printed = run("check", "-A", name).output
    document = json.loads(run("check", "-A", name, "--json").output)

    vip, rest = document["lanes"]
    assert (vip["rate"], vip["fair_by"], vip["demote_after"]) == (5000.0, "header tenant", 60.0)
    assert (rest["rate"], rest["fair_by"], rest["demote_after"]) == (None, "column kind", None)
    [feed] = document["feeds"]
    assert feed["lanes"] == {"orders": "column kind: vip, rest, else rest"}
    assert feed["registry"].startswith("https://***:") and "s3cret" not in str(document) + printed
    assert "5000/s" in printed and "header tenant" in printed


def test_block_below_a_target_in_one_partition_is_an_error(run: Run, module: Module) -> None:
    name = module(
        HEAD + 'app = fg.App("x", broker="kafka://h", lanes=[realtime, backfill])\n'
        'orders = app.feed("orders", lanes=fg.by_header("l", {"r": realtime}, backfill))\n' + AGENT
    )
    result = run("check", "-A", name)
    assert result.exit_code == FAILED
    (error,) = findings(run, name)["error"]
    assert "lane backfill blocks" in error["what"]
    assert error["where"] == "feed orders"


@pytest.mark.parametrize("overflow", ["fg.Shed()", "[fg.Conflate(), fg.Shed()]", 'fg.Divert("d")'])
def test_another_overflow_below_a_target_in_one_partition_is_fine(
    run: Run, module: Module, overflow: str
) -> None:
    name = module(
        f'{HEAD}backfill = fg.Lane("backfill", max_age="30s", overflow={overflow})\n'
        'app = fg.App("x", broker="kafka://h", lanes=[realtime, backfill])\n'
        'orders = app.feed("orders", lanes=fg.by_header("l", {"r": realtime}, backfill))\n' + AGENT
    )
    assert run("check", "-A", name).exit_code == OK
    assert findings(run, name)["error"] == []


def test_what_a_lane_does_when_it_is_full_or_too_old_is_shown(run: Run, module: Module) -> None:
    name = module(
        'import flowguard as fg\nmost = fg.Lane("most", max_age="30s", degrade=False,\n'
        '    overflow=[fg.Conflate("id"), fg.Divert("later"), fg.Shed()])\n'
        'app = fg.App("x", broker="kafka://h", lanes=[most, fg.Lane("rest")])\n'
        'orders = app.feed("orders", columns={"id": "int64"}, lanes=most)\n' + AGENT
    )
    printed = run("check", "-A", name).stdout
    most, rest = json.loads(run("check", "-A", name, "--json").stdout)["lanes"]

    assert (most["max_age"], most["degrade"]) == (30.0, False)
    assert most["overflow"] == "conflate by id, divert to later, shed"
    assert (rest["max_age"], rest["degrade"], rest["overflow"]) == (None, True, "block")
    assert "conflate by id, divert to later, shed  no" in printed and "30.0 s" in printed


def test_diverting_to_a_feed_of_the_same_app_is_an_error(run: Run, module: Module) -> None:
    name = module(
        'import flowguard as fg\nlane = fg.Lane("lane", overflow=fg.Divert("orders"))\n'
        'app = fg.App("x", broker="kafka://h", lanes=[lane])\norders = app.feed("orders")\n' + AGENT
    )
    assert run("check", "-A", name).exit_code == FAILED
    (error,) = findings(run, name)["error"]
    assert "lane 'lane' diverts to 'orders', which is a feed that this app reads" in error["what"]


def test_conflating_by_a_column_that_nobody_declared_is_an_error(run: Run, module: Module) -> None:
    name = module(
        'import flowguard as fg\nlane = fg.Lane("lane", overflow=fg.Conflate("symbl"))\n'
        'app = fg.App("x", broker="kafka://h", lanes=[lane])\n'
        'orders = app.feed("orders", columns={"symbol": "string"})\n' + AGENT
    )
    assert run("check", "-A", name).exit_code == FAILED
    (error,) = findings(run, name)["error"]
    assert "did you mean 'symbol'?" in error["what"]


def test_conflating_what_the_app_sends_without_keys_is_a_warning(run: Run, module: Module) -> None:
    source = (
        'import flowguard as fg\nlane = fg.Lane("lane", overflow=fg.Conflate())\n'
        'app = fg.App("x", broker="kafka://h", lanes=[lane])\n'
        'orders = app.feed("orders")\nscores = app.feed("scores"KEY)\n'
        "@app.agent(orders, sink=[scores])\n"
        "async def score(batches):\n    async for batch in batches:\n        yield\n"
        "@app.agent(scores)\n"
        "async def read(batches):\n    async for batch in batches:\n        yield\n"
    )

    keyless = findings(run, module(source.replace("KEY", "")))["warning"]
    keyed = findings(run, module(source.replace("KEY", ', key_by="id"')))["warning"]

    assert [each["where"] for each in keyless] == ["feed scores"]
    assert "of which nothing is left out" in keyless[0]["what"]
    assert keyed == []


def test_a_declaration_that_cannot_work_is_an_error(run: Run, module: Module) -> None:
    name = module(
        HEAD + 'app = fg.App("x", broker="kafka://h", processing_guarantee="exactly_once")\n'
        'orders = app.feed("orders")\n' + AGENT
    )
    assert run("check", "-A", name).exit_code == FAILED
    assert "exactly_once" in findings(run, name)["error"][0]["what"]


def test_what_is_worth_knowing_does_not_fail(run: Run, module: Module) -> None:
    name = module(
        HEAD + 'app = fg.App("x", broker="kafka://h", memory="8MiB")\n'
        'orders, lost = app.feed("orders"), app.feed("lost")\n'
        'scores = app.feed("scores")\n'
        "@app.agent(orders, sink=[scores], concurrency=8)\n"
        "async def read(batches):\n    async for batch in batches:\n        yield\n"
    )
    assert run("check", "-A", name).exit_code == OK
    found = findings(run, name)
    assert [each["where"] for each in found["warning"]] == ["feed lost", "memory"]
    assert [each["where"] for each in found["info"]] == ["feed scores"]


def test_each_setting_has_its_origin(
    run: Run, good_app: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLOWGUARD_MEMORY", "64MiB")
    monkeypatch.setenv("FLOWGUARD_BROKER", "kafka://elsewhere:9")
    (tmp_path / "settings.toml").write_text('drain_timeout = "5s"\nbroker = "kafka://weak:1"')
    found = values(
        json.loads(run("check", "-A", good_app, "--config", "settings.toml", "--json").stdout)
    )
    assert found["memory"] == ("64MiB", "FLOWGUARD_MEMORY")
    assert found["drain_timeout"] == ("5s", "settings.toml")
    assert found["lanes.realtime.target"] == (0.05, "code")
    assert found["broker"] == (["kafka://elsewhere:9"], "FLOWGUARD_BROKER")


def test_the_configuration_file_may_name_the_broker(
    run: Run, good_app: str, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.flowguard]\nbroker = "kafka://filed:1"')
    found = values(json.loads(run("check", "-A", good_app, "--json").stdout))
    assert found["broker"] == (["kafka://filed:1"], "pyproject.toml")


def test_no_secret_is_printed(
    run: Run, good_app: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("canary-7391\n")
    monkeypatch.setenv("FLOWGUARD_BROKER_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("FLOWGUARD_BROKER_USERNAME", "me")
    monkeypatch.setenv("FLOWGUARD_BROKER_PASSWORD_FILE", str(tmp_path / "password"))
    result = run("check", "-A", good_app, "--json")
    assert "canary-7391" not in result.output
    assert values(json.loads(result.stdout))["broker_credentials"][0] == "***"


def test_passwords_in_urls_and_tables_are_masked() -> None:
    assert masked_url("redis://me:canary@host/0") == "redis://***:***@host/0"
    assert shown("options", {"sasl_password": "canary", "size": 3}) == {
        "sasl_password": "***", "size": 3,
    }  # fmt: skip


def test_a_report_is_written_to_a_file(run: Run, good_app: str, tmp_path: Path) -> None:
    run("check", "-A", good_app, "--output", "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["result"] == "pass"


def test_a_configuration_file_that_is_not_there(run: Run, good_app: str) -> None:
    result = run("check", "-A", good_app, "--config", "nowhere.toml")
    assert (result.exit_code, result.stderr.count("\n")) == (USAGE, 1)


def test_loops_in_shadow_are_shown_and_unknown_ones_are_errors(
    run: Run, module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = HEAD + 'app = fg.App("shop", broker="kafka://127.0.0.1:1", shadow={"ladder"})\n'
    source = declared + 'orders = app.feed("orders")\n' + AGENT
    document = json.loads(run("-A", module(source), "check", "--json").stdout)
    assert values(document)["shadow"] == (["ladder"], "code")

    monkeypatch.setenv("FLOWGUARD_SHADOW", "brown-out")
    (error,) = findings(run, module(source))["error"]
    assert "did you mean 'brownout'" in error["what"]


def test_an_app_refuses_a_loop_that_does_not_exist(run: Run, module: Module) -> None:
    name = module('import flowguard as fg\napp = fg.App("shop", shadow={"laddr"})\n')
    result = run("-A", name, "check")
    assert result.exit_code != OK and "did you mean 'ladder'" in result.output
