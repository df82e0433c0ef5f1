"""Diagram of the imports between the rooms of `src/tectum`, read from the source.

    python benchmarks/imports.py            prints it
    python benchmarks/imports.py --write    puts it into CONTRIBUTING.md

An arrow leads from a room to one it imports. An arrow that other arrows imply is left out (transitive reduction), and
so are the rooms that hold no import of another and are not imported.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "tectum"
PAGE = ROOT / "CONTRIBUTING.md"
START, END = "<!-- made by: python benchmarks/imports.py --write -->\n", "<!-- end -->"


@dataclass(frozen=True)
class Import:
    """One module of tectum that another module imports, or a module of another package."""

    importer: str
    imported: str
    name: str
    """The name taken from it; "" where it is the module itself."""
    when: Literal["top", "inside", "typing"]
    """With the module, inside a function, or only for type checkers."""


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def find_imports() -> list[Import]:
    """All imports in the package, of whatever package; `from tectum import x` counts as tectum.x where that is one."""
    return [found for name, path in MODULES.items() for found in _imports(ast.parse(path.read_text("utf-8")), name)]


def _imports(node: ast.AST, importer: str, when: Literal["top", "inside", "typing"] = "top") -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inner = when
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner = "inside"
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inner = "typing"
        elif isinstance(child, ast.Import):
            yield from (Import(importer, alias.name, "", when) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0 and child.module is not None, f"{importer}: imports are absolute"
            for alias in child.names:
                module = f"{child.module}.{alias.name}"
                is_module = module in MODULES
                yield Import(importer, module if is_module else child.module, "" if is_module else alias.name, when)
        yield from _imports(child, importer, inner)


def find_room(module: str) -> str:
    """Returns the folder or file right below the package: "nn" of tectum.nn.attention, "" of tectum itself."""
    return module.partition(".")[2].partition(".")[0]


def draw() -> str:
    """Returns the diagram in Mermaid's language, which GitHub draws."""
    needs: dict[str, set[str]] = {find_room(module): set() for module in MODULES}
    for found in find_imports():
        if found.imported in MODULES:
            needs[find_room(found.importer)].add(find_room(found.imported))
    arrows = {room: {other for other in others if other not in ("", room)} for room, others in needs.items() if room}
    reach = {room: _reach(room, arrows) for room in arrows}
    lines = [
        f"  {room} --> {other}"
        for room in sorted(arrows)
        for other in sorted(arrows[room])
        if not any(other in reach[between] for between in arrows[room] - {other})
    ]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


def _reach(room: str, arrows: dict[str, set[str]]) -> set[str]:
    """All rooms that a room needs, over any number of arrows."""
    reach: set[str] = set()
    rooms = [room]
    while rooms:
        new = arrows[rooms.pop()] - reach
        reach |= new
        rooms += new
    return reach


def read_diagram() -> str:
    """Returns the diagram that stands in CONTRIBUTING.md."""
    return PAGE.read_text("utf-8").partition(START)[2].partition(END)[0].strip()


if __name__ == "__main__":
    if "--write" in sys.argv:
        before, _, rest = PAGE.read_text("utf-8").partition(START)
        PAGE.write_text(f"{before}{START}{draw()}\n{END}{rest.partition(END)[2]}", "utf-8")
    else:
        print(draw())
