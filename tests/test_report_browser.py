"""The report page in a real browser: nothing leaves it, the divider moves, tables sort, a phone can show it."""

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("jinja2", reason="the report needs jinja2: pip install 'tectum[report]'")

from playwright import sync_api

from evaluations import make_evaluation
from tectum.benchmark.measure import Cost
from tectum.evaluation.evaluate import Evaluation
from tectum.evaluation.page import write_page
from tectum.metrics import METRICS

Array = np.ndarray[Any, np.dtype[Any]]

ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
LEVELS = {"visible": 30, "infrared": 70, "ours": 200, "theirs": 240, "a third": 130, "average": 100, "maximum": 160}
LONG = "a method whose name is far too long for any phone, and_without_a_place_to_break_it_in_two_or_three"
COMMAND = "tectum eval --data demo --fused 'ours=results/my folder' -o runs/demo"


def picture(image: str, method: str) -> Array:
    """One grey a method, so that a screenshot tells which one is seen."""
    return np.full((240, 320), LEVELS.get(method, 50), np.uint8)


def random_evaluation(methods: tuple[str, ...], metrics: tuple[str, ...], baselines: tuple[str, ...]) -> Evaluation:
    table = np.random.default_rng(3).normal(5, 1, (4, len(methods) + len(baselines), len(metrics)))
    table[:, 1, 0] = np.nan
    rows = {m: {k: table[:, i, n] for n, k in enumerate(metrics)} for i, m in enumerate(methods + baselines)}
    changes = {"images": "abcd", "failures": {"e": "its file is empty"}, "command": COMMAND}
    return make_evaluation(rows, baselines=baselines, **changes)


@dataclass
class Opened:
    """A page in a browser, with what it asked for and what it complained about."""

    page: Any
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def rows(self, kind: str = "tbody:not(.baselines)") -> list[str]:
        script = f"[...document.querySelectorAll('.scores {kind} tr[data-method]')].map(row => row.dataset.method)"
        found: list[str] = self.page.evaluate(script)
        return found

    def grey(self, x: float, y: float = 0.3) -> int:
        """The grey level of the first divided picture at (x, y), in parts of its width and height."""
        with Image.open(io.BytesIO(self.page.locator(".stage").first.screenshot())) as shot:
            level = shot.convert("L").getpixel((round(x * (shot.width - 1)), round(y * (shot.height - 1))))
        assert isinstance(level, int)
        return level

    def divider(self) -> float:
        """Where the first divider stands, in percent of the width."""
        script = """() => {
            const stage = document.querySelector('.stage'), divider = stage.querySelector('.divider');
            const outer = stage.getBoundingClientRect(), inner = divider.getBoundingClientRect();
            return 100 * (inner.left + inner.width / 2 - outer.left) / outer.width;
        }"""
        return float(self.page.evaluate(script))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"there is no browser: none of {', '.join(names)} is on the path")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS.split())
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    found = random_evaluation(("ours", "theirs", "a third"), ("EN", "MSE", "VIF", "SD"), ("average", "maximum"))
    costs = [
        Cost(name, "default", 10, 10**9, "320x240", 0.1, (0.1, 0.2), 99.0, "cpu", 1, "float32")
        for name in ("ours", "theirs")
    ]
    write_page(path, found, picture, costs, num_examples=2)
    return path


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Callable[..., Opened]]:
    contexts = []

    def open_page(path: Path = report, **options: Any) -> Opened:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        found = Opened(context.new_page())
        found.page.on("request", lambda request: found.asked.append(request.url))
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        context.route("**/*", lambda route: route.continue_() if route.request.url[:5] == "file:" else route.abort())
        found.page.goto(path.as_uri())
        return found

    yield open_page
    for context in contexts:
        context.close()


def test_nothing_leaves_the_page_and_nothing_is_complained_about(opened: Callable[..., Opened], report: Path) -> None:
    found = opened()
    found.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    found.page.select_option("#quality", "2")
    found.page.wait_for_timeout(100)
    assert [url for url in found.asked if not url.startswith("data:")] == [report.as_uri()]
    assert not found.complaints
    broken = "[...document.images].filter(image => image.complete && !image.naturalWidth).length"
    assert found.page.evaluate(broken) == 0
    assert found.page.evaluate("document.images.length") == 2 * (2 + 2 * 7)


