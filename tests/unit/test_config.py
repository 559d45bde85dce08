"""Settings and where they came from."""

from __future__ import annotations

from typing import Any

import pytest

from flowguard.config import AppSettings, read_config_file, resolve
from flowguard.errors import ConfigError
from flowguard.lanes.fairness import Column
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.overflow import Shed
from flowguard.units import MIB

LANES = LaneSet.of([Lane("real-time", target="50ms", reserve=0.5), Lane("backfill")])


def settings(**layers: Any) -> AppSettings:
    given = {"lanes": LANES, "code": {}, "file": {}, "environment": {}, "command_line": {}}
    return resolve(**{**given, "file_name": "app.toml", **layers})


def origin(of: AppSettings, name: str) -> str:
    return next(setting.origin for setting in of.origins if setting.name == name)


def test_without_anything_the_defaults_hold():
    found = settings()

    assert found.memory_bytes == 512 * MIB
    assert found.drain_timeout_s == 25.0
    assert origin(found, "memory") == "default"


LAYERS = [
    ({"code": {"memory": "2MiB"}}, 2, "code"),
    ({"file": {"memory": "3MiB"}}, 3, "app.toml"),
    ({"environment": {"FLOWGUARD_MEMORY": "4MiB"}}, 4, "FLOWGUARD_MEMORY"),
    ({"command_line": {"memory": "5MiB"}}, 5, "command line"),
]


@pytest.mark.parametrize("strongest", range(4))
def test_the_strongest_layer_wins_and_says_so(strongest: int):
    layers: dict[str, Any] = {}
    for layer, *_ in LAYERS[: strongest + 1]:
        layers |= layer

    found = settings(**layers)

    _, mib, where = LAYERS[strongest]
    assert found.memory_bytes == mib * MIB
    assert where in (origin(found, "memory"), "FLOWGUARD_MEMORY")


def test_a_value_from_the_environment_names_its_variable():
    found = settings(environment={"FLOWGUARD_MEMORY": "4MiB"})

    assert origin(found, "memory") == "FLOWGUARD_MEMORY"


def test_an_option_that_was_not_given_hides_nothing():
    found = settings(command_line={"memory": None}, code={"memory": "2MiB"})

    assert found.memory_bytes == 2 * MIB


def test_a_variable_may_name_a_file_that_holds_the_value(tmp_path):
    path = tmp_path / "memory"
    path.write_text("7MiB\n")

    found = settings(environment={"FLOWGUARD_MEMORY_FILE": str(path)})

    assert found.memory_bytes == 7 * MIB


def test_a_file_that_cannot_be_read_is_an_error_that_names_the_variable(tmp_path):
    with pytest.raises(ConfigError, match="FLOWGUARD_MEMORY_FILE"):
        settings(environment={"FLOWGUARD_MEMORY_FILE": str(tmp_path / "none")})


def test_lanes_are_changed_by_variables():
    found = settings(
        environment={
            "FLOWGUARD_LANES__REAL_TIME__TARGET": "20ms",
            "FLOWGUARD_LANES__BACKFILL__WEIGHT": "7",
            "FLOWGUARD_LANES__REAL_TIME__RESERVE": "0.25",
        }
    )

    assert [lane.target_ns for lane in found.lanes] == [20_000_000, None]
    assert [lane.weight for lane in found.lanes] == [1, 7]
    assert found.lanes[0].reserve == 0.25
    assert origin(found, "lanes.real-time.target") == "FLOWGUARD_LANES__REAL_TIME__TARGET"
    assert origin(found, "lanes.backfill.target") == "code"


def test_rates_and_age_limits_are_changed_by_variables_and_fair_shares_stay():
    fair = LaneSet.of([Lane("fair", rate=5, fair_by="tenant")])

    found = settings(
        lanes=fair,
        environment={
            "FLOWGUARD_LANES__FAIR__RATE": "300/min",
            "FLOWGUARD_LANES__FAIR__DEMOTE_AFTER": "1h",
        },
    )

    [lane] = found.lanes
    assert (lane.rate_per_s, lane.demote_after, lane.fair_by) == (5.0, 3600.0, Column("tenant"))


