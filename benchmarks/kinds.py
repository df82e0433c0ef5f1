"""Exposures, foci and medical pairs: the packaged weights of each kind beside the baselines and what OpenCV can do.

    TECTUM_DATA=DIR python benchmarks/kinds.py [SET ...] [--write] [--sheet FILE]

Of two exposures OpenCV's exposure fusion (Mertens et al., in colour as it is meant) is a row, of two foci a selection
of the sharper source: the energy of the Laplacian around each pixel decides, a median takes out islands. Both are made
here, in full colour, and scored as any folder of images. `mf_voc` comes with the picture that is sharp everywhere: PSNR
against it is printed too. Scores and these pictures are kept in out/kinds: remove it after a change here. --write puts
the tables into docs/results.md; --sheet draws a few pairs of one set with every row.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from results import compare_with, make_table, put
from tectum.data.datasets import DATASETS, find_pairs
from tectum.data.folders import find_folder
from tectum.data.parts import read_split
from tectum.evaluation.evaluate import Evaluator
from tectum.io.folders import PairFiles
from tectum.io.image import picture_from_array, read_image
from tectum.kinds import KINDS

Picture = npt.NDArray[Any]

SETS = {
    "mefb": "exposure",
    "lytro": "focus",
    "mffw": "focus",
    "mfi_whu": "focus",
    "mf_voc": "focus",
    "harvard_ct_mri": "medical",
    "harvard_pet_mri": "medical",
    "harvard_spect_mri": "medical",
}
METRICS = {
    "exposure": ("EN", "SD", "AG", "MI", "MEF-SSIM", "MS-SSIM", "VIF", "Qabf", "Qcb"),
    "focus": ("SF", "AG", "NMI", "SSIM", "VIF", "Qabf", "FMI", "Qcb"),
    "medical": ("EN", "SD", "SF", "MI", "SCD", "SSIM", "VIF", "Qabf", "Qcb"),
}


def mertens(a: Picture, b: Picture) -> Picture:
    """Exposure fusion as OpenCV has it, two colour images to one."""
    return np.clip(255 * cv2.createMergeMertens().process([a, b]) + 0.5, 0, 255).astype(np.uint8)


def sharper(a: Picture, b: Picture) -> Picture:
    """The source whose Laplacian has more energy around a pixel; the seam is smoothed over a few pixels."""
    energy = [
        cv2.GaussianBlur(cv2.Laplacian(cv2.cvtColor(k, cv2.COLOR_BGR2GRAY), cv2.CV_32F, ksize=3) ** 2, (0, 0), 5)
        for k in (a, b)
    ]
    chosen = cv2.medianBlur((energy[0] > energy[1]).astype(np.uint8), 31).astype(np.float32)
    share = cv2.GaussianBlur(chosen, (0, 0), 2)[..., None]
    return (b + share * (a.astype(np.float32) - b) + 0.5).astype(np.uint8)


REFERENCES: dict[str, dict[str, Callable[[Picture, Picture], Picture]]] = {
    "exposure": {"OpenCV Mertens": mertens},
    "focus": {"OpenCV sharpness": sharper},
    "medical": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=[*SETS], metavar="SET")
    parser.add_argument("--weights", type=Path, help="a file in place of the packaged set")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/results.md")
    parser.add_argument("--sheet", type=Path, help="draw pairs of one set, a row each, instead of scoring")
    parser.add_argument("--names", nargs="*", help="which pairs to draw; three at even steps without it")
    given = parser.parse_args()
    if not os.environ.get("TECTUM_DATA"):
        parser.error("set TECTUM_DATA to the folder of data sets")
    if unknown := [name for name in given.sets if name not in SETS]:
        parser.error(f"unknown set {unknown[0]}; choose from {', '.join(SETS)}")
    if (given.sheet or given.names or given.weights) and len(given.sets) != 1:
        parser.error("--sheet, --names and --weights go with one set; name it")
    for name in given.sets:
        evaluator, pairs = opened(name, given.weights)
        if given.sheet:
            if lost := [each for each in given.names or () if each not in pairs]:
                parser.error(f"{name} has no pair {lost[0]}")
            draw(evaluator, given.names or evenly(list(pairs)), given.sheet)
            continue
        found = compare_with(evaluator.methods[0].name, evaluator.run())
        text = make_table(found, {})
        if name == "mf_voc":
            text += f"\n\nPSNR of the picture that is all in focus, dB: {truth(evaluator, pairs)}."
        print(f"\n## {name}, {len(found.scores.images)} pairs\n\n{text}", flush=True)
        if given.write:
            put("results.md", f"kind {name}", text)


def opened(name: str, weights: Path | None = None) -> tuple[Evaluator, dict[str, PairFiles]]:
    """An evaluation of the test pairs of a set, and the pairs."""
    kind, root = KINDS[SETS[name]], Path(os.environ["TECTUM_DATA"])
    known = name in DATASETS
    home = root if known else find_folder(root, (name,))
    assert home is not None, f"{root} has no folder {name}"
    matches = find_pairs(name if known else "folder", home, "test", kind=kind.name)
    if name == "mefb":
        chosen = read_split("mefb-30")
        matches = replace(matches, pairs=tuple(pair for pair in matches.pairs if pair.name in chosen))
    pairs = {pair.name: pair for pair in matches.pairs}
    out = Path("out") / "kinds" / name
    methods: dict[str, Any] = {"AdaSFFuse": f"adasffuse@{weights or f'adasffuse-{kind.name}'}"}
    if kind.system != "adasffuse":
        methods = {kind.system: kind.system, **methods}
    for title, make in REFERENCES[kind.name].items():
        methods[title] = made(make, pairs, out / "references" / title.split()[-1].lower())
    return Evaluator(methods, "", "", out=out, metrics=METRICS[kind.name], kind=kind.name, pairs=matches), pairs


def made(make: Callable[[Picture, Picture], Picture], pairs: dict[str, PairFiles], folder: Path) -> Path:
    """A folder with what a function makes of each pair; what is there already is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pair in pairs.items():
        path = folder / f"{name}.png"
        if not path.exists():
            cv2.imwrite(str(path), make(colour(pair.visible), colour(pair.infrared)))
    return folder