def test_a_page_that_asks_is_noticed(opened: Callable[..., Opened], report: Path, tmp_path: Path) -> None:
    """The test above could fail: its means of watching see a request, and the page's policy stops it."""
    spoilt = tmp_path / "spoilt.html"
    text = report.read_text(encoding="utf-8")
    spoilt.write_text(text.replace("</h1>", '</h1><img src="http://127.0.0.1:9/x.png">'), encoding="utf-8")
    assert any("Content Security Policy" in text for text in opened(spoilt).complaints)
    spoilt.write_text(spoilt.read_text(encoding="utf-8").replace("default-src 'none'; img-src data:", "img-src *"))
    assert "http://127.0.0.1:9/x.png" in opened(spoilt).asked


def test_dragging_the_divider_changes_what_is_seen(opened: Callable[..., Opened]) -> None:
    found = opened()
    stage = found.page.locator(".stage").first
    stage.scroll_into_view_if_needed()
    assert found.divider() == pytest.approx(50, abs=0.5)
    assert abs(found.grey(0.4) - LEVELS["visible"]) < 4 and abs(found.grey(0.6) - LEVELS["ours"]) < 4
    place = stage.bounding_box()
    middle = place["y"] + place["height"] / 2
    found.page.mouse.move(place["x"] + place["width"] / 2, middle)
    found.page.mouse.down()
    found.page.mouse.move(place["x"] + place["width"] * 0.2, middle, steps=4)
    assert found.divider() == pytest.approx(20, abs=0.5)
    assert abs(found.grey(0.1) - LEVELS["visible"]) < 4 and abs(found.grey(0.4) - LEVELS["ours"]) < 4
    found.page.mouse.move(place["x"] + place["width"] * 2, middle)  # beyond the edge
    assert found.divider() == pytest.approx(100, abs=0.5)
    found.page.mouse.up()
    found.page.mouse.move(place["x"] + place["width"] * 0.3, middle)  # released: it stays
    assert found.divider() == pytest.approx(100, abs=0.5) and abs(found.grey(0.9) - LEVELS["visible"]) < 4
    assert not found.complaints


def test_the_keyboard_moves_the_divider(opened: Callable[..., Opened]) -> None:
    found = opened()
    handle = found.page.locator(".stage input").first
    assert handle.get_attribute("aria-label").startswith("Divider between")
    handle.focus()
    for _ in range(5):
        found.page.keyboard.press("ArrowLeft")
    assert found.divider() == pytest.approx(45, abs=0.5)
    found.page.keyboard.press("End")
    assert found.divider() == pytest.approx(100, abs=0.5) and abs(found.grey(0.9) - LEVELS["visible"]) < 4
    found.page.keyboard.press("Home")
    assert found.divider() == pytest.approx(0, abs=0.5) and abs(found.grey(0.2) - LEVELS["ours"]) < 4
    assert handle.get_attribute("aria-valuetext") == "0 % visible, the rest ours"


