"""Learned losses against fixed ones: the tables of docs/results.md under "Learned against fixed", and their figure.

    TECTUM_DATA=DIR python benchmarks/learned.py scores|systems|maps|ablations|figure [--runs DIR] [--write]

scores      every packaged set of weights on the test pairs of five sets, in TDFusion's convention
systems     the four systems beside each other on the same sets, by their fixed and their learned weights
maps        how much of the infrared each learned loss asks for, on things and background of unseen pairs (Fig. 5)
ablations   the runs DIR/I .. DIR/V of `tectum train RECIPE --ablation I`, beside DIR/full, on the MSRS test pairs
figure      the weight maps of both losses on synthetic scenes: docs/figures/learned-weights.jpg
"""

import argparse
import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from results import PUBLISHED, SETS, make_table, put
from tectum.color import rgb_to_ycbcr
from tectum.data.datasets import find_pairs, open_set
from tectum.data.parts import read_split
from tectum.data.synthetic import render
from tectum.data.transforms import resize
from tectum.evaluation.evaluate import Evaluation, Evaluator
from tectum.nn.stages import fuse_tensors
from tectum.pretrained.loading import cards, load, load_objective

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "learned-weights.jpg"
NAMES = {
    "fixed": "tdfusion-fixed-msrs",
    "learned, segmentation": "tdfusion-msrs",
    "learned, detection": "tdfusion-msrs-detection",
}
BY_SYSTEM = {
    "TDFusion, fixed": "tdfusion-fixed-msrs",
    "TOMIFF, fixed": "tomiff-fixed-msrs",
    "TOMIFF, learned": "tomiff-msrs",
    "SFOFusion, fixed": "sfofusion-fixed-msrs",
    "SFOFusion, learned": "sfofusion-msrs",
    "AdaSFFuse": "adasffuse-infrared",
}
PARTS = {"full": "learned", "I": "I: w = 1/2", "II": "II: no gradient term", "III": "III: the task's loss too",
         "IV": "IV: no fusion phase", "V": "V: w_a a + w_b b"}  # fmt: skip
ALL_SETS = SETS | {"m3fd": None, "llvip": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scores", "systems", "maps", "ablations", "figure"))
    parser.add_argument("--sets", nargs="*", help="all five without it")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--write", action="store_true", help="put the tables into docs/results.md")
    arguments = parser.parse_args()
    if arguments.what == "figure":
        figure()
        return
    if arguments.what == "maps":
        show("learned maps", maps(), write=arguments.write)
    elif arguments.what == "ablations":
        runs = {title: f"tdfusion@{arguments.runs / part / 'best.safetensors'}" for part, title in PARTS.items()
                if part != "V" and (arguments.runs / part / "best.safetensors").exists()}  # fmt: skip
        sums = arguments.runs / "V" / "best.safetensors"
        if sums.exists():
            runs[PARTS["V"]] = f"tectum.models.tdfusion:WEIGHTED_SUM@{sums}"
        show("ablations", make_table(evaluate_set("msrs", runs, "ablations"), {}), write=arguments.write)
    else:
        rows, mark = (BY_SYSTEM, "systems") if arguments.what == "systems" else (NAMES, "learned")
        packaged = {title: f"{cards()[name]['system']}@{name}" for title, name in rows.items() if name in cards()}
        for name in arguments.sets or ALL_SETS:
            evaluation = evaluate_set(name, packaged, mark)
            show(f"{mark} {name}", make_table(evaluation, PUBLISHED.get((name, "tdfusion"), {})), write=arguments.write)


def show(mark: str, text: str, *, write: bool) -> None:
    print(f"\n## {mark}\n\n{text}", flush=True)
    if write:
        put("results.md", mark, text)


def evaluate_set(name: str, systems: dict[str, str], out: str) -> Evaluation:
    pairs = find_pairs(name, os.environ["TECTUM_DATA"])
    names = None if ALL_SETS[name] is None else read_split(str(ALL_SETS[name]))
    folder = Path("out") / "results" / name / out
    return Evaluator(systems, "", "", out=folder, pairs=pairs, convention="tdfusion", names=names).run()


def learned_losses() -> dict[str, torch.nn.Module]:
    losses = {title: load_objective(name) for title, name in NAMES.items() if "objective" in cards().get(name, {})}
    for title, name in BY_SYSTEM.items():
        if "objective" in cards().get(name, {}):
            losses[f"learned, segmentation ({title.partition(',')[0]})"] = load_objective(name)
    return losses


@torch.inference_mode()
def maps() -> str:
    """Mean weight of the infrared over the pixels of a class, by day and by night, on the MSRS test pairs."""
    pairs = open_set("msrs", os.environ["TECTUM_DATA"], split="test", target="masks")
    classes = ("background", "car", "person", "bike")
    lines = ["| loss learned from | hour | " + " | ".join(classes) + " |", "| --- | --- |" + " --: |" * len(classes)]
    for title, objective in learned_losses().items():
        sums: dict[tuple[str, int], Tensor] = {}
        for index, name in enumerate(pairs.names):
            pair = resize(pairs[index], (240, 320), masks=True)
            infrared = objective.weights(pair.a, pair.b)[0, 1]  # type: ignore[operator]
            for label in range(len(classes)):
                inside = infrared[pair.target[0] == label]
                key = "day" if name.endswith("D") else "night", label
                sums[key] = sums.get(key, torch.zeros(2)) + torch.tensor([float(inside.sum()), inside.numel()])
        for hour in ("day", "night"):
            means = [sums[hour, label] for label in range(len(classes))]
            cells = " | ".join(f"{float(total / num):.3f}" for total, num in means)
            lines.append(f"| {title.partition(', ')[2]} | {hour} | {cells} |")
    return "\n".join(lines)


@torch.inference_mode()
def figure() -> None:
    """Visible, infrared, the infrared's weight in each learned loss, and what each fuser makes."""
    rows = []
    losses = {title: loss for title, loss in learned_losses().items() if title in NAMES}
    for seed in (3, 11):
        scene = render(seed, (240, 320))
        a, b = rgb_to_ycbcr(scene.visible)[0][None], scene.infrared[None]
        pictures = [a, b]
        for title, objective in losses.items():
            pictures.append(objective.weights(a, b)[:, 1:])  # type: ignore[operator]
            pictures.append(fuse_tensors(load(NAMES[title]), a, b))
        rows.append(torch.cat([picture[0, 0] for picture in pictures], dim=1))
    levels = (torch.cat(rows) * 255 + 0.5).clamp(0, 255).byte().numpy()
    Image.fromarray(levels).save(FIGURE, quality=88)
    print(FIGURE)


if __name__ == "__main__":
    main()
