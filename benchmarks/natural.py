"""The tables of docs/results.md for weights on the natural objective, in CDDFuse's convention, beside other methods.

    tectum weights convert ReFusion_IVIF.pth -o FILE
    TECTUM_DATA=DIR python benchmarks/natural.py [SET ...] [--refusion FILE] [--write]

Rows of other methods are of their authors' weights and the same evaluator, on the same images unless the page says
otherwise; ReFusion's are made here if its weights are given. Scores are kept in out/natural. Needs the sets in known
folders below TECTUM_DATA (`tectum.data.datasets`).
"""

import argparse
import os
from pathlib import Path

from results import make_table, put
from tectum.data.datasets import find_pairs
from tectum.data.parts import read_split
from tectum.evaluation.evaluate import Evaluator

SETS = {  # title, set, list of pairs
    "msrs": ("msrs", "msrs-test"),
    "tno25": ("tno", "tno-25"),
    "tno42": ("tno", None),
    "roadscene": ("roadscene", "roadscene-test"),
    "m3fd": ("m3fd", None),
    "llvip": ("llvip", None),
}
METHODS = {
    "swift-natural": "swift@swift-natural",
    "adasffuse-natural": "adasffuse@adasffuse-natural",
    "tdfusion-natural": "tdfusion@tdfusion-natural",
    "sfofusion-natural": "sfofusion@sfofusion-natural",
    "adasffuse-infrared": "adasffuse@adasffuse-infrared",
    "tdfusion-fixed-msrs": "tdfusion@tdfusion-fixed-msrs",
}
OTHERS = {  # EN SD SF MI SCD VIF Qabf SSIM, from runs of the authors' weights; CDDFuse's are its paper's
    "msrs": {
        "CDDFuse, published, 361 pairs": "6.70 43.38 11.56 3.47 1.62 1.05 0.69 1.00",
        "SeAFusion, 361 pairs": "6.65 41.84 11.11 2.79 1.69 0.97 0.67 0.99",
        "MMDRFuse, 361 pairs": "6.68 43.08 11.08 2.55 1.66 0.90 0.60 0.97",
        "SAGE, 361 pairs": "6.00 36.34 10.42 2.24 1.42 0.71 0.54 0.89",
    },
    "tno25": {
        "CDDFuse, published": "7.12 46.00 13.15 2.19 1.76 0.77 0.54 1.03",
        "SHIP": "6.96 40.81 12.94 2.83 1.55 0.78 0.58 0.96",
        "ReFusion": "7.10 43.77 12.89 2.04 1.73 0.75 0.55 1.02",
        "SeAFusion": "7.10 44.20 12.41 2.00 1.72 0.69 0.51 0.99",
        "MMDRFuse": "7.05 41.00 11.35 2.05 1.71 0.70 0.48 1.00",
        "SAGE": "6.88 41.39 10.50 1.79 1.73 0.63 0.46 0.98",
    },
    "roadscene": {
        "CDDFuse, published": "7.44 54.67 16.36 2.30 1.81 0.69 0.52 0.98",
        "ReFusion": "7.30 47.69 15.58 2.18 1.74 0.71 0.58 0.95",
        "SHIP": "7.15 44.74 14.65 2.84 1.42 0.71 0.58 0.91",
        "SeAFusion": "7.36 51.32 15.39 2.24 1.71 0.67 0.53 0.94",
        "MMDRFuse": "7.25 47.23 11.65 2.37 1.78 0.67 0.48 0.97",
        "SAGE": "7.04 45.92 9.86 2.12 1.66 0.57 0.41 0.90",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=SETS, metavar="SET")
    parser.add_argument("--refusion", metavar="FILE", help="ReFusion's weights, converted, for rows of its own")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/results.md")
    given = parser.parse_args()
    if not os.environ.get("TECTUM_DATA"):
        parser.error("set TECTUM_DATA to the folder of data sets")
    for title in given.sets:
        name, split = SETS[title]
        pairs = find_pairs(name, os.environ["TECTUM_DATA"])
        out = Path("out") / "natural" / title
        names = None if split is None else read_split(split)
        methods, others = dict(METHODS), OTHERS.get(title, {})
        if given.refusion:
            methods["ReFusion"] = f"tdfusion@{given.refusion}"
            others = {name: row for name, row in others.items() if name != "ReFusion"}
        found = Evaluator(methods, "", "", out=out, pairs=pairs, convention="cddfuse", names=names).run()
        text = make_table(found, others)
        print(f"\n## {title}, {len(found.scores.images)} pairs\n\n{text}")
        if given.write:
            put("results.md", f"natural {title}", text)


if __name__ == "__main__":
    main()
