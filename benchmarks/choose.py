"""A blind comparison of fused images: one of two unlabelled results is preferred, scene by scene.

    TECTUM_DATA=DIR python benchmarks/choose.py page -o out/choose --ours NAME=METHOD --others NAME=METHOD ...
    python benchmarks/choose.py count out/choose CHOICES.json ...

METHOD is a system (`swift`, `tdfusion@FILE`) or a folder of fused images; `page` draws the scenes by the seed from
MSRS's, TNO's and RoadScene's test lists and writes:

    index.html       one comparison at a time: keys 1 and 2 choose, left goes back, the end offers choices.json
    sheets/NN.png    the same, four comparisons on a sheet: visible, infrared, result 1, result 2
    images/          numbered files
    key.json         which result is whose, and the seed: not to be opened before the choices are written

Which of the two is ours, and the order, are shuffled by the seed. `count` compares choices with the key. choices.json
is {"page": PAGE, "choices": {"1": 2, ...}}: comparison -> result, and PAGE the number in page.txt.
"""

import argparse
import hashlib
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.stats import binomtest

from tectum.data.datasets import find_pairs
from tectum.data.parts import read_split
from tectum.evaluation.evaluate import Evaluator

SCENES = {"msrs": ("msrs-test", 14), "tno": ("tno-25", 13), "roadscene": ("roadscene-test", 13)}
_ROWS, _WIDTH = 4, 420


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    page = commands.add_parser("page", help="make the page and the sheets")
    page.add_argument("-o", "--out", type=Path, default=Path("out/choose"))
    page.add_argument("--ours", required=True, metavar="NAME=METHOD")
    page.add_argument("--others", required=True, nargs="+", metavar="NAME=METHOD")
    page.add_argument("--seed", type=int, default=0)
    count = commands.add_parser("count", help="count choices")
    count.add_argument("page", type=Path)
    count.add_argument("choices", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    try:
        if given.command == "page":
            if not os.environ.get("TECTUM_DATA"):
                parser.error("set TECTUM_DATA to the folder of data sets")
            methods = dict(text.partition("=")[::2] for text in (given.ours, *given.others))
            write_page(given.out, draw_scenes(methods, given.out, given.seed), [*methods], given.seed)
            print(f"{given.out}/index.html, {given.out}/sheets")
        else:
            print(tabulate(json.loads((given.page / "key.json").read_text()), given.choices))
    except ValueError as error:
        parser.exit(2, f"choose: {error}\n")
    return 0


def draw_scenes(methods: dict[str, str], out: Path, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Images of the drawn scenes, {SET/NAME: {"visible", "infrared", METHOD: (H,W[,3])}}."""
    scenes = {}
    specs: dict[str, Any] = {name: Path(spec) if Path(spec).is_dir() else spec for name, spec in methods.items()}
    for name, (split, num) in SCENES.items():
        drawn = sorted(random.Random(seed).sample(sorted(read_split(split)), num))
        pairs = find_pairs(name, os.environ["TECTUM_DATA"])
        evaluator = Evaluator(specs, "", "", out=out / "work" / name, pairs=pairs, names=drawn, metrics=("EN",))
        for scene in drawn:
            scenes[f"{name}/{scene}"] = {x: evaluator.picture(scene, x) for x in ("visible", "infrared", *methods)}
    return scenes


def write_page(out: Path, scenes: dict[str, dict[str, np.ndarray]], methods: Sequence[str], seed: int) -> None:
    """Write page, sheets, images and key: the first method against each other one, on every scene."""
    shuffle, ours = random.Random(seed), methods[0]
    trials = []
    for other in methods[1:]:
        first = [i % 2 == 0 for i in range(len(scenes))]
        shuffle.shuffle(first)
        trials += [(scene, [ours, other] if left else [other, ours]) for scene, left in zip(scenes, first, strict=True)]
    shuffle.shuffle(trials)
    text = json.dumps([seed, trials])
    number = hashlib.sha256(text.encode()).hexdigest()[:12]
    for folder in ("images", "sheets"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (scene, sides) in enumerate(trials, 1):
        pictures = [_colour(scenes[scene][name]) for name in ("visible", "infrared", *sides)]
        for part, picture in zip("vi12", pictures, strict=True):
            cv2.imwrite(str(out / "images" / f"{i:03}{part}.png"), picture[..., ::-1])
        height = round(_WIDTH * pictures[0].shape[0] / pictures[0].shape[1])
        row = np.hstack([cv2.resize(x, (_WIDTH, height), interpolation=cv2.INTER_AREA) for x in pictures])
        row = np.pad(row, ((0, 8), (60, 0), (0, 0)))
        rows.append(cv2.putText(row, str(i), (4, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2))
    for k in range(0, len(rows), _ROWS):
        cv2.imwrite(str(out / "sheets" / f"{k // _ROWS + 1:02}.png"), np.vstack(rows[k : k + _ROWS])[..., ::-1])
    html = _PAGE.replace("NUMBER", number).replace("TRIALS", str(len(trials)))
    (out / "index.html").write_text(html, encoding="utf-8")
    key = {"page": number, "seed": seed, "ours": ours, "trials": [{"scene": s, "results": r} for s, r in trials]}
    (out / "key.json").write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
    (out / "page.txt").write_text(f"{number}\n", encoding="utf-8")


def tabulate(key: dict[str, Any], files: Sequence[Path]) -> str:
    """Markdown table: how often each reader preferred ours to each other method, with a two-sided sign test.

    Raises:
        ValueError: choices of another page, or that are no choices.
    """
    lines = ["| reader | against | ours preferred | of | p | by set |", "|---|---|--:|--:|--:|---|"]
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found.get("page") != key["page"]:
            raise ValueError(f"{file} must be of page {key['page']}, got {found.get('page')}; take the page's own")
        wins: dict[str, dict[str, list[bool]]] = {}
        for trial, choice in found["choices"].items():
            if not (trial.isdigit() and 0 < int(trial) <= len(key["trials"]) and choice in (1, 2)):
                raise ValueError(f"choices must be 1 or 2 by number of comparison, got {trial}: {choice} in {file}")
            asked = key["trials"][int(trial) - 1]
            other = next(name for name in asked["results"] if name != key["ours"])
            by_set = wins.setdefault(other, {})
            by_set.setdefault(asked["scene"].split("/")[0], []).append(asked["results"][choice - 1] == key["ours"])
        for other, by_set in sorted(wins.items()):
            all_ = [win for each in by_set.values() for win in each]
            p = binomtest(sum(all_), len(all_)).pvalue
            parts = ", ".join(f"{name} {sum(each)}/{len(each)}" for name, each in sorted(by_set.items()))
            lines.append(f"| {file.stem} | {other} | {sum(all_)} | {len(all_)} | {p:.2g} | {parts} |")
    return "\n".join(lines)


def _colour(x: np.ndarray) -> np.ndarray:
    return np.repeat(x[..., None], 3, 2) if x.ndim == 2 else x[..., :3]


_PAGE = """<!doctype html><meta charset="utf-8"><title>Which do you prefer?</title>
<style>body{background:#222;color:#ddd;font:16px sans-serif;margin:8px;text-align:center}
figure{display:inline-block;margin:4px;width:47%}img{width:100%}button{font-size:18px;margin:4px}</style>
<p id="at"></p>
<figure><img id="v" alt="visible"><figcaption>visible</figcaption></figure>
<figure><img id="i" alt="infrared"><figcaption>infrared</figcaption></figure><br>
<figure><img id="r1" alt="result 1"><figcaption><button onclick="choose(1)">1</button></figcaption></figure>
<figure><img id="r2" alt="result 2"><figcaption><button onclick="choose(2)">2</button></figcaption></figure>
<p><a id="save" download="choices.json"></a></p>
<script>
const number = "NUMBER", trials = TRIALS, name = "tectum-choices-" + number;
let choices = {};
try { choices = JSON.parse(localStorage.getItem(name)) || {}; } catch {}
let at = 1;
while (at <= trials && choices[at]) at++;
function show() {
  const done = at > trials;
  const asks = `Which do you prefer? ${at} of ${trials}; keys 1, 2, left`;
  document.getElementById("at").textContent = done ? "Done." : asks;
  if (!done) for (const [id, part] of [["v", "v"], ["i", "i"], ["r1", "1"], ["r2", "2"]])
    document.getElementById(id).src = `images/${String(at).padStart(3, "0")}${part}.png`;
  const save = document.getElementById("save");
  save.textContent = done ? "choices.json" : "";
  if (done) save.href = "data:application/json," + encodeURIComponent(JSON.stringify({page: number, choices}));
}
function choose(side) {
  if (at > trials) return;
  choices[at++] = side;
  try { localStorage.setItem(name, JSON.stringify(choices)); } catch {}
  show();
}
addEventListener("keydown", (event) => {
  if (event.key === "1" || event.key === "2") choose(Number(event.key));
  if (event.key === "ArrowLeft" && at > 1) { at--; show(); }
});
show();
</script>
"""


if __name__ == "__main__":
    main()