def colour(path: Path) -> Picture:
    """BGR, uint8."""
    found = cv2.imread(str(path))
    assert found is not None, path
    return found


def truth(evaluator: Evaluator, pairs: dict[str, PairFiles]) -> str:
    """Mean PSNR of the luminance against gt/NAME beside the sources, by method."""
    values: dict[str, list[float]] = {}
    for image, pair in pairs.items():
        wanted = read_image(next((pair.visible.parents[1] / "gt").glob(f"{image}.*"))).y.double()
        for method in (*(each.name for each in evaluator.methods), *evaluator.kind.roles):
            found = picture_from_array(evaluator.picture(image, method)).y.double()
            values.setdefault(method, []).append(-10 * float((found - wanted).square().mean().log10()))
    return ", ".join(f"{method} {np.mean(each):.2f}" for method, each in values.items())


def evenly(names: Sequence[str], count: int = 3) -> list[str]:
    return [names[len(names) * i // count] for i in range(count)]


def draw(evaluator: Evaluator, names: Sequence[str], file: Path, height: int = 360) -> None:
    """A row for each pair: the sources, then every method and the Laplacian pyramid."""
    methods = [method.name for method in evaluator.methods if not method.is_baseline] + ["laplacian"]
    rows = []
    for name in names:
        row = []
        for column in (*evaluator.kind.roles, *methods):
            x = evaluator.picture(name, column)
            x = np.repeat(x[..., None], 3, 2) if x.ndim == 2 else x
            row.append(cv2.resize(x, (round(x.shape[1] * height / x.shape[0]), height), interpolation=cv2.INTER_AREA))
        rows.append(np.hstack(row))
    width = max(row.shape[1] for row in rows)
    sheet = np.vstack([np.pad(row, ((0, 6), (0, width - row.shape[1]), (0, 0))) for row in rows])
    cv2.imwrite(str(file), sheet[..., ::-1])
    print(f"{file}: {', '.join((*evaluator.kind.roles, *methods))}; {', '.join(names)}")


if __name__ == "__main__":
    main()
