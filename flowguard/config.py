"""Settings of an app, each with the place it came from.

Strongest first: command line, environment (`FLOWGUARD_MEMORY`,
`FLOWGUARD_LANES__REALTIME__TARGET`; with `_FILE` appended, the file that holds the value),
the configuration file, arguments in code, defaults.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flowguard.control.decision import LOOPS
from flowguard.errors import ConfigError
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.suggest import nearest, reject_unknown
from flowguard.units import MIB, duration_ns, size_bytes

__all__ = ["AppSettings", "Origin", "Setting", "read_config_file", "resolve"]

MEMORY_MIN: Final = MIB
PREFIX: Final = "FLOWGUARD_"
LANE_PREFIX: Final = "FLOWGUARD_LANES__"

#: Option → default. Lanes have their own below.
DEFAULTS: Final[Mapping[str, Any]] = {
    "memory": "512MiB",
    "drain_timeout": "25s",
    "spill_dir": None,  # depends on the app
    "shadow": (),
    "instance_id": "",  # the worker finds one
}
YES_OR_NO: Final = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip
#: What Kafka takes as a group instance id, with room for the app and a digest.
INSTANCE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")

LANE_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "target": str,
    "reserve": float,
    "weight": int,
    "rate": str,
    "demote_after": str,
    "max_age": str,
    "degrade": lambda text: YES_OR_NO[text.strip().lower()],
}

Origin = str
ENVIRONMENT: Final = "environment"


@dataclass(frozen=True, slots=True)
class Setting:
    """One value and where it came from."""

    name: str
    value: Any
    origin: Origin


@dataclass(frozen=True, slots=True)
class AppSettings:
    """What an app with feeds is configured with.

    Args:
        memory_bytes: Most bytes that feeds hold.
        drain_timeout_s: How long stopping waits for what is in flight.
        spill_dir: Where lanes spill to.
        lanes: The lanes, with what environment and file changed in them.
        shadow: Control loops that only say what they would do.
        instance_id: What this worker is called in its group; empty if nobody chose a name.
        origins: Every value with its origin, for people.
    """

    memory_bytes: int
    drain_timeout_s: float
    spill_dir: str
    lanes: LaneSet
    shadow: frozenset[str]
    instance_id: str
    origins: tuple[Setting, ...]


def resolve(
    *,
    lanes: LaneSet,
    code: Mapping[str, Any],
    file: Mapping[str, Any],
    file_name: str = "the configuration file",
    environment: Mapping[str, str],
    command_line: Mapping[str, Any],
    spill_dir: str = "spill",
) -> AppSettings:
    """Return the settings of an app.

    Args:
        lanes: As declared in code.
        code: Options given to `App`; None means not given.
        file: The parsed table of the configuration file.
        environment: All variables; those that do not begin with FLOWGUARD_ are ignored.
        command_line: Options given there; None means not given.
        spill_dir: Where lanes spill to unless something else is said.

    Raises:
        ConfigError: An option is unknown or its value cannot be read.
    """
    known = (*DEFAULTS, "broker", "lanes")
    reject_unknown(set(file) - {"broker", "lanes"}, known=known, owner=file_name)
    variables = read_variables(environment)
    layers: list[tuple[Mapping[str, Any], str]] = [
        (command_line, "command line"),
        ({name: value for name, (value, _) in variables.items()}, ENVIRONMENT),
        (file, file_name),
        (code, "code"),
        ({**DEFAULTS, "spill_dir": spill_dir}, "default"),
    ]
    settings = {name: first_of(name, layers) for name in DEFAULTS}
    for name, setting in settings.items():
        if setting.origin == ENVIRONMENT:
            settings[name] = Setting(name, setting.value, variables[name][1])
    changed, lane_origins = change_lanes(lanes, environment, file.get("lanes", {}), file_name)
    shadow = settings["shadow"]
    loops = parse_shadow(shadow.value, owner="shadow" if shadow.origin == "code" else shadow.origin)
    settings["shadow"] = Setting("shadow", sorted(loops), shadow.origin)
    memory_bytes = size_bytes(settings["memory"].value, name="memory")
    if memory_bytes < MEMORY_MIN:
        raise ConfigError(
            f"memory={settings['memory'].value!r} is too little; a worker needs 1MiB or more"
        )
    return AppSettings(
        memory_bytes=memory_bytes,
        drain_timeout_s=duration_ns(settings["drain_timeout"].value, name="drain_timeout") / 1e9,
        spill_dir=str(settings["spill_dir"].value),
        lanes=changed,
        shadow=loops,
        instance_id=parse_instance_id(settings["instance_id"]),
        origins=(*settings.values(), *lane_origins),
    )


def parse_shadow(value: object, *, owner: str) -> frozenset[str]:
    """Return the control loops that only say what they would do.

    Args:
        value: Their names; or text, with commas between them; or a mapping of names to
            whether they are meant.
        owner: Where it was written, for the error.

    Raises:
        ConfigError: There is no such loop; the message names the nearest one.
    """
    if isinstance(value, str):
        value = [each for part in value.split(",") if (each := part.strip())]
    if isinstance(value, Mapping):
        reject_loops(value, owner)
        value = [name for name, meant in value.items() if meant]
    if not isinstance(value, Iterable):
        raise ConfigError(f"{owner}: {value!r} names no control loops; use {', '.join(LOOPS)}")
    names = list(value)
    reject_loops(names, owner)
    return frozenset(names)


def reject_loops(names: Iterable[object], owner: str) -> None:
    """Raise ConfigError for the first that is no control loop."""
    for name in names:
        if name not in LOOPS:
            like = nearest(str(name), LOOPS)
            hint = f"did you mean {like!r}?" if like else f"use {', '.join(LOOPS)}"
            raise ConfigError(f"{owner}: there is no control loop {name!r}; {hint}")


def parse_instance_id(setting: Setting) -> str:
    """Return what a worker is called in its group, empty if nobody chose a name.

    Raises:
        ConfigError: Kafka would not take it.
    """
    if setting.origin == "default":
        return ""
    if isinstance(setting.value, str) and INSTANCE_ID.fullmatch(setting.value):
        return setting.value
    owner = "App" if setting.origin == "code" else setting.origin
    raise ConfigError(
        f"{owner}: instance_id={setting.value!r} cannot be used; take 1 to 100 letters, "
        "digits, '.', '_' or '-', and for each worker another one"
    )


def first_of(name: str, layers: list[tuple[Mapping[str, Any], str]]) -> Setting:
    """Return the strongest value of an option."""
    for layer, origin in layers:
        if layer.get(name) is not None:
            return Setting(name, layer[name], origin)
    raise ConfigError(f"{name} has no value")


def read_variables(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return option → (value, variable) for the variables that are options of an app.

    Raises:
        ConfigError: A file that a `_FILE` variable names cannot be read.
    """
    found: dict[str, tuple[str, str]] = {}
    for option in DEFAULTS:
        value = read_variable(environment, PREFIX + option.upper())
        if value is not None:
            found[option] = (value, PREFIX + option.upper())
    return found


