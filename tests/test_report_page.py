"""The report page as text: what stands in it, what is marked, and that nothing a user named can break it."""

import base64
import dataclasses
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("jinja2", reason="the report needs jinja2: pip install 'tectum[report]'")

from evaluations import make_evaluation
from tectum.benchmark.measure import Cost
from tectum.evaluation.cost_plot import make_cost_section, mean_ranks
from tectum.evaluation.evaluate import Evaluation, with_metrics
from tectum.evaluation.examples import PAGE_BYTES, differ_most, find_window
from tectum.evaluation.page import write_page
from tectum.evaluation.plots import make_styles, plot_against_cost, plot_distribution
from tectum.evaluation.statistics import Scores
from tectum.metrics import METRICS
from tectum.metrics.conventions import CONVENTIONS
from tectum.report.plots import Scale

Array = np.ndarray[Any, np.dtype[Any]]
Pictures = Callable[[str, str], Array]

VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = "\"><b>'&amp;</title></script><script>alert(1)</script>${x}%s{{ 7*7 }}"


# ---- made-up evaluations ---------------------------------------------------------------------------------------------


def random_evaluation(methods: Sequence[str], metrics: Sequence[str], num: int = 4, **changes: Any) -> Evaluation:
    generator = np.random.default_rng(0)
    values = {m: {k: generator.normal(5, 1, num).tolist() for k in metrics} for m in methods}
    return make_evaluation(values, **changes)


def noise(shape: tuple[int, ...]) -> Pictures:
    def picture(image: str, method: str) -> Array:
        seed = sum(map(ord, image + method))
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return picture


SMALL = noise((24, 32))


def cost(name: str, **changes: Any) -> Cost:
    plain = Cost(name, "default", 1000, 10**9, "640x480", 0.5, (0.45, 0.6), 300.0, "cpu", 2, "float32")
    return replace(plain, **changes)


# ---- reading the page ------------------------------------------------------------------------------------------------


@dataclass
class Node:
    """An element with its attributes, children and own text."""

    tag: str
    attributes: dict[str, str | None]
    children: list["Node"] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def walk(self) -> Iterator["Node"]:
        yield self
        for child in self.children:
            yield from child.walk()

    def all(self, tag: str = "", **attributes: str) -> list["Node"]:
        """Elements below by tag and attributes; class_ names one of several classes."""
        wanted = attributes.pop("class_", None)
        return [
            node
            for node in self.walk()
            if (not tag or node.tag == tag)
            and (wanted is None or wanted in (node.attributes.get("class") or "").split())
            and all(node.attributes.get(key.replace("_", "-")) == value for key, value in attributes.items())
        ]

    def one(self, tag: str = "", **attributes: str) -> "Node":
        (found,) = self.all(tag, **attributes)
        return found

    @property
    def text(self) -> str:
        return " ".join(" ".join(node.texts) for node in self.walk()).strip()