def test_ages_and_degradation_are_changed_by_variables_and_files_and_policies_stay():
    hints = LaneSet.of([Lane("hints", max_age="10s", overflow=Shed(), degrade=False)])

    (kept,) = settings(lanes=hints).lanes
    (changed,) = settings(
        lanes=hints,
        environment={"FLOWGUARD_LANES__HINTS__MAX_AGE": "30s"},
        file={"lanes": {"hints": {"degrade": True, "max_age": "5s"}}},
    ).lanes

    assert (kept.max_age, kept.degrade, kept.policies) == (10.0, False, (Shed(),))
    assert (changed.max_age, changed.degrade, changed.policies) == (30.0, True, (Shed(),))


@pytest.mark.parametrize(
    ("text", "meant"), [("true", True), ("Yes", True), ("1", True), ("off", False), ("0", False)]
)
def test_a_choice_is_read_from_a_variable(text: str, meant: bool):
    lanes = LaneSet.of([Lane("hints")])

    (lane,) = settings(lanes=lanes, environment={"FLOWGUARD_LANES__HINTS__DEGRADE": text}).lanes

    assert lane.degrade is meant


def test_what_is_no_choice_is_refused():
    lanes = LaneSet.of([Lane("hints")])

    with pytest.raises(ConfigError, match="degrade='maybe' is no choice; use true or false"):
        settings(lanes=lanes, environment={"FLOWGUARD_LANES__HINTS__DEGRADE": "maybe"})
    with pytest.raises(ConfigError, match="degrade='no' is no choice"):
        settings(lanes=lanes, file={"lanes": {"hints": {"degrade": "no"}}})


def test_rules_that_name_declared_lanes_find_those_that_settings_changed():
    declared = Lane("real-time", target="50ms")

    found = settings(
        lanes=LaneSet.of([declared]), environment={"FLOWGUARD_LANES__REAL_TIME__TARGET": "20ms"}
    )

    assert found.lanes.rank(declared, used_by="x") == 0


def test_lanes_are_changed_by_files_and_variables_are_stronger():
    file = {"lanes": {"real-time": {"target": "30ms", "weight": 2}}}
    variable = {"FLOWGUARD_LANES__REAL_TIME__TARGET": "20ms"}

    found = settings(file=file, environment=variable)

    assert (found.lanes[0].target_ns, found.lanes[0].weight) == (20_000_000, 2)
    assert origin(found, "lanes.real-time.weight") == "app.toml"


def test_the_option_of_a_lane_may_be_in_a_file_too(tmp_path):
    path = tmp_path / "target"
    path.write_text("20ms")

    found = settings(environment={"FLOWGUARD_LANES__REAL_TIME__TARGET_FILE": str(path)})

    assert found.lanes[0].target_ns == 20_000_000


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("FLOWGUARD_LANES__REAL_TIME__TARGT", "FLOWGUARD_LANES__REAL_TIME__TARGET"),
        ("FLOWGUARD_LANES__BACKFIL__WEIGHT", "FLOWGUARD_LANES__BACKFILL__WEIGHT"),
    ],
)
def test_a_misspelt_variable_of_a_lane_names_the_one_that_was_meant(variable, meant):
    with pytest.raises(ConfigError, match=f"{variable}.*{meant}"):
        settings(environment={variable: "1"})


def test_a_misspelt_option_in_a_file_names_the_one_that_was_meant():
    with pytest.raises(ConfigError, match=r"app\.toml has no option 'memry'; did you mean memory"):
        settings(file={"memry": "1GiB"})
    with pytest.raises(ConfigError, match="did you mean 'backfill'"):
        settings(file={"lanes": {"backfil": {"weight": 2}}})
    with pytest.raises(ConfigError, match="did you mean weight"):
        settings(file={"lanes": {"backfill": {"wieght": 2}}})


@pytest.mark.parametrize("lanes", ["fast", ["backfill"], {"backfill": 5}])
def test_lanes_in_a_file_that_are_no_table_are_a_config_error(lanes):
    with pytest.raises(ConfigError, match=r"app\.toml"):
        settings(file={"lanes": lanes})


@pytest.mark.parametrize(
    ("variable", "text"),
    [("WEIGHT", "many"), ("RESERVE", "half"), ("TARGET", "soon"), ("WEIGHT", "0")],
)
def test_a_value_of_a_lane_that_cannot_be_read_is_a_config_error(variable, text):
    with pytest.raises(ConfigError, match=variable.lower()):
        settings(environment={f"FLOWGUARD_LANES__BACKFILL__{variable}": text})