def read_variable(environment: Mapping[str, str], name: str) -> str | None:
    """Return the value of a variable, or of the file that its `_FILE` twin names."""
    if name in environment:
        return environment[name]
    path = environment.get(f"{name}_FILE")
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{name}_FILE: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:  # its text shows what is in the file
        raise ConfigError(f"{name}_FILE: cannot read {path}: it is no text") from None


def change_lanes(
    lanes: LaneSet, environment: Mapping[str, str], file: Mapping[str, Any], file_name: str
) -> tuple[LaneSet, list[Setting]]:
    """Return the lanes with what environment and file change, and where each value is from."""
    check_lane_names(lanes, environment, file, file_name)
    changed: list[Lane] = []
    origins: list[Setting] = []
    for lane in lanes:
        options: dict[str, Any] = {}
        declared = {
            "target": lane.target,
            "reserve": lane.reserve,
            "weight": lane.weight,
            "rate": lane.rate_per_s,
            "demote_after": lane.demote_after,
            "max_age": lane.max_age,
            "degrade": lane.degrade,
        }
        for option in LANE_OPTIONS:
            variable = f"{LANE_PREFIX}{variable_name(lane.name)}__{option.upper()}"
            text = read_variable(environment, variable)
            table = file.get(lane.name, {})
            if text is not None:
                setting = Setting(f"lanes.{lane.name}.{option}", parse_text(option, text), variable)
            elif option in table:
                setting = Setting(f"lanes.{lane.name}.{option}", table[option], file_name)
            else:
                setting = Setting(f"lanes.{lane.name}.{option}", declared[option], "code")
            options[option] = setting.value
            origins.append(setting)
        changed.append(Lane(lane.name, fair_by=lane.fair_by, overflow=lane.overflow, **options))
    return LaneSet(tuple(changed), declared=lanes.lanes), origins


def check_lane_names(
    lanes: LaneSet, environment: Mapping[str, str], file: Mapping[str, Any], file_name: str
) -> None:
    """Raise ConfigError for lanes and lane options that do not exist."""
    names = {lane.name for lane in lanes}
    if not isinstance(file, Mapping):
        raise ConfigError(f"{file_name}: lanes={file!r} is no table; write [lanes.NAME]")
    for name, table in file.items():
        if name not in names:
            raise ConfigError(unknown_lane(f"{file_name}: lanes.{name}", name, names))
        if not isinstance(table, Mapping):
            raise ConfigError(f"{file_name}: lanes.{name}={table!r} is no table of options")
        reject_unknown(table, known=LANE_OPTIONS, owner=f"{file_name}: lanes.{name}")
    known = {
        f"{LANE_PREFIX}{variable_name(name)}__{option.upper()}{suffix}"
        for name in names
        for option in LANE_OPTIONS
        for suffix in ("", "_FILE")
    }
    for variable in environment:
        if variable.startswith(LANE_PREFIX) and variable not in known:
            like = nearest(variable, known)
            raise ConfigError(f"{variable} is no setting of this app; did you mean {like}?")


def unknown_lane(owner: str, name: str, names: set[str]) -> str:
    like = nearest(name, names)
    hint = f"did you mean {like!r}?" if like else f"lanes are {', '.join(sorted(names))}"
    return f"{owner}: the app has no such lane; {hint}"


def variable_name(lane: str) -> str:
    """Return a lane's name as it is written in a variable."""
    return lane.upper().replace("-", "_")


def parse_text(option: str, text: str) -> Any:
    """Return a lane option from text."""
    try:
        return LANE_OPTIONS[option](text)
    except ValueError:
        raise ConfigError(f"lane option {option}={text!r} is no number") from None
    except KeyError:
        raise ConfigError(
            f"lane option {option}={text!r} is no choice; use true or false"
        ) from None


def read_config_file(path: str | None) -> tuple[dict[str, Any], str]:
    """Return the table of settings in a TOML file, and the file's name.

    Args:
        path: The file; None reads `[tool.flowguard]` of `pyproject.toml`, if it is there.

    Raises:
        ConfigError: The file cannot be read or is no TOML.
    """
    name = path or "pyproject.toml"
    try:
        document = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path is None:
            return {}, name
        raise ConfigError(f"--config {name}: there is no such file") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} cannot be read: {error}") from error
    table = document.get("tool", {}).get("flowguard", {}) if path is None else document
    return table, name
