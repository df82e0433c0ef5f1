"""The repository's own rules: imports point down, `import tectum` stays light, names say what a file holds."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tectum
from conftest import load_benchmark

ROOT = Path(__file__).parents[1]


diagram = load_benchmark("imports")
MODULES: dict[str, Path] = diagram.MODULES
room = diagram.find_room
ALL = diagram.find_imports()
WITHIN = [x for x in ALL if x.imported.split(".")[0] == "tectum"]
TABLE = re.findall(r"^\| (`.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
LEVEL = {name: level for level, row in enumerate(TABLE) for name in re.findall(r"`(\w+)`", row)}
"""Rows of the table of rooms in CONTRIBUTING.md: a room may import its own row and those above."""


def test_the_table_of_rooms_names_each_room_and_nothing_else() -> None:
    assert len(MODULES) > 20 and len(WITHIN) > 40
    assert LEVEL.keys() == {room(module) for module in MODULES} - {""}
    unknown = {x.imported for x in WITHIN} - MODULES.keys()
    assert not unknown, f"imported, but not there: {unknown}"


def test_imports_point_down() -> None:
    up = {
        (x.importer, x.imported, x.when)
        for x in WITHIN
        if room(x.importer)
        and room(x.imported)  # the package itself has a version and lazy verbs, no more
        and LEVEL[room(x.importer)] < LEVEL[room(x.imported)]
    }
    assert not up


def test_no_module_needs_itself() -> None:
    needs = {name: {f.imported for f in WITHIN if f.importer == name and f.when == "top"} for name in MODULES}
    done: set[str] = set()
    while ready := {name for name, others in needs.items() if name not in done and others - {"tectum"} <= done}:
        done |= ready
    assert not needs.keys() - done


def test_no_file_uses_another_files_private_names() -> None:
    private = {(x.importer, x.imported, x.name) for x in WITHIN if x.name.startswith("_")}
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text())
        aliases = {x.imported.rpartition(".")[2] for x in WITHIN if x.importer == name and not x.name}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
                private |= {(name, node.value.id, node.attr)} if node.attr.startswith("_") else set()
    assert {use for use in private if use[2] != "__version__"} == set()


def test_a_function_that_no_other_file_names_is_private() -> None:
    files = [
        path for folder in ("src", "tests", "benchmarks", "examples", "docs") for path in (ROOT / folder).rglob("*")
    ]
    words = {path: set(re.findall(r"\w+", path.read_text())) for path in files if path.suffix in (".py", ".md")}
    alone = {
        f"{name}.{node.name}"
        for name, path in MODULES.items()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        if not any(node.name in others for other, others in words.items() if other != path)
    }
    assert not alone


def test_the_diagram_of_imports_is_of_this_source() -> None:
    assert diagram.draw() == diagram.read_diagram(), "python benchmarks/imports.py --write draws it anew"


def test_the_engine_knows_no_system_task_or_dataset() -> None:
    known = {
        f.imported
        for f in WITHIN
        if room(f.importer) == "training"
        and "recipes" not in f.importer
        and "command" not in f.importer
        and room(f.imported) != "training"
    }
    assert {name for name in known if room(name) in ("models", "tasks", "data", "pretrained")} <= {
        "tectum.data.transforms"
    }
    for name, path in MODULES.items():
        if room(name) == "training" and "recipes" not in name:
            code = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
            assert not {"tdfusion", "tomiff", "sfofusion", "adasffuse"} & set(code), name


@pytest.mark.parametrize("heavy", ["cv2", "matplotlib", "tensorboard", "tyro"])
def test_heavy_packages_are_imported_where_they_are_used(heavy: str) -> None:
    top = {x.importer for x in ALL if x.imported.split(".")[0] == heavy and x.when == "top"}
    assert {n for n in top if n.split(".")[-1] not in ("cli", "command", "console")} <= set()


def test_import_stays_light() -> None:
    code = """
import sys, tectum
heavy = {"torch", "numpy", "cv2", "matplotlib", "PIL", "tyro", "tqdm", "safetensors"}
print(tectum.__version__, sorted(tectum.__all__), sorted(heavy & {name.split(".")[0] for name in sys.modules}))
import tectum.fusion.pipeline, tectum.pretrained.loading, tectum.models
print(sorted({"cv2", "matplotlib", "tyro"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{tectum.__version__} {sorted(tectum.__all__)} []", "[]"]


def test_the_public_names_are_these_and_say_what_they_are() -> None:
    verbs = {"evaluate", "fit", "fuse", "load"}
    nouns = {"Pair", "Schedule", "UserError", "metrics", "systems", "weights"}
    assert set(tectum.__all__) == verbs | nouns
    for name in tectum.__all__:
        assert inspect.getdoc(getattr(tectum, name)), name
    for verb in verbs:
        assert f"tectum.{verb}(" in (tectum.__doc__ or ""), "an example of each stands in help(tectum)"
    assert re.fullmatch(r"\d+\.\d+\.\d+", tectum.__version__)
    with pytest.raises(AttributeError, match="module 'tectum' has no attribute 'fusse'"):
        _ = tectum.fusse


def test_systems_and_weights_list_what_can_be_named() -> None:
    code = """
import tectum
before = tectum.systems(), tectum.weights()
import tectum.models, tectum.models.tdfusion, tectum.pretrained.loading, tectum.cli
assert (tectum.systems(), tectum.weights()) == before
from tectum import systems, weights
assert (systems(), weights()) == before
"""
    for first in ("", "import tectum.models, tectum.pretrained.loading"):
        subprocess.run([sys.executable, "-c", first + code], check=True)
    assert all(line and "\n" not in line for line in tectum.systems().values())
    assert {card["system"] for card in tectum.weights().values()} <= tectum.systems().keys()


def test_registries_hold_what_they_say() -> None:
    from tectum.models import SYSTEMS
    from tectum.protocols import System

    assert {"average", "maximum", "tdfusion"} <= SYSTEMS.keys()
    assert all(isinstance(system, System) and name == name.lower() for name, system in SYSTEMS.items())


# ---- files -----------------------------------------------------------------------------------------------------------


def files(*folders: str, suffixes: tuple[str, ...] = (".py", ".md", ".json", ".toml", ".txt")) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.suffix in suffixes]


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "helper", "misc", "common", "base"}
    assert not [path for path in files("src", "tests", "benchmarks", "examples") if path.stem.lower() in drawers]


def test_every_module_says_what_it_is() -> None:
    silent = [name for name, path in MODULES.items() if path.read_text().strip() and not doc(path)]
    assert not silent


def doc(path: Path) -> str | None:
    return ast.get_docstring(ast.parse(path.read_text()))


def test_no_path_of_one_machine() -> None:
    roots = ("home", "work", "root", "Users", "mnt", "tmp")
    absolute = re.compile(rf"(?<![\w.)}}*:/-])/(?:{'|'.join(roots)})/\w")
    assert absolute.search("see /" + "home/me/data") and not absolute.search("runs/home/x, https://x.org/home/y")
    places = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*files("src", "tests", "docs", "benchmarks", "examples"), *ROOT.glob("*.md"), *ROOT.glob("*.toml")]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if absolute.search(line)
    ]
    assert not places
