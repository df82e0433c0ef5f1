"""The tables of docs/results.md: the packaged weights and all baselines on real test pairs.

    TECTUM_DATA=DIR python benchmarks/results.py [SET ...] [--write]

Needs the sets in known folders below TECTUM_DATA (`tectum.data.datasets`). Scores are kept in out/results, so a second
run takes seconds. --write puts the tables between their marks in docs/results.md.
"""

import argparse
import os
from pathlib import Path

from tectum.data.datasets import find_set
from tectum.engine.evaluate import Evaluation, Evaluator
from tectum.report.tables import markdown_table, undefined
from tectum.systems import SYSTEMS

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
SETS = ("msrs", "tno", "roadscene")
CONVENTIONS = ("tectum", "tdfusion", "cddfuse")
PUBLISHED = {  # rows of papers, on the images that the page names
    ("msrs", "tdfusion"): {"TDFusion, published": "6.74 11.30 1.86 0.50 0.67 0.70"},
    ("msrs", "cddfuse"): {"CDDFuse, published": "6.70 43.38 11.56 3.47 1.62 1.05 0.69 1.00"},
    ("roadscene", "cddfuse"): {"CDDFuse, published": "7.44 54.67 16.36 2.30 1.81 0.69 0.52 0.98"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=SETS, metavar="SET")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/results.md")
    given = parser.parse_args()
    for name in given.sets:
        for convention in CONVENTIONS:
            found = evaluation(name, convention)
            text = table(found, PUBLISHED.get((name, convention), {}))
            print(f"\n## {name}, convention {convention}, {len(found.scores.images)} pairs\n\n{text}")
            if given.write:
                put(f"{name} {convention}", text)


def evaluation(name: str, convention: str) -> Evaluation:
    visible, infrared = find_set(name, os.environ["TECTUM_DATA"])
    systems = {key: key for key, system in SYSTEMS.items() if system.weights is not None}
    out = Path("out") / "results" / name / convention
    return Evaluator(systems, visible, infrared, out=out, convention=convention, data=f"{name} test").run()


def table(found: Evaluation, published: dict[str, str]) -> str:
    """Markdown: our rows, the published ones, then what is not defined."""
    lines = markdown_table(found).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| *"))
    lines[first:first] = [f"| {name} | {' | '.join(values.split())} |" for name, values in published.items()]
    return "\n".join([*lines, *(f"\n{sentence}." for sentence in undefined(found))])


def put(mark: str, text: str) -> None:
    """Replace what stands between `<!-- MARK -->` and `<!-- end -->`."""
    page = PAGE.read_text(encoding="utf-8")
    start = f"<!-- {mark} -->\n"
    before, found, rest = page.partition(start)
    assert found, f"{PAGE} has no {start}"
    _, end, after = rest.partition("<!-- end -->")
    PAGE.write_text(f"{before}{start}{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
