"""The tables of docs/results.md: the packaged weights and all baselines on real test pairs; and how metrics are gamed.

    TECTUM_DATA=DIR python benchmarks/results.py [SET ...] [--write]

Needs the sets in known folders below TECTUM_DATA (`tectum.data.datasets`). Scores are kept in out/results, so a second
run takes seconds. --write puts the tables between their marks in docs/results.md and, that of the tricks, in
docs/metrics.md.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.data.datasets import find_pairs
from tectum.data.parts import read_split
from tectum.evaluation.evaluate import Evaluation, Evaluator
from tectum.evaluation.statistics import summarise
from tectum.evaluation.tables import explain_undefined, markdown_table
from tectum.models import SYSTEMS

DOCS = Path(__file__).parents[1] / "docs"
SETS = {"msrs": "msrs-test", "tno": None, "roadscene": "roadscene-test"}  # and the list of pairs, where there is one
CONVENTIONS = ("tectum", "tdfusion", "cddfuse")
PUBLISHED = {  # rows of papers, on the images that the page names
    ("msrs", "tdfusion"): {"TDFusion, published": "6.74 11.30 1.86 0.50 0.67 0.70"},
    ("m3fd", "tdfusion"): {"TDFusion, published": "6.99 14.49 1.83 0.41 0.65 0.72"},
    ("llvip", "tdfusion"): {"TDFusion, published": "7.36 16.38 1.75 0.46 0.70 0.67"},
    ("msrs", "cddfuse"): {"CDDFuse, published": "6.70 43.38 11.56 3.47 1.62 1.05 0.69 1.00"},
    ("roadscene", "cddfuse"): {"CDDFuse, published": "7.44 54.67 16.36 2.30 1.81 0.69 0.52 0.98"},
}
GAMED = ("EN", "SD", "SF", "AG", "MI", "SCD", "MSE", "SSIM", "VIF", "Qabf", "Qcb")


class Trick(nn.Module):
    """An image that no one would call a fusion."""

    def __init__(self, make: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.make = make

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.make(a, b).clamp(0, 1)


def stretched(a: Tensor, b: Tensor) -> Tensor:
    x = (a + b) / 2
    low, high = (x.flatten().kthvalue(max(1, int(part * x.numel()))).values for part in (0.02, 0.98))
    return (x - low) / (high - low)


def noisy(a: Tensor, b: Tensor) -> Tensor:
    """With noise of 8 grey levels."""
    x = (a + b) / 2
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 8 / 255


def sharpened(a: Tensor, b: Tensor) -> Tensor:
    """The maximum, its details three times as strong."""
    x = torch.maximum(a, b)
    return x + 2 * (x - F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, stride=1))


def added(a: Tensor, b: Tensor) -> Tensor:
    """A + B less its mean brightness, clipped."""
    return a + b - (a.mean() + b.mean()) / 2


TRICKS = {
    "average, stretched": stretched,
    "average + noise": noisy,
    "maximum, oversharpened": sharpened,
    "A + B, clipped": added,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=SETS, metavar="SET")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/results.md")
    given = parser.parse_args()
    if not os.environ.get("TECTUM_DATA"):
        parser.error("set TECTUM_DATA to the folder of data sets")
    for name in given.sets:
        for convention in CONVENTIONS:
            found = evaluate_systems(name, convention)
            text = make_table(found, PUBLISHED.get((name, convention), {}))
            print(f"\n## {name}, convention {convention}, {len(found.scores.images)} pairs\n\n{text}")
            if given.write:
                put("results.md", f"{name} {convention}", text)
    text = make_table(evaluate_tricks("msrs"), {})
    print(f"\n## tricks, msrs\n\n{text}")
    if given.write:
        put("metrics.md", "gaming table", text)


def evaluate_systems(name: str, convention: str) -> Evaluation:
    """All packaged defaults and baselines on a set."""
    pairs = find_pairs(name, os.environ["TECTUM_DATA"])
    systems = {
        key: key for key, system in SYSTEMS.items() if system.weights is not None and system.variant != "published"
    }
    out = Path("out") / "results" / name / convention
    names = None if SETS[name] is None else read_split(SETS[name])
    return Evaluator(systems, "", "", out=out, pairs=pairs, convention=convention, names=names).run()


def evaluate_tricks(name: str) -> Evaluation:
    """Our fuser beside baselines and tricks; all but ours are marked where they win."""
    pairs = find_pairs(name, os.environ["TECTUM_DATA"])
    methods: dict[str, Any] = {"tdfusion": "tdfusion", **{trick: Trick(make) for trick, make in TRICKS.items()}}
    out, names = Path("out") / "results" / name / "tectum", read_split("msrs-test")
    evaluator = Evaluator(methods, "", "", out=out, pairs=pairs, metrics=GAMED, names=names)
    return compare_with("tdfusion", evaluator.run())


def compare_with(ours: str, evaluation: Evaluation) -> Evaluation:
    """Returns the evaluation with every other method as a baseline, marked where it wins."""
    scores, higher = evaluation.scores, evaluation.higher_is_better
    others = [method for method in scores.methods if method != ours]
    return replace(evaluation, summary=summarise(scores, higher_is_better=higher, baselines=others))


def make_table(evaluation: Evaluation, published: dict[str, str]) -> str:
    """Markdown: our rows, the published ones, then what is not defined."""
    lines = markdown_table(evaluation).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| *"))
    lines[first:first] = [f"| {name} | {' | '.join(values.split())} |" for name, values in published.items()]
    return "\n".join([*lines, *(f"\n{sentence}." for sentence in explain_undefined(evaluation))])


def put(page: str, mark: str, text: str) -> None:
    """Replace what stands between `<!-- MARK -->` and `<!-- end -->`."""
    path = DOCS / page
    start = f"<!-- {mark} -->\n"
    before, found, rest = path.read_text(encoding="utf-8").partition(start)
    assert found, f"{path} has no {start}"
    _, end, after = rest.partition("<!-- end -->")
    path.write_text(f"{before}{start}{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
