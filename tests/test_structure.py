"""The tree: which way imports point, what one costs, who touches modules, and that public names are documented."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .house import FILES, INIT, ROOT, TREES, floors, module_of, own_imports, room_of, rooms

MAY_IMPORT: dict[str, set[str]] = {
    "_shared": set(),
    "tiny": {"_shared"},
    "_layout": {"_shared"},
    "targets": {"_shared"},
    "methods": {"_shared"},
    "image": {"_shared"},
    "zoo": {"_shared", "tiny"},
    "_cut": {"_layout", "targets"},
    "factorize": {"targets"},
    "layout": {"_cut"},
    "_layers": {"_cut"},
    "layers": {"_layers"},
    "attention": {"_cut"},
    "transforms": {"_cut"},
    "network": {"_cut", "methods"},
    "metrics": {"_cut", "image"},
    "_check": {"metrics"},
    INIT: {"_check"},
    "adapters": {INIT, "image"},
    "demo": {INIT, "image", "layers", "methods", "zoo"},
    "catalogue": {"attention", "methods", "network"},
    "export": {"catalogue", "_cut", "image"},
    "explore": {"catalogue", "layers", "layout", "image"},
    "words": {"catalogue", "_cut", "image"},
    "_photos": {INIT, "catalogue", "layers", "layout", "transforms", "zoo"},
    "evaluate": {"_photos", "image", "metrics"},
    "training": {INIT, "image", "layout", "methods"},
    "cli": {"evaluate", "words", "explore", "export", "factorize"},
    "__main__": {"cli"},
}
"""The rooms that each room stands on; it may also import what these may."""

INSIDE: dict[str, tuple[str, ...]] = {
    "evaluate": ("_inputs", "_measures", "_store", "_runs", "_tables", "_suite", "_tune", INIT),
    "methods": ("_checks", "_activation", "_gradient", "_perturbation", "_black_box", "_edges", INIT),
    "zoo": ("_weights", "_names", "_photo", "_given", "_libraries", "_load", INIT),
    "words": ("_prompt", "_maps", "_measures", "_draw", INIT),
    "cli": ("_accidents", "_options", "_files", "_jobs", "_terminal", "_commands", "_app", INIT),
    "metrics": (
        "_common",
        "_complexity",
        "_randomization",
        "_localization",
        "_faithfulness",
        "_robustness",
        "_axioms",
        INIT,
    ),
}
"""The rooms, and the single files, inside of a room; each may import those before it."""

CORE = set(MAY_IMPORT) - {
    "zoo",
    "image",
    "tiny",
    "adapters",
    "demo",
    "export",
    "explore",
    "training",
    "words",
    "_photos",
    "evaluate",
    "cli",
    "__main__",
}
"""Rooms that need torch and einops alone."""

ON_USE = {
    "metrics._complexity": {"numpy"},
    "metrics._faithfulness.multigrid": {"numpy"},
    "targets._detections": {"ultralytics"},
    "tiny._train": {"sklearn"},
}
"""What else a core module may import, inside a function."""

HEAVY = {"kornia", "timm", "torchvision", "matplotlib", "PIL", "scipy", "skimage", "typer", "rich", "pandas"}


def outside_imports(name: str) -> set[str]:
    """Top-level packages, other than camfn and the standard library, that a module imports anywhere."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"camfn"}


def below(room: str) -> set[str]:
    """All rooms that a room may import: those of its row, and those of their rows."""
    return MAY_IMPORT[room].union(*map(below, MAY_IMPORT[room]))


def test_imports_are_read_right() -> None:
    """The reader of imports itself, on one of each kind."""
    assert own_imports("methods._gradient.gradient") == {"_shared.maps", "methods._checks"}
    assert {"_cut.graft", "_layout.readings", "_shared.vocabulary", "targets.__init__"} <= own_imports("_cut.capture")
    assert {"_cut.capture", "_cut.explainer", "_shared.vocabulary"} <= own_imports(INIT)
    assert "methods._gradient.gradient" in own_imports("methods.__init__")
    assert outside_imports("_shared.maps") == {"torch", "einops"}


def test_every_room_has_its_row() -> None:
    assert set(MAY_IMPORT) == set(rooms())


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_point_one_way(room: str) -> None:
    assert rooms()[room] <= below(room)


@pytest.mark.parametrize("name", [name for name in sorted(FILES) if room_of(name) in INSIDE])
def test_rooms_inside_of_a_room_stand_on_those_before(name: str) -> None:
    order = INSIDE[room_of(name)]
    at = order.index(name.split(".")[1])
    inside = {other.split(".")[1] for other in own_imports(name) if room_of(other) == room_of(name)}
    assert inside <= set(order[: at + 1])


def test_the_house_is_small() -> None:
    assert len(rooms()) <= 29
    assert max(floors().values()) <= 10
    assert sum(map(len, rooms().values())) <= 124


def test_no_private_file_lies_flat() -> None:
    assert not [name for name in FILES if name.startswith("_") and "." not in name and not name.startswith("__")]


@pytest.mark.parametrize("name", [name for name in sorted(FILES) if room_of(name) in CORE])
def test_core_needs_torch_and_einops_only(name: str) -> None:
    # torch itself needs typing_extensions
    assert outside_imports(name) <= {"torch", "einops", "typing_extensions"} | ON_USE.get(name, set())


def test_imports_have_no_cycle() -> None:
    order = list(TopologicalSorter({name: own_imports(name) for name in FILES}).static_order())
    assert set(order) == set(FILES)


