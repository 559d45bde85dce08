"""Who may import whom: the table of the architecture, checked against the code.

    0  units, clock, errors, suggest          4  services and other I/O, agents, observe
    1  chunk, facts, commands, config, batch  5  app, worker, runtime
    2  the pure files of each stage           6  stress, bench, testing
    3  engine                                 7  cli

A module imports its own layer and lower ones. Imports for type checking only do not count.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import flowguard

ROOT = Path(flowguard.__file__).parent

PURE_STAGES = ("lanes", "settle", "control", "dispatch", "schedule", "spill")

#: Files of a stage that do I/O, or belong to the Faust side.
LAYER_4 = {
    "flowguard.settle.service",
    "flowguard.settle.letter_writer",
    "flowguard.intake.fetcher",
    "flowguard.intake.connection",
    "flowguard.intake.fetch_request",
    "flowguard.intake.assignor",
    "flowguard.intake.client",
    "flowguard.intake.consumer",
    "flowguard.intake.consumer_thread",
    "flowguard.intake.coordinator",
    "flowguard.intake.place",
    "flowguard.intake.lineup",
    "flowguard.intake.lost_offsets",
    "flowguard.intake.parcel",
    "flowguard.intake.produce_broker",
    "flowguard.intake.produce_connection",
    "flowguard.intake.producer",
    "flowguard.intake.schema_registry",
    "flowguard.intake.range_reader",
    "flowguard.intake.positions",
    "flowguard.intake.sender",
    "flowguard.intake.creation",
    "flowguard.intake.tables",
    "flowguard.intake.unawaited",
    "flowguard.intake.topic_lives",
    "flowguard.spill.disk",
    "flowguard.spill.filesystem",
    "flowguard.spill.inspection",
    "flowguard.spill.opening",
    "flowguard.spill.purging",
    "flowguard.spill.store",
}

LAYERS = {
    "flowguard.units": 0, "flowguard.clock": 0, "flowguard.errors": 0, "flowguard.suggest": 0,
    "flowguard.printable": 0,
    "flowguard.chunk": 1, "flowguard.facts": 1, "flowguard.commands": 1, "flowguard.batch": 1,
    "flowguard.config": 1, "flowguard.snapshot": 1, "flowguard.trace_context": 1,
    "flowguard.engine": 3, "flowguard.holdings": 3, "flowguard.tally": 3, "flowguard.view": 3,
    "flowguard.situation": 3, "flowguard.overflow": 3, "flowguard.steering": 3,
    "flowguard.precedence": 3, "flowguard.seats": 3, "flowguard.failing": 3, "flowguard.parting": 3,
    "flowguard.closures": 3, "flowguard.selection": 1,
    "flowguard.dimming": 3, "flowguard.serving": 3, "flowguard.queue_waits": 3,
    "flowguard.backlog": 3, "flowguard.conflation": 3, "flowguard.diversion": 3,
    "flowguard.gate": 3, "flowguard.leaving": 3, "flowguard.unprocessed": 3,
    "flowguard.line": 3, "flowguard.lines": 3, "flowguard.reuse": 3, "flowguard.spilling": 3,
    "flowguard.app": 5, "flowguard.worker": 5, "flowguard.runtime": 5, "flowguard.web": 5,
    "flowguard.security": 4, "flowguard.spill_service": 4, "flowguard.faust_conf": 5,
    "flowguard.declared": 5, "flowguard.membership": 5, "flowguard.delivery": 5,
    "flowguard.ending": 5,
    "flowguard.refusal": 5,
    "flowguard.pressure_topic": 4, "flowguard.upstream": 4,
}  # fmt: skip

PREFIXES = [
    ("flowguard.agents.", 4), ("flowguard.observe.", 4), ("flowguard.intake.codec", 2),
    ("flowguard.intake.", 2), ("flowguard.stress", 6), ("flowguard.bench", 6),
    ("flowguard.testing", 6), ("flowguard.cli", 7),
    *((f"flowguard.{stage}", 2) for stage in PURE_STAGES),
]  # fmt: skip

#: Importer → what it may import from a higher layer, and why.
UPWARD = {
    ("flowguard.config", "flowguard.lanes.lane"): "settings change the lanes that were declared",
    ("flowguard.config", "flowguard.lanes.lane_set"): "settings change the lanes",
    ("flowguard.config", "flowguard.control.decision"): "settings name the control loops",
    ("flowguard.snapshot", "flowguard.control.decision"): "it shows decisions as they are",
    ("flowguard.snapshot", "flowguard.control.pressure"): "it shows pressure as it is",
    ("flowguard.batch", "flowguard.lanes.lane"): "Batch.lane is a Lane",
}

#: What a pure file must not touch: time, chance, tasks, threads, files, logging.
IMPURE = {"time", "random", "asyncio", "threading", "logging", "pathlib", "os", "socket",
          "subprocess", "concurrent"}  # fmt: skip
ALLOWED_IMPURE = {
    ("flowguard.clock", "time"): "it is the clock of this machine, passed as an argument",
    ("flowguard.control.memory", "threading"): "Lock only: two threads charge one budget",
    ("flowguard.config", "pathlib"): "reads the configuration file before anything starts",
}

FAUST = {"faust", "aiokafka", "mode"}
FAUST_PLACES = (
    "flowguard.intake.", "flowguard.agents.", "flowguard.app", "flowguard.runtime",
    "flowguard.delivery", "flowguard.worker", "flowguard.cli", "flowguard.web",
    "flowguard.faust_conf", "flowguard.membership",
    "flowguard.faust_conf", "flowguard.refusal",
    "flowguard.bench", "flowguard.observe.web", "flowguard.observe.service",
    "flowguard.stress.cluster", "flowguard.stress.sender", "flowguard.stress.reader",  # as clients
    "flowguard.upstream",  # aiokafka only: it is a client of its own
    "flowguard.testing.",  # stand-ins for aiokafka, and lives of a Faust app
)  # fmt: skip


#: Programs of other frameworks, which the extra `bench` installs.
OPTIONAL = "flowguard.bench.peers."


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(path: Path) -> set[str]:
    """Return what a module imports when it runs, as dotted names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped |= {id(each) for part in node.body for each in ast.walk(part)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            as_module = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = as_module & MODULES.keys()
            found |= modules
            if len(modules) < len(as_module):
                found.add(node.module)
    return found


def layer_of(module: str) -> int | None:
    """Return a module's layer; None for packages that only hold their design."""
    if module in LAYER_4:
        return 4
    if module in LAYERS:
        return LAYERS[module]
    for prefix, layer in PREFIXES:
        if module.startswith(prefix):
            return layer
    return None


def stage_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_its_own_layer_and_lower_ones(module: str) -> None:
    layer = layer_of(module)
    for imported in imports_of(MODULES[module]):
        above = layer_of(imported) if imported.startswith("flowguard") else None
        if layer is None or above is None or (module, imported) in UPWARD:
            continue
        assert above <= layer, f"{module} (layer {layer}) imports {imported} (layer {above})"


@pytest.mark.parametrize("module", [each for each in MODULES if layer_of(each) == 2])
def test_stages_do_not_import_one_another(module: str) -> None:
    for imported in imports_of(MODULES[module]):
        if layer_of(imported) != 2 or imported.startswith("flowguard.lanes"):
            continue
        assert stage_of(imported) == stage_of(module), f"{module} imports {imported}"


@pytest.mark.parametrize(
    "module", [each for each in MODULES if (layer := layer_of(each)) is not None and layer <= 3]
)
def test_what_decides_uses_no_time_chance_tasks_files_or_logging(module: str) -> None:
    for imported in imports_of(MODULES[module]):
        top = imported.split(".")[0]
        if top in IMPURE:
            assert (module, top) in ALLOWED_IMPURE, f"{module} imports {imported}"


@pytest.mark.parametrize("module", [m for m in MODULES if "stress.simulator" in m])
def test_the_simulator_uses_no_time_chance_tasks_files_or_logging(module: str) -> None:
    assert not {each.split(".")[0] for each in imports_of(MODULES[module])} & IMPURE


@pytest.mark.parametrize("module", MODULES)
def test_faust_and_aiokafka_are_used_only_at_the_edges(module: str) -> None:
    if module.startswith(FAUST_PLACES):
        return
    used = {each.split(".")[0] for each in imports_of(MODULES[module])} & FAUST
    assert not used, f"{module} imports {', '.join(used)}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("flowguard.stress")])
def test_the_stress_lab_does_not_import_faust(module: str) -> None:
    assert not {each.split(".")[0] for each in imports_of(MODULES[module])} & {"faust", "mode"}


@pytest.mark.parametrize(
    "module", [m for m in MODULES if (n := layer_of(m)) is not None and n <= 3]
)
def test_stages_never_import_what_shows_them(module: str) -> None:
    shown = ("flowguard.observe", "flowguard.cli", "flowguard.stress", "flowguard.bench")
    assert not [each for each in imports_of(MODULES[module]) if each.startswith(shown)]


def test_every_exception_in_these_tables_is_still_needed() -> None:
    for module, imported in UPWARD:
        assert imported in imports_of(MODULES[module]), f"{module} no longer needs {imported}"
    for module, top in ALLOWED_IMPURE:
        tops = {each.split(".")[0] for each in imports_of(MODULES[module])}
        assert top in tops, f"{module} no longer imports {top}"


def test_every_module_has_a_layer() -> None:
    without = [
        module
        for module, path in MODULES.items()
        if layer_of(module) is None
        and path.name != "__init__.py"
        and not module.startswith("flowguard._native")
    ]
    assert not without, f"add to the table: {', '.join(without)}"


# The public names.


def test_everything_public_exists_and_nothing_else_is_exported() -> None:
    assert sorted(flowguard.__all__) == list(flowguard.__all__)
    for name in flowguard.__all__:
        assert hasattr(flowguard, name), name


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith(OPTIONAL)])
def test_all_names_what_a_module_has(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = ast.literal_eval(node.value)
            loaded = importlib.import_module(module)
            assert all(hasattr(loaded, name) for name in names)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_module_class_and_function_has_a_docstring(module: str) -> None:
    if MODULES[module].stat().st_size == 0:
        return
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    missing = [] if ast.get_docstring(tree) else [module]
    for owner, node in public_definitions(tree):
        if ast.get_docstring(node) is None:
            missing.append(f"{owner}{node.name}")
    assert not missing, f"{module}: {', '.join(missing)}"


def public_definitions(
    tree: ast.Module,
) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Return the classes, functions and methods that others may use."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    exported = {
        name
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for name in ast.literal_eval(node.value)
    }
    found: list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]] = []
    for node in tree.body:
        if not isinstance(node, kinds) or node.name not in exported:
            continue
        found.append(("", node))
        if isinstance(node, ast.ClassDef):
            found += [
                (f"{node.name}.", each)
                for each in node.body
                if isinstance(each, kinds) and not each.name.startswith("_")
            ]
    return found


def test_public_classes_say_what_their_arguments_mean() -> None:
    for name in flowguard.__all__:
        public = getattr(flowguard, name)
        if inspect.isclass(public) and not issubclass(public, Exception):
            assert public.__doc__ and len(public.__doc__.strip()) > 20, name
