"""The repository's own rules: imports point down, `import tectum` stays light, names say what a file holds."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import tectum

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tectum"
LAYERS = (  # a layer may import itself and what stands above it here
    {"errors"},
    {"kinds", "protocols", "pair", "color", "street"},
    {"io", "nn"},
    {"console"},
    {"losses", "balance", "metrics", "data"},
    {"systems", "tasks"},
    {"weights"},
    {"report"},
    {"registration"},
    {"fusion"},
    {"benchmark"},
    {"evaluation"},
    {"training"},
    {"downstream"},
    {"cli"},
    {"__main__"},
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


@dataclass(frozen=True)
class Import:
    """A module of tectum names another module."""

    importer: str
    imported: str
    kind: str
    """"top" when it happens with the module, "inside" in a function, "typing" under TYPE_CHECKING."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imports(node: ast.AST, importer: str, kind: str = "top") -> Iterator[Import]:
    """All imports below a node, of whatever package; `from tectum import x` counts as tectum.x where that is one."""
    for child in ast.iter_child_nodes(node):
        inner = kind
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner = "inside"
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inner = "typing"
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(importer, alias.name, kind)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0 and child.module is not None, f"{importer}: imports are absolute"
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                yield Import(importer, full if full in MODULES else child.module, kind)
        yield from imports(child, importer, inner)


ALL = [found for name, path in MODULES.items() for found in imports(ast.parse(path.read_text()), name)]
WITHIN = [found for found in ALL if found.imported.split(".")[0] == "tectum"]


def part(module: str) -> str:
    """tectum.nn.attention -> nn; the package itself -> ''."""
    return module.partition(".")[2].partition(".")[0]


def test_every_module_has_its_layer() -> None:
    assert len(MODULES) > 20 and len(WITHIN) > 40
    assert {part(module) for module in MODULES} - {""} <= LEVEL.keys()
    unknown = {found.imported for found in WITHIN} - MODULES.keys()
    assert not unknown, f"imported, but not there: {unknown}"


def test_imports_point_down() -> None:
    up = {
        (found.importer, found.imported, found.kind)
        for found in WITHIN
        if part(found.importer)
        and part(found.imported)  # the package itself has a version and lazy verbs, no more
        and LEVEL[part(found.importer)] < LEVEL[part(found.imported)]
    }
    assert not up


def test_no_module_needs_itself() -> None:
    needs = {name: {f.imported for f in WITHIN if f.importer == name and f.kind == "top"} for name in MODULES}
    done: set[str] = set()
    while ready := {name for name, others in needs.items() if name not in done and others - {"tectum"} <= done}:
        done |= ready
    assert not needs.keys() - done


def test_the_engine_knows_no_system_task_or_dataset() -> None:
    known = {
        f.imported
        for f in WITHIN
        if part(f.importer) == "training"
        and "recipes" not in f.importer
        and "command" not in f.importer
        and part(f.imported) != "training"
    }
    assert {name for name in known if part(name) in ("systems", "tasks", "data", "weights")} <= {
        "tectum.data.transforms"
    }
    for name, path in MODULES.items():
        if part(name) == "training" and "recipes" not in name:
            code = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
            assert not {"tdfusion", "tomiff", "sfofusion", "adasffuse"} & set(code), name


@pytest.mark.parametrize("heavy", ["cv2", "matplotlib", "tensorboard", "tyro"])
def test_heavy_packages_are_imported_where_they_are_used(heavy: str) -> None:
    top = {found.importer for found in ALL if found.imported.split(".")[0] == heavy and found.kind == "top"}
    assert {n for n in top if n.split(".")[-1] not in ("cli", "command", "console")} <= set()


def test_import_stays_light() -> None:
    code = """
import sys, tectum
heavy = {"torch", "numpy", "cv2", "matplotlib", "PIL", "tyro", "tqdm", "safetensors"}
print(tectum.__version__, sorted(tectum.__all__), sorted(heavy & {name.split(".")[0] for name in sys.modules}))
import tectum.fusion.pipeline, tectum.weights.loading, tectum.systems
print(sorted({"cv2", "matplotlib", "tyro"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{tectum.__version__} {sorted(tectum.__all__)} []", "[]"]


def test_public_names_are_there() -> None:
    assert {"fuse", "load", "fit"} <= set(tectum.__all__)
    for name in tectum.__all__:
        assert callable(getattr(tectum, name)) and getattr(tectum, name).__doc__
    assert re.fullmatch(r"\d+\.\d+\.\d+", tectum.__version__)
    with pytest.raises(AttributeError, match="module 'tectum' has no attribute 'fusse'"):
        _ = tectum.fusse


def test_registries_hold_what_they_say() -> None:
    from tectum.protocols import System
    from tectum.systems import SYSTEMS

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
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*files("src", "tests", "docs", "benchmarks", "examples"), *ROOT.glob("*.md"), *ROOT.glob("*.toml")]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if absolute.search(line)
    ]
    assert not found