def test_less_memory_than_a_worker_needs_is_refused():
    with pytest.raises(ConfigError, match="needs 1MiB or more"):
        settings(code={"memory": "100KiB"})


def test_a_timeout_that_is_no_duration_is_a_config_error():
    with pytest.raises(ConfigError, match="drain_timeout"):
        settings(file={"drain_timeout": "later"})


def test_other_variables_are_not_ours():
    assert settings(environment={"HOME": "/root", "MEMORY": "1MiB"}).memory_bytes == 512 * MIB


def test_a_config_file_is_toml(tmp_path):
    path = tmp_path / "app.toml"
    path.write_text('memory = "2MiB"\n[lanes.backfill]\nweight = 3\n')

    table, name = read_config_file(str(path))

    assert (name, settings(file=table).lanes[1].weight) == (str(path), 3)


def test_pyproject_is_read_where_no_file_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_config_file(None) == ({}, "pyproject.toml")
    (tmp_path / "pyproject.toml").write_text('[tool.flowguard]\nmemory = "2MiB"\n')

    assert read_config_file(None) == ({"memory": "2MiB"}, "pyproject.toml")


@pytest.mark.parametrize("text", ["memory = ", "\x00", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_a_config_error(tmp_path, text):
    path = tmp_path / "app.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(ConfigError, match="cannot be read"):
        read_config_file(str(path))


def test_a_named_file_that_does_not_exist_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        read_config_file(str(tmp_path / "none.toml"))


# Loops in shadow.


@pytest.mark.parametrize(
    ("layers", "expected", "where"),
    [
        ({}, set(), "default"),
        ({"code": {"shadow": ["ladder"]}}, {"ladder"}, "code"),
        ({"file": {"shadow": ["brownout", "shed"]}}, {"brownout", "shed"}, "app.toml"),
        ({"environment": {"FLOWGUARD_SHADOW": "ladder, shed"}}, {"ladder", "shed"},
         "FLOWGUARD_SHADOW"),
        ({"code": {"shadow": ["ladder"]}, "environment": {"FLOWGUARD_SHADOW": ""}}, set(),
         "FLOWGUARD_SHADOW"),
        ({"code": {"shadow": {"ladder": True, "shed": False}}}, {"ladder"}, "code"),
    ],
)  # fmt: skip
def test_loops_in_shadow_come_from_any_layer(
    layers: dict[str, Any], expected: set[str], where: str
):
    found = settings(**layers)

    assert found.shadow == expected
    assert origin(found, "shadow") == where
    assert next(each.value for each in found.origins if each.name == "shadow") == sorted(expected)


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ({"code": {"shadow": ["laddr"]}},
         "shadow: there is no control loop 'laddr'; did you mean 'ladder'"),
        ({"environment": {"FLOWGUARD_SHADOW": "ladder,brown-out"}},
         "FLOWGUARD_SHADOW: there is no control loop 'brown-out'; did you mean 'brownout'"),
        ({"file": {"shadow": ["xyzzy"]}}, "app.toml: .*'xyzzy'; use concurrency, batch-size"),
        ({"file": {"shadow": 7}}, "7 names no control loops"),
        ({"file": {"shadow": {"ladr": False}}}, "did you mean 'ladder'"),
        ({"file": {"shadow": [["ladder"]]}}, "there is no control loop"),
    ],
)  # fmt: skip
def test_a_loop_that_does_not_exist_is_an_error(layers: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says):
        settings(**layers)


# The worker's name in its group.


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ({}, ""),
        ({"code": {"instance_id": "blue-1"}}, "blue-1"),
        ({"environment": {"FLOWGUARD_INSTANCE_ID": "green"}}, "green"),
        ({"command_line": {"instance_id": "red.2_x"}}, "red.2_x"),
    ],
)
def test_the_instance_id_comes_from_any_layer(layers: dict[str, Any], expected: str):
    assert settings(**layers).instance_id == expected


@pytest.mark.parametrize("value", ["", "a b", "ä", "x" * 101, "a/b", 7])
def test_an_instance_id_that_kafka_does_not_take_is_an_error_that_says_where_it_is(value: object):
    with pytest.raises(ConfigError, match=r"^command line: instance_id=.* for each worker another"):
        settings(command_line={"instance_id": value})
