"""What the pages say holds: their Python runs, their commands parse, their links lead somewhere, their messages exist.

A Python block that starts with a comment `# NAME.py` is also saved under that name, so that later commands find it.
Blocks fenced as ```python no-run or ```sh no-run are left alone.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tectum import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
GUIDES = ("fusing.md", "extending.md", "training.md")  # read from top to bottom, everything in them can be done
RUN = [path for path in PAGES if path.name == "README.md" or path.parent.name == "docs"]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    language: str | None = None
    start, text = 0, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            if language is None:
                language, start, text = line.removeprefix("```").strip(), number, ""
            else:
                yield Block(page, start, language, text)
                language = None
        elif language is not None:
            text += line + "\n"
    assert language is None, f"{page.name}: the block that starts in line {start} never ends"


def indented_commands(page: Path) -> Iterator[list[str]]:
    """The words of each `tectum ...` line of an indented block, without what two spaces part from it."""
    for line in re.findall(r"^    tectum (\S.*)$", outside_blocks(page).replace("\\\n", " "), re.MULTILINE):
        words = shlex.split(re.split(r"  +", line)[0], comments=True)
        if "..." not in " ".join(words):
            yield words


def named_commands(text: str) -> Iterator[str]:
    """The commands that a text names as `tectum ...`, in one line each."""
    text = re.sub(r'"\s*\n\s*f?"', "", text)  # a message over several lines of source
    yield from (" ".join(span.split()) for span in re.findall(r"`tectum ([^`{]+)`", text))


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each `tectum ...` line of a shell block, without tectum, variables before it and comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words and Path(words[0]).name == "tectum":
            yield words[1:]


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, from which Python can import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def run_python(block: Block, names: dict[str, object]) -> None:
    if name := re.match(r"# (\w+\.py)\n", block.text):
        Path(name[1]).write_text(block.text, encoding="utf-8")
    tree = ast.parse(block.text)
    ast.increment_lineno(tree, block.line)
    exec(compile(tree, str(block.page), "exec"), names)


@pytest.mark.parametrize("page", RUN, ids=page_id)
def test_python_runs(page: Path, desk: Path) -> None:
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "python":
            run_python(block, names)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page):
        for words in commands(block) if block.language.startswith("sh") else ():
            where = f"{page.name}, block in line {block.line}: tectum {shlex.join(words)}"
            if words in ([], ["--help"], ["--version"]) or words[-1] == "--help":
                assert cli.main(words) == 0, where
                continue
            try:
                cli.parse(words)
            except ValueError as error:
                pytest.fail(f"{where}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_indented_commands_parse(page: Path) -> None:
    for words in indented_commands(page):
        try:
            cli.parse(words)
        except ValueError as error:
            pytest.fail(f"{page.name}: tectum {shlex.join(words)}: {error}")


def test_commands_named_in_sentences_and_messages_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Their verb and their options are there, in the pages and in the source."""
    files = [*PAGES, *(ROOT / "src").rglob("*.py")]
    named = {(command, file.name) for file in files for command in named_commands(file.read_text(encoding="utf-8"))}
    assert len(named) > 60
    helps: dict[str, str] = {}
    for command, where in sorted(named):
        if command.startswith(("-", "...")):
            continue
        words = command.split()
        verb = " ".join(words[:2]) if " ".join(words[:2]) in cli.COMMANDS else words[0]
        assert verb in cli.COMMANDS or any(name.startswith(f"{verb} ") for name in cli.COMMANDS), (command, where)
        if verb not in cli.COMMANDS:
            continue
        if verb not in helps:
            assert cli.main([*verb.split(), "--help"]) == 0
            helps[verb] = capsys.readouterr().out
        for option in re.findall(r"(?<!\S)--[a-z][\w-]*", command):
            assert option == "--help" or option in helps[verb], (command, where)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_make_targets_and_scripts_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for script in re.findall(r"python ((?:benchmarks|examples)/\S+?\.py)", text):
        assert (ROOT / script).is_file(), script


def test_the_guides_have_something_to_check() -> None:
    languages_of = {name: [b.language for b in blocks(ROOT / "docs" / name)] for name in GUIDES}
    for name, languages in languages_of.items():
        assert languages.count("python") >= 2 and languages.count("sh") >= 2, name
    assert {language for languages in languages_of.values() for language in languages} <= {"python", "sh"}


@pytest.mark.slow
@pytest.mark.parametrize("name", GUIDES)
def test_the_guides_can_be_followed(name: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every block in order; training for a few steps only."""
    if name == "extending.md":
        from tectum.data.synthetic import render, save

        for seed in (2, 3):
            save(render(seed, (120, 160)), desk, f"street-{seed}")
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(ROOT / "docs" / name):
        if block.language == "python":
            run_python(block, names)
        for words in commands(block) if block.language == "sh" else ():
            if words[0] == "train":
                words = [*words, "--steps", "2"] if "--steps" not in words else words
            assert cli.main(words) == 0, f"line {block.line}: tectum {shlex.join(words)}: {capsys.readouterr().err}"


def outside_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its fenced blocks and without code in backticks."""
    return re.sub(r"`[^`\n]*`", "x", outside_blocks(page))


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    titles = re.findall(r"^#+ (.*)$", outside_blocks(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", prose(page))
    for link in (a or b for a, b in links):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert target.is_relative_to(ROOT), f"{page.name} links to {link}, outside the repository"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name} links to {link}; {target.name} has {anchors(target)}"


def quoted_messages(page: Path) -> Iterator[str]:
    """The code in the first column of the tables headed `message`."""
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        inside = len(cells) > 2 and (cells[1] == "message" or inside)
        if inside:
            yield from re.findall(r"`([^`]+)`", cells[1])


@pytest.mark.parametrize("page", ["fusing.md", "training.md"])
def test_quoted_messages_are_ours(page: str) -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # sentences that go on in the next line
    messages = list(quoted_messages(ROOT / "docs" / page))
    assert len(messages) > 5
    missing = [message for message in messages if message not in source]
    assert not missing, f"{page} quotes messages that nothing says: {missing}"


def test_flags_in_the_text_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("fuse", "align", "train", "eval", "bench"):
        assert cli.main([verb, "--help"]) == 0
    for verb in ("list", "convert"):
        assert cli.main(["weights", verb, "--help"]) == 0
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) | {"--version"}
    pages = (*GUIDES, "evaluating.md", "results.md", "speed.md")
    text = "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in pages)
    assert set(re.findall(r"`(--[a-z][a-z-]+)", text)) <= known


def test_tables_that_a_command_writes_are_filled() -> None:
    for page in PAGES:
        marked = re.findall(r"<!-- ([\w ]+) -->\n(.*?)<!-- end -->", page.read_text(encoding="utf-8"), re.DOTALL)
        assert page.name != "results.md" or len(marked) >= 14
        for mark, table in marked:
            assert table.count("\n|") > 3, f"{page.name}: nothing stands under {mark}; make results"