@pytest.mark.parametrize("name", sorted(set(FILES) - {"_cut.graft", "_cut.hidden", "_cut.traced"}))
def test_only_three_files_touch_the_insides_of_modules(name: str) -> None:
    inside = {
        "_modules",
        "_parameters",
        "_buffers",
        "_forward_hooks",
        "_forward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
        "_backward_hooks",
    }
    used = {node.attr for node in ast.walk(TREES[name]) if isinstance(node, ast.Attribute)}
    used |= {
        node.value for node in ast.walk(TREES[name]) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not used & inside


# ---------------------------------------------------------------------------------------------------- cost of an import


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120, cwd=ROOT.parent
    ).stdout


@pytest.mark.parametrize(
    "modules",
    [
        "camfn",
        "camfn, camfn.methods, camfn.metrics, camfn.network, camfn.targets, camfn.layers, camfn.layout, camfn.image, "
        "camfn.factorize",
    ],
)
def test_import_loads_nothing_heavy(modules: str) -> None:
    loaded = run(
        f"import torch, sys; before = set(sys.modules); import {modules};"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    ).split()
    assert "camfn" in loaded
    assert not HEAVY & set(loaded)


def test_import_costs_at_most_a_tenth_of_a_second_above_torch() -> None:
    # of the processor, which a busy machine does not lengthen
    program = "import torch, time; start = time.process_time(); import camfn; print(time.process_time() - start)"
    best = float("inf")
    for _ in range(5):
        best = min(best, float(run(program)))
        if best <= 0.1:
            break
    assert best <= 0.1


def test_public_modules_are_reachable_after_import_camfn_alone() -> None:
    names = [name.removeprefix("camfn.") for name in public_modules() if name.count(".") == 1]
    assert {"layout", "layers", "image", "methods", "evaluate"} <= set(names)
    run("import camfn;" + ";".join(f"camfn.{name}" for name in names))
    run("import camfn; assert {'layout', 'evaluate'} <= set(dir(camfn)); assert not hasattr(camfn, 'nothing')")


# -------------------------------------------------------------------------------------------------------- documentation


def public_modules() -> list[str]:
    """Modules of the library; `cli` and `demo` are commands, not functions to call."""
    names = [name.removesuffix(INIT).rstrip(".") for name in FILES]
    public = [name for name in names if not any(part.startswith("_") for part in name.split("."))]
    return [".".join(filter(None, ["camfn", name])) for name in public if name not in ("cli", "demo")]


def exported(module: ModuleType) -> set[str]:
    """Public names that a module defines, or passes on with `import x as x`."""
    tree = TREES[module_of(module.__name__)]
    names: set[str] = set()
    # `camfn` itself loads its names on use, and imports them for type checkers alone
    inside = [node for block in tree.body if isinstance(block, ast.If) for node in block.body]
    for node in [*tree.body, *inside]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names if alias.asname == alias.name}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


PUBLIC = [(name, key) for name in public_modules() for key in sorted(exported(importlib.import_module(name)))]
every_name = pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[".".join(pair) for pair in PUBLIC])


def documented_assignments() -> set[str]:
    """Names that are assigned at the top of a module, with a string below."""
    return {
        before.target.id
        for tree in TREES.values()
        for before, after in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
    }


def test_public_names_are_found() -> None:
    assert {"camfn", "camfn.methods", "camfn.targets", "camfn.image", "camfn.layers"} <= set(public_modules())
    assert {
        ("camfn", "capture"),
        ("camfn", "Target"),
        ("camfn.methods", "grad_cam"),
        ("camfn.image", "montage"),
    } <= set(PUBLIC)


@every_name
def test_public_name_has_a_docstring(module: str, name: str) -> None:
    value = getattr(importlib.import_module(module), name)
    if inspect.isfunction(value) or inspect.isclass(value):
        assert value.__doc__
        assert not value.__doc__.startswith(f"{name}(")  # what a dataclass or a NamedTuple writes for itself
    else:
        assert name in documented_assignments()


def functions() -> list[Any]:
    found = []
    for module, name in PUBLIC:
        if inspect.isfunction(getattr(importlib.import_module(module), name)):
            found.append(pytest.param(module, name, id=f"{module}.{name}"))
    return found


@pytest.mark.parametrize(("module", "name"), functions())
def test_public_function_has_an_example(module: str, name: str) -> None:
    """That the examples run is what `pytest --doctest-modules camfn` sees to."""
    value = getattr(importlib.import_module(module), name)
    assert "Example:" in (inspect.getdoc(value) or "")
    assert doctest.DocTestParser().get_examples(value.__doc__)


@pytest.mark.parametrize("name", sorted(FILES))
def test_module_has_a_docstring(name: str) -> None:
    assert ast.get_docstring(TREES[name])


@pytest.mark.parametrize("name", [name for name in sorted(FILES) if not name.endswith("__")])
def test_module_has_its_twin_among_the_tests_or_says_where_it_is_tested(name: str) -> None:
    *folders, file = [part.lstrip("_") for part in name.split(".")]
    twin = Path(__file__).parent.joinpath(*folders, f"test_{file}.py")
    said = re.search(r"^# tested in (.+)$", FILES[name].read_text(encoding="utf-8"), re.MULTILINE)
    assert twin.is_file() or said
    for path in re.findall(r"tests/\S+\.py", said[1]) if said else ():
        assert ROOT.parent.joinpath(path).is_file()