def test_a_finger_moves_the_divider(opened: Callable[..., Opened]) -> None:
    found = opened(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, device_scale_factor=1)
    stage = found.page.locator(".stage").first
    stage.scroll_into_view_if_needed()
    place = stage.bounding_box()
    middle = place["y"] + place["height"] / 2
    session = found.page.context.new_cdp_session(found.page)
    for kind, part in (("touchStart", 0.5), ("touchMove", 0.6), ("touchMove", 0.8), ("touchEnd", None)):
        points = [] if part is None else [{"x": place["x"] + place["width"] * part, "y": middle}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    found.page.wait_for_timeout(100)
    assert found.divider() == pytest.approx(80, abs=1.5)
    assert abs(found.grey(0.7) - LEVELS["visible"]) < 4 and abs(found.grey(0.9) - LEVELS["ours"]) < 4


def test_both_sides_can_be_chosen(opened: Callable[..., Opened]) -> None:
    found = opened()
    example = found.page.locator(".example").first
    options = example.locator("select.left option").all_text_contents()
    assert options == ["visible", "infrared", "ours", "theirs", "a third", "average", "maximum"]
    example.locator("select.left").select_option(label="maximum")
    assert abs(found.grey(0.25) - LEVELS["maximum"]) < 4 and abs(found.grey(0.75) - LEVELS["ours"]) < 4
    example.locator("button.show").nth(3).click()
    assert example.locator("select.right").evaluate("choice => choice.selectedOptions[0].text") == "theirs"
    assert abs(found.grey(0.75) - LEVELS["theirs"]) < 4
    assert example.locator(".tag").all_text_contents() == ["maximum", "theirs"]


def test_a_click_sorts_a_column_and_baselines_stay_below(opened: Callable[..., Opened]) -> None:
    found = opened()
    values = """name => Object.fromEntries([...document.querySelectorAll('.scores tr[data-method]')].map(
        row => [row.dataset.method, row.cells[name].dataset.value]))"""
    plain = found.rows()
    assert plain == ["ours", "theirs", "a third"] and found.rows(".baselines") == ["average", "maximum"]
    for column, sign in ((1, -1), (2, 1), (4, -1)):  # MSE, the second, is better when it is lower
        by_name = {name: float(value) if value else None for name, value in found.page.evaluate(values, column).items()}
        head = found.page.locator(".scores thead th").nth(column)
        for state, turn in (("first", sign), ("second", -sign)):
            head.locator("button").click()
            known = [name for name in plain if by_name[name] is not None]
            missing = [name for name in plain if by_name[name] is None]
            assert found.rows() == sorted(known, key=lambda name: turn * (by_name[name] or 0)) + missing, state
            assert head.get_attribute("aria-sort") == ("ascending" if turn > 0 else "descending")
            below = found.rows(".baselines")
            assert below == sorted(below, key=lambda name: turn * (by_name[name] or 0))
        head.locator("button").click()
        assert found.rows() == plain and head.get_attribute("aria-sort") == "none"
    found.page.locator(".scores thead button").first.click()
    assert found.rows() == ["a third", "ours", "theirs"]


def test_the_command_is_copied(opened: Callable[..., Opened]) -> None:
    found = opened(permissions=["clipboard-read", "clipboard-write"])
    found.page.locator("#copy").click()
    found.page.wait_for_function("document.getElementById('copy').textContent === 'Copied'")
    assert found.page.evaluate("navigator.clipboard.readText()") == COMMAND


def test_switches_of_tables_and_plots(opened: Callable[..., Opened]) -> None:
    found = opened()
    interval = found.page.locator("td .interval").first
    assert interval.is_visible()
    found.page.locator("input.intervals").first.uncheck()
    assert not interval.is_visible() and not found.page.locator("input.intervals").last.is_checked()
    marks = found.page.locator('.panels [data-series="1"]')
    button = found.page.locator('.legend [data-series="1"]')
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert marks.evaluate_all("marks => marks.length > 4 && marks.every(mark => mark.classList.contains('off'))")
    assert found.page.locator(".tradeoff:visible").get_attribute("data-choice") == "0"
    found.page.select_option("#quality", label="VIF")
    assert found.page.locator(".tradeoff:visible figcaption").first.text_content() == "VIF over time"


@pytest.mark.parametrize("width", [390, 768])
def test_a_small_screen_does_not_scroll_sideways(opened: Callable[..., Opened], tmp_path: Path, width: int) -> None:
    path = tmp_path / "wide.html"
    names = ("ours", LONG, "<b>", *(f"method-{i}" for i in range(5)))
    write_page(path, random_evaluation(names, tuple(METRICS)[:14], ("average",)), picture, num_examples=1)
    found = opened(path, viewport={"width": width, "height": 844}, is_mobile=True, has_touch=True)
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    assert found.page.evaluate("document.documentElement.clientWidth") == width
    table = found.page.locator(".scroll").first
    assert table.evaluate("box => box.scrollWidth > box.clientWidth")  # wide tables scroll in their own frame
    assert found.page.locator(".stage").first.bounding_box()["width"] > 0.4 * width
    assert not found.complaints


def test_without_scripts_everything_but_the_divider_is_there(opened: Callable[..., Opened]) -> None:
    found = opened(java_script_enabled=False)
    assert found.page.locator(".scores td").first.is_visible() and found.page.locator(".tiles img").first.is_visible()
    assert not found.page.locator(".stage").first.is_visible() and not found.page.locator("#copy").is_visible()