class Tree(HTMLParser):
    """Raises when a tag is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Node("", {})
        self.stack = [self.root]
        self.feed(text)
        self.close()
        assert len(self.stack) == 1, f"not closed: {[node.tag for node in self.stack[1:]]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute of {tag} is given twice"
        node = Node(tag, dict(attrs))
        self.stack[-1].children.append(node)
        if tag not in VOID:
            self.stack.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stack[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack[-1].tag == tag, f"</{tag}> closes <{self.stack[-1].tag}>"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.stack[-1].texts.append(data.strip())


def page(tmp_path: Path, found: Evaluation, picture: Pictures = SMALL, **options: Any) -> Node:
    path = tmp_path / "report.html"
    write_page(path, found, picture, **{"num_examples": 1, **options})
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    return Tree(path.read_text(encoding="utf-8")).root


def cells(root: Node, table: str) -> dict[str, dict[str, Node]]:
    """{method: {metric: its cell}} of the tables "scores" and "differences"."""
    found = root.one("table", class_=table)
    heads = [head.one("button").texts[0] for head in found.one("thead").all("th")][1:]
    rows = [row for row in found.all("tr") if row.attributes.get("data-method")]
    return {str(row.attributes["data-method"]): dict(zip(heads, row.all("td"), strict=True)) for row in rows}


def marked(root: Node, mark: str) -> set[tuple[str, str]]:
    return {
        (method, metric)
        for method, row in cells(root, "scores").items()
        for metric, cell in row.items()
        if cell.attributes.get("class") == mark
    }


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_is_whole_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    found = random_evaluation(["ours", "theirs", "average"], ["EN", "MSE", "VIF"], baselines=["average"])
    root = page(tmp_path, found, costs=[cost("ours"), cost("average", macs=0)])
    ids = [node.attributes["id"] for node in root.walk() if "id" in node.attributes]
    assert len(ids) == len(set(ids)) > 8
    for node in root.walk():
        for name, value in node.attributes.items():
            if name in ("src", "href", "action", "srcset", "data", "poster") or name.endswith(":href"):
                assert value is not None and value.startswith(("data:", "#")), (node.tag, name, value)
            assert "://" not in (value or ""), (node.tag, name, value)
    for used in re.findall(r"url\(#([^)]+)\)", (tmp_path / "report.html").read_text()):
        assert used in ids
    assert {node.attributes["href"] for node in root.all("a")} <= {f"#{name}" for name in ids}
    policy = root.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    assert policy is not None and policy.startswith("default-src 'none'")
    assert not re.search(r"@import|url\((?!#)", root.one("style").text)
    assert len(root.all("script")) == 1


def test_every_value_stands_where_it_belongs(tmp_path: Path) -> None:
    found = random_evaluation(["ours", "theirs", "average"], ["EN", "MSE"], baselines=["average"])
    root = page(tmp_path, found)
    table = cells(root, "scores")
    assert list(table) == ["ours", "theirs", "average"]
    for method, row in table.items():
        assert list(row) == ["EN", "MSE"]
        for metric, cell in row.items():
            right = found.summary.means[method][metric]
            assert float(cell.attributes["data-value"] or "nan") == right.mean
            assert cell.one(class_="mean").texts[-1] == f"{right.mean:.3f}"
            assert cell.one(class_="interval").text == f"{right.low:.3f}–{right.high:.3f}"
    for text in ("demo set", "2026-11-20", "tectum eval --data demo", CONVENTIONS["tectum"].summary):
        assert text in root.text
    baselines = root.one("table", class_="scores").one("tbody", class_="baselines")
    assert [row.attributes["data-method"] for row in baselines.all("tr")] == ["average"]
    for section in ("scores", "differences", "plots", "pictures", "reading"):
        assert root.one("section", id=section)


def test_best_and_second_follow_the_direction_and_baselines_that_win_are_flagged(tmp_path: Path) -> None:
    values = {
        "a": {"EN": [7, 7], "MSE": [3, 3], "VIF": [0.5, 0.7]},
        "b": {"EN": [6, 6], "MSE": [1, 1], "VIF": [0.7, 0.5]},
        "c": {"EN": [5, 5], "MSE": [2, 2], "VIF": [0.4, 0.4]},
        "maximum": {"EN": [6.5, 6.5], "MSE": [0.5, 0.5], "VIF": [0.6, 0.6]},
    }
    root = page(tmp_path, make_evaluation(values, baselines=["maximum"]))
    assert marked(root, "best") == {("a", "EN"), ("b", "MSE"), ("a", "VIF"), ("b", "VIF")}
    assert marked(root, "second") == {("b", "EN"), ("c", "MSE"), ("c", "VIF")}
    assert marked(root, "gamed") == {("maximum", "MSE"), ("maximum", "VIF")}
    assert "▲" in cells(root, "scores")["maximum"]["MSE"].text
    assert "can be gamed here" in root.one("p", class_="gaming").text
    assert "On 2 of 3 metrics a baseline" in root.text and "a on 2, b on 2 of 3 metrics" in root.text
    arrows = {
        head.texts[0]: head.one(class_="arrow").text for head in root.one("table", class_="scores").all("button")[1:]
    }
    assert arrows == {"EN": "↑", "MSE": "↓", "VIF": "↑"}


def test_nothing_is_flagged_and_nothing_ranked_without_a_reason(tmp_path: Path) -> None:
    root = page(tmp_path, make_evaluation({"a": {"EN": [7, 7]}, "average": {"EN": [6, 6]}}, baselines=["average"]))
    assert not marked(root, "gamed") | marked(root, "best") | marked(root, "second")
    assert not root.all("p", class_="gaming") and "Nothing is missing" in root.one(id="notes").text


def test_close_means_get_decimals_enough_to_tell_them_apart(tmp_path: Path) -> None:
    root = page(tmp_path, make_evaluation({"a": {"SD": [41.2312]}, "b": {"SD": [41.2349]}, "c": {"SD": [39]}}))
    assert [row["SD"].one(class_="mean").text for row in cells(root, "scores").values()] == [
        "41.231",
        "41.235",
        "39.000",
    ]


def test_missing_values_are_counted_in_plain_sight(tmp_path: Path) -> None:
    nan = math.nan
    values = {
        "a": {"SCD": [1.5, nan, 1.7], "Qe": [nan] * 3},
        "b": {"SCD": [1.2, 1.3, 1.4], "Qe": [nan] * 3},
        "visible": {"SCD": [nan] * 3, "Qe": [nan] * 3},
    }
    reasons = {f"x{i}": "its file is empty" for i in range(12)} | {"y": "sizes differ"}
    root = page(
        tmp_path,
        make_evaluation(values, baselines=["visible"], failures=reasons, warnings=("b lacks 2 of 5 images: p, q",)),
        costs=[cost("a"), cost("b")],
    )
    table = cells(root, "scores")
    assert table["visible"]["SCD"].text.split() == ["n/a", "3", "n/a"]
    assert (
        table["a"]["SCD"].one(class_="missing").text == "1 n/a" and table["a"]["SCD"].one(class_="mean").text == "1.600"
    )
    assert not table["b"]["SCD"].all(class_="missing") and marked(root, "best") == {("a", "SCD")}
    assert not re.search(r"\bnan\b", root.one("main").text, re.I)
    notes = root.one(id="notes").text
    assert "12 images were not scored" in notes and "1 image was" in notes and "sizes differ" in notes
    assert all(image in notes for image in reasons) and "b lacks 2 of 5 images: p, q" in notes
    assert "SCD is not defined (n/a) for a on 1 of 3, visible on all of 3" in notes
    assert "Qe is not defined for any image of any method." in notes
    assert root.one(id="differences").all("td", data_value="")[0].text == "n/a"


def test_differences_say_who_is_better_and_whether_it_is_clear(tmp_path: Path) -> None:
    values = {
        "ours": {"EN": [6.0, 6.1, 6.2, 6.3, 6.4, 6.5], "MSE": [9.0, 9.5, 9.2, 9.1, 9.6, 9.3]},
        "b": {"EN": [7.0, 7.1, 7.2, 7.3, 7.4, 7.5], "MSE": [12.0, 12.5, 12.2, 12.0, 12.4, 12.1]},
        "c": {"EN": [5.0, 7.0, 5.4, 7.1, 5.5, 7.3], "MSE": [8.0, 8.5, 8.2, 8.1, 8.6, 8.3]},
    }
    root = page(tmp_path, make_evaluation(values))
    table = cells(root, "differences")
    verdicts = {(m, k): cell.attributes["class"] for m, row in table.items() for k, cell in row.items()}
    assert verdicts == {("b", "EN"): "better", ("b", "MSE"): "worse", ("c", "EN"): "not-clear", ("c", "MSE"): "better"}
    assert table["b"]["MSE"].one(class_="mean").text.startswith("+2.9")
    assert table["c"]["MSE"].one(class_="mean").text == "−1.00"
    assert table["c"]["EN"].one(class_="verdict").text == "not clear · 50\u00a0%"
    assert "p = 0.031" in (table["b"]["EN"].attributes["title"] or "")
    told = root.one("section", id="differences").text
    assert "random swaps" in told and "4 comparisons" in told and "one in twenty" in told and "none can be" not in told
    assert "paired permutation test" in root.one("section", id="reading").text
    for num in (1, 5):  # five have intervals that leave zero out, and still nothing to be sure of
        few = page(tmp_path, make_evaluation({m: {k: v[:num] for k, v in row.items()} for m, row in values.items()}))
        classes = {cell.attributes["class"] for row in cells(few, "differences").values() for cell in row.values()}
        assert classes == {"not-clear"} and bool(few.all(class_="interval")) == (num > 1)
        assert "With fewer than 6 images none can be." in few.one("section", id="differences").text


def test_infinite_values_are_shown_and_counted(tmp_path: Path) -> None:
    inf, nan = math.inf, math.nan
    values = {
        "a": {"PSNR": [30.0, 31.0, 32.0], "EN": [6, 7, 8], "VIF": [0.5, 0.6, 0.7]},
        "b": {"PSNR": [33.0, inf, 35.0], "EN": [7, 7, 9], "VIF": [0.4, 0.6, 0.8]},
        "average": {"PSNR": [inf, inf, nan], "EN": [5, 5, 5], "VIF": [0.1, 0.2, 0.3]},
    }
    root = page(tmp_path, make_evaluation(values, baselines=["average"]), costs=[cost("a"), cost("b")])
    table = cells(root, "scores")
    assert table["b"]["PSNR"].text.split() == ["∞", "1", "∞"] and not table["b"]["PSNR"].all(class_="interval")
    assert table["b"]["PSNR"].attributes["data-value"] == "inf"  # as the page's script reads it
    assert table["average"]["PSNR"].one(class_="missing").text == "1 n/a, 2 ∞"
    assert table["a"]["PSNR"].one(class_="mean").text == "31.00"
    assert ("b", "PSNR") in marked(root, "best") and ("average", "PSNR") in marked(root, "gamed")
    notes = root.one(id="notes").text
    assert "PSNR is infinite for b on 1 of 3, average on 2 of 3 images;" in notes and "Nothing is missing" not in notes
    differences = cells(root, "differences")
    assert differences["b"]["PSNR"].one(class_="mean").text == "+3.00"
    assert "1 with an infinite value left out" in (differences["b"]["PSNR"].attributes["title"] or "")
    assert differences["average"]["PSNR"].text == "n/a"
    assert not re.search(r"\b(nan|inf)\b", root.one("main").text)


def test_the_page_says_that_baselines_are_never_stretched(tmp_path: Path) -> None:
    found = random_evaluation(["ours", "average"], ["EN", "SD", "VIF"], baselines=["average"])
    plain, words = page(tmp_path, found), "rounded to the nearest 8-bit level and never stretched"
    assert not plain.all(id="stretched") and words in plain.one("section", id="reading").text
    stretching = replace(found, convention=with_metrics(CONVENTIONS["cddfuse"], ["EN", "SD", "VIF"]))
    root = page(tmp_path, stretching)
    assert "raises EN and SD of systems beside the baselines" in root.one("p", id="stretched").text
    reading = root.one("section", id="reading").text
    assert words in reading and "each stretched to the full range, then truncated" in reading
    alone = random_evaluation(["ours"], ["EN"], convention="cddfuse")
    assert not page(tmp_path, replace(alone, convention=with_metrics(CONVENTIONS["cddfuse"], ["EN"]))).all(
        id="stretched"
    )


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    names = [HOSTILE, "融合$x^2$", "ctrl\x01\n", "\udcff"]
    found = random_evaluation(names, ["EN", "SD", "SF"], images=[HOSTILE, "b", "c\udcff", "<!--"])
    found = replace(
        found,
        data=HOSTILE,
        command=HOSTILE,
        warnings=(HOSTILE,),
        failures={HOSTILE: HOSTILE},
        date="<i>",
        units={"EN": "<u>", "SD": "", "SF": ""},
    )
    root = page(tmp_path, found, costs=[cost(name) for name in names])
    assert len(root.all("script")) == 1 and len(root.all("title")) == 1
    assert not [node for node in root.all("b") if "'&amp;" in node.text] and not root.all("i", class_="")
    assert HOSTILE in cells(root, "scores") and root.one("h1").text == HOSTILE
    assert root.one("code", id="command").text == HOSTILE
    assert HOSTILE in root.one("article", data_example="0").text + root.text
    assert "49" not in root.one("h1").text and "?" in root.text  # a lone surrogate cannot be written
    drawn = " ".join(node.text for node in root.all("text"))
    assert "融合$x^2$" in drawn and "<i>" in root.text


def test_the_command_is_copied_by_a_button(tmp_path: Path) -> None:
    root = page(tmp_path, random_evaluation(["ours"], ["EN"]))
    assert (
        root.one("button", id="copy").text == "Copy"
        and root.one("code", id="command").text == "tectum eval --data demo"
    )


@pytest.mark.parametrize(
    ("num_methods", "num_metrics", "num_images", "shape"),
    [(1, 1, 1, (5, 7)), (12, len(METRICS), 3, (33, 20, 3)), (2, 2, 2, (1, 1)), (1, 4, 5, (20, 300, 3))],
)
def test_any_number_of_anything_works(
    tmp_path: Path, num_methods: int, num_metrics: int, num_images: int, shape: tuple[int, ...]
) -> None:
    names = [f"method {i} with a long name that goes on and on" for i in range(num_methods)]
    root = page(
        tmp_path, random_evaluation(names, list(METRICS)[:num_metrics], num_images), noise(shape), num_examples=2
    )
    table = cells(root, "scores")
    assert list(table) == names and {len(row) for row in table.values()} == {num_metrics}
    assert len(root.all("article")) == min(2, num_images)
    assert len(root.all("article")[0].all("button", class_="show")) == num_methods + 2
    assert len(root.one("div", class_="panels").all("svg")) == num_metrics
    assert bool(root.all("div", class_="without")) == (num_metrics < 3 or num_methods < 2)
    assert f"{shape[1]} × {shape[0]} px" in root.text


def test_a_report_without_pictures_is_a_report(tmp_path: Path) -> None:
    root = page(tmp_path, random_evaluation(["ours", "theirs"], ["EN"]), num_examples=0)
    assert not root.all("article") and "No pictures were asked for" in root.text


def test_a_missing_picture_says_why(tmp_path: Path) -> None:
    def picture(image: str, method: str) -> Array:
        if method == "theirs":
            raise FileNotFoundError(f"theirs lacks {image}")
        if method == "odd":
            return np.zeros((3, 3), np.uint8)
        return SMALL(image, method)

    root = page(tmp_path, random_evaluation(["ours", "theirs", "odd"], ["EN"], 1), picture)
    article = root.one("article")
    assert "No picture: theirs lacks image-0" in article.text
    assert "its size (3, 3) is not that of its sources, (24, 32)" in article.text
    assert (
        len(article.all("button", class_="show")) == 3 and len(article.one("select", class_="left").all("option")) == 3
    )
    bare = page(tmp_path, random_evaluation(["theirs"], ["EN"], 1), lambda image, method: picture(image, "theirs"))
    assert bare.one("article").text.count("No picture") == 3


def test_nothing_is_left_when_it_fails(tmp_path: Path) -> None:
    def picture(image: str, method: str) -> Array:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write_page(tmp_path / "report.html", random_evaluation(["ours"], ["EN"]), picture)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "jinja2" else find(name))
    with pytest.raises(ValueError, match=r"the report needs jinja2: pip install 'tectum\[report\]'"):
        write_page(tmp_path / "report.html", random_evaluation(["ours"], ["EN"]), SMALL)


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_images_are_chosen_by_how_much_the_methods_differ() -> None:
    values = np.zeros((4, 3, 2))
    values[:, :, 0] = [[0, 0, 9], [0, 4, 0], [0, 1, 0], [0, 2, 0]]  # the third row is a baseline and does not count
    values[:, :, 1] = np.nan
    scores = Scores(("p", "q", "r", "s"), ("a", "b", "maximum"), ("EN", "SCD"), values)
    assert [index for index, _ in differ_most(scores, ["a", "b"], 3)] == [1, 3, 2]
    assert [index for index, _ in differ_most(scores, ["a", "b", "maximum"], 1)] == [0]
    alone = differ_most(scores, ["a"], 2)
    assert [index for index, _ in alone] == [0, 3] and all(math.isnan(spread) for _, spread in alone)


def test_a_metric_counts_by_its_own_scale() -> None:
    values = np.zeros((2, 2, 2))
    values[0, 1] = [1000, 0.0]
    values[1, 1] = [0, 0.01]
    scores = Scores(("p", "q"), ("a", "b"), ("MSE", "VIF"), values)
    (_, first), (_, second) = differ_most(scores, ["a", "b"], 2)
    assert first == pytest.approx(second)


def test_the_window_shows_structure_not_brightness() -> None:
    plain = np.full((120, 240), 90, np.uint8)
    brighter = plain.copy()
    brighter[:, 120:] += 60
    detail = plain.copy()
    detail[70:80, 30:40] += 40
    top, left, high, wide = find_window([plain, brighter // 3 + plain // 3 * 2, detail])
    assert (high, wide) == (30, 40)
    assert top <= 70 and top + high >= 80 and left <= 30 and left + wide >= 40
    top, left, high, wide = find_window([plain[:5, :3], detail[:5, :3]])
    assert (top, left, high, wide) == (0, 0, 5, 3)


def test_pictures_are_what_they_are_called(tmp_path: Path) -> None:
    levels = {"visible": 20, "infrared": 90, "ours": 160, "theirs": 230}

    def picture(image: str, method: str) -> Array:
        return np.full((40, 60), levels[method], np.uint8)

    root = page(tmp_path, random_evaluation(["ours", "theirs"], ["EN"], 1), picture)
    for name, level in levels.items():
        (shown,) = (node for node in root.all("img") if (node.attributes["alt"] or "").startswith(f"{name} of"))
        (crop,) = (node for node in root.all("img") if node.attributes["alt"] == f"Window of {name}")
        for node, kind in ((shown, "jpeg"), (crop, "png")):
            start, _, data = (node.attributes["src"] or "").partition(",")
            assert start == f"data:image/{kind};base64"
            with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
                assert abs(np.asarray(opened).astype(int) - level).max() <= (1 if kind == "jpeg" else 0)


def test_the_page_stays_below_ten_megabytes(tmp_path: Path) -> None:
    still = noise((480, 640, 3))("", "")

    def picture(image: str, method: str) -> Array:  # nothing is larger than noise
        return np.roll(still, sum(map(ord, image + method)), axis=1)

    rows = ["ours", "b", "c", "d", "e", "average", "maximum"]
    page(tmp_path, random_evaluation(rows, ["EN", "SD"], 3, baselines=rows[5:]), picture, num_examples=3)
    assert 1_000_000 < (tmp_path / "report.html").stat().st_size < 10_000_000
    assert PAGE_BYTES * 4 / 3 < 9_000_000


# ---- plots -----------------------------------------------------------------------------------------------------------


def test_a_row_has_one_colour_everywhere_and_baselines_are_grey() -> None:
    names = [f"m{i}" for i in range(12)]
    look = make_styles({"average": True, **dict.fromkeys(names, False)})
    assert list(look)[-1] == "average" and len({look[name].colour for name in names}) == 12
    red, green, blue = (int(look["average"].colour[i : i + 2], 16) for i in (1, 3, 5))
    assert max(red, green, blue) - min(red, green, blue) < 20
    again = make_styles(dict.fromkeys([*names, "m12", "m13"], False))
    assert again["m12"].colour == again["m0"].colour and again["m12"].dash != again["m0"].dash
    text = plot_distribution(
        {"m0": np.arange(9.0), "average": np.arange(3.0)}, {k: look[k] for k in ("m0", "average")}, "t"
    )
    part = text[text.index('data-series="0"') :]
    assert look["m0"].colour in part[:600]


def test_many_images_make_no_large_plot() -> None:
    look = make_styles({"a": False, "b": False})
    values = {name: np.random.default_rng(0).normal(size=5000) for name in look}
    text = plot_distribution(values, look, "t")
    assert len(text) < 40_000 and text.count("<") < 300
    assert text.count("h0") == 2 * 200  # the dots, in one path a method


def test_an_empty_plot_is_no_plot() -> None:
    look = make_styles({"a": False})
    assert plot_distribution({"a": np.array([math.nan])}, look, "t") == ""


def test_up_is_better_over_cost_whatever_the_direction() -> None:
    look = make_styles({"a": False, "b": False})
    points = {"a": (1.0, 5.0, math.nan, math.nan), "b": (10.0, 9.0, 8.0, 10.0)}
    heights = {}
    for upwards in (True, False):
        text = plot_against_cost(points, look, axes=("seconds", "q"), upwards=upwards)
        marks = re.findall(r'<(?:circle cx="[\d.]+" cy|polygon points)="([^"]+)"[^>]*data-series="(\d)"', text)
        heights[upwards] = {int(series): float(place.split()[0].split(",")[-1]) for place, series in marks}
    assert heights[True][1] < heights[True][0] and heights[False][1] > heights[False][0]


def test_mean_ranks_share_ties_and_skip_what_is_missing() -> None:
    values = {"a": {"EN": [3.0], "MSE": [5.0]}, "b": {"EN": [3.0], "MSE": [1.0]}, "c": {"EN": [9.0], "MSE": [math.nan]}}
    found = make_evaluation(values)
    assert mean_ranks(found) == {"a": 2.25, "b": 1.75, "c": 1.0}


def test_only_costs_measured_alike_stand_in_one_plot(tmp_path: Path) -> None:
    found = random_evaluation(["a", "b", "c", "average"], ["EN", "VIF"], baselines=["average"])
    costs = [
        cost("c", device="cuda", threads=0),
        cost("a"),
        cost("b", seconds_median=0.1),
        cost("average", macs=0, params=0),
        cost("stranger"),
    ]
    root = page(tmp_path, found, costs=costs)
    section = root.one("section", id="plots").text
    assert "Measured at 640×480 px, cpu, 2 threads, float32" in section
    assert "Without a cost: c." in section and "not in the plot of them: average." in section
    assert "c (640×480 px, cuda, float32); stranger (640×480 px, cpu, 2 threads, float32)" in section
    assert [option.text for option in root.one("select", id="quality").all("option")] == ["mean rank", "EN", "VIF"]
    assert ["hidden" in plot.attributes for plot in root.all("div", class_="tradeoff")] == [False, True, True]
    rows = root.one("table", class_="costs").one("tbody").all("tr")
    assert rows[0].text == "a 1,000 1 G 500 ms 450 ms – 600 ms 300 MB" and len(rows) == 3
    assert make_cost_section(found, [cost("stranger")], [], {}) is None


def by_hand(name: str, **fields: Any) -> Any:
    """A cost as a person writes it: most fields are missing."""
    names = [field.name for field in dataclasses.fields(Cost)]
    return SimpleNamespace(**{**dict.fromkeys(names), "name": name, **fields})


def test_costs_written_by_hand_may_lack_anything(tmp_path: Path) -> None:
    found = random_evaluation(["a", "b", "c", "d", "e"], ["EN", "VIF"])
    costs = [
        cost("a"),
        by_hand("b", macs=2e9, size="640x480"),
        by_hand("c", params=1_200_000),
        by_hand("d", macs=3e9),
        by_hand("e"),
    ]
    root = page(tmp_path, found, costs=costs)
    rows = [row.text for row in root.one("table", class_="costs").one("tbody").all("tr")]
    assert rows == [
        "a 1,000 1 G 500 ms 450 ms – 600 ms 300 MB",
        "b – 2 G – – –",
        "c 1,200,000 – – – –",
    ]
    section = root.one("section", id="plots").text
    assert "Without a cost: d, e." in section and "No time given, not in the plot of it: b, c." in section
    assert "not in the plot of them: c." in section and "d (not said how); e (not said how)" in section
    time, macs = root.all("div", class_="tradeoff")[0].all("figure")
    series = {str(style.series): name for name, style in make_styles(found.summary.is_baseline).items()}
    drawn = [
        {series[node.attributes["data-series"]] for node in plot.walk() if "data-series" in node.attributes}
        for plot in (time, macs)
    ]
    assert drawn == [{"a"}, {"a", "b"}]


@pytest.mark.parametrize("field", ["variant", "params", "macs", "size", "seconds_median", "seconds_iqr", "peak_mb"])
def test_a_cost_without_one_field_is_shown(tmp_path: Path, field: str) -> None:
    found = random_evaluation(["a", "b"], ["EN"])
    costs = [by_hand(**{**vars(cost("a")), field: None})]
    shown = make_cost_section(found, costs, [], make_styles(found.summary.is_baseline))
    assert shown is not None and [row["name"] for row in shown.rows] == ["a"]
    dashes = {"params": "params", "macs": "macs", "seconds_median": "seconds", "seconds_iqr": "quartiles"}
    if place := {**dashes, "peak_mb": "peak"}.get(field):
        assert shown.rows[0][place] == "–"
    assert bool(shown.choices[0]["seconds"]) == (field != "seconds_median")
    assert bool(shown.choices[0]["macs"]) == (field != "macs")


def test_costs_of_unknown_conditions_are_said_to_be(tmp_path: Path) -> None:
    found = random_evaluation(["a", "b"], ["EN"])
    root = page(tmp_path, found, costs=[by_hand("a", seconds_median=0.5), by_hand("b", seconds_median=0.1)])
    assert "How these were measured is not known." in root.one("section", id="plots").text
    assert "None" not in root.one("section", id="plots").text


def test_a_page_without_costs_says_where_they_come_from(tmp_path: Path) -> None:
    found = random_evaluation(["a", "b"], ["EN"])
    assert "No cost of a method of this page was given" in page(tmp_path, found).text


@pytest.mark.parametrize(
    ("scale", "labels"),
    [
        (Scale(2.55, 3.25, 0, 1), ["2.6", "2.8", "3.0", "3.2"]),
        (Scale(-0.004, 0.013, 0, 1), ["0.000", "0.005", "0.010"]),
        (Scale(-30.0, 2800.0, 0, 1), ["0", "1000", "2000"]),
        (Scale(-6.0, -1.0, 0, 1), ["−6", "−4", "−2"]),
        (Scale(0.006, 2.0, 0, 1, log=True), ["0.01", "0.1", "1"]),
        (Scale(4.0, 60.0, 0, 1, log=True), ["5", "10", "20", "50"]),
    ],
)
def test_ticks_are_round_numbers_inside(scale: Scale, labels: list[str]) -> None:
    assert [label for _, label in scale.ticks()] == labels
    assert all(0 <= scale(number) <= 1 for number, _ in scale.ticks())
