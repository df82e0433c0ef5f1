"""Put the best weights of a run into the package, with their card.

    python benchmarks/package.py RUN NAME --data MSRS [--trained-on SENTENCE]

The card says what the weights were trained on, by which recipe, how long, and what came out: of a fixed loss the
training objective on the validation and the test pairs (lower is better), beside the average and the maximum of the
sources; of a learned one the validation line of the log, kept with the loss itself too: another run may train a fuser
on that loss and take the name over, as `tdfusion-refit-msrs` does. --note adds a sentence to the recipe.
"""

import argparse
import datetime
import json
from pathlib import Path

import torch
from torch import nn

from tectum.data.datasets import open_set
from tectum.data.labelled import JoinedPairs
from tectum.io.files import load_state
from tectum.models import SYSTEMS
from tectum.nn.stages import fuse_tensors
from tectum.pair import Pairs
from tectum.pretrained import loading as weights
from tectum.training import recipes
from tectum.training.loop import selection_score
from tectum.training.old_names import use_new_names
from tectum.training.recipes.build import build

MSRS = "MSRS: 181 labelled pairs of a re-split of its official test split; 40 more chose the checkpoint"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--data", type=Path, required=True, help="folder of the set, with train and test inside")
    parser.add_argument("--trained-on", default=MSRS, help="what the card says of the data")
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    recipe = recipes.read(arguments.run / "recipe.json")
    if recipe.kind != "infrared" and recipe.validation is None and arguments.trained_on == MSRS:
        parser.error(f"weights for {recipe.kind} pairs were not trained on MSRS; say on what with --trained-on")
    system = SYSTEMS[recipe.system]
    assert system.objective is not None
    lines = [json.loads(line) for line in (arguments.run / "log.jsonl").read_text().splitlines()]
    best = use_new_names(max(lines, key=selection_score))
    state = weights.read_weights(arguments.run / "best.safetensors")
    fuser = system.fuser()
    load_state(fuser, state, arguments.run, advice="give the folder of a run of this system")
    sets: dict[str, Pairs] = {}
    objective: nn.Module = system.objective()
    if not recipe.learned and recipe.loss is None:  # what a learned loss leaves is judged by the task
        built = build(recipe, arguments.data)
        objective, sets = built.objective, {"validation": built.validation}
        if "+" in recipe.data:
            tests = [open_set(name, arguments.data, split="test") for name in recipe.data.split("+")]
            sets["test"] = JoinedPairs(tests)
        elif recipe.kind == "infrared":
            sets["test"] = open_set("folder", arguments.data / "test")
    rows = {recipe.system: fuser.eval(), "average": SYSTEMS["average"].fuser(), "maximum": SYSTEMS["maximum"].fuser()}
    scores = {
        f"{where} objective of {name} ({len(pairs)} pairs)": round(mean_loss(row, objective, pairs), 4)
        for where, pairs in sets.items()
        for name, row in rows.items()
    }
    if not sets:
        scores = {
            name: round(best[name], 4) for name in best if name.startswith("valid_") or name == "weight_deviation"
        }
    file = f"{arguments.name}.safetensors"
    start = "" if recipe.start is None else f", from {recipe.start}"
    start += "" if recipe.loss is None else f", on the loss of {recipe.loss}"
    cards = weights.cards()
    kind = {} if recipe.kind == "infrared" else {"kind": recipe.kind}
    of_loss = recipe.loss if recipe.loss in cards else arguments.name  # a run's own: packaged under this name before
    taught = None if recipe.loss is None else cards[of_loss]["objective"]
    cards[arguments.name] = kind | {
        "system": recipe.system,
        "file": file,
        "sha256": weights.save_weights(state, weights.FOLDER / file),
        "data": arguments.trained_on,
        "recipe": f"{recipe.name}: {best['step']} of {recipe.schedule.steps} steps, seed {recipe.schedule.seed}{start}"
        + (f"; {arguments.note}" if arguments.note else ""),
        "seconds": lines[-1]["seconds"],
        "scores": scores,
        "licence": "research use; see NOTICE: the training images state no licence",
        "date": str(datetime.date.today()),
    }
    if recipe.learned:
        loss = f"{arguments.name}-loss.safetensors"
        learned = weights.read_weights(arguments.run / "objective.safetensors")
        cards[arguments.name]["objective"] = {
            "file": loss,
            "sha256": weights.save_weights(learned, weights.FOLDER / loss),
            "options": recipe.options,
            "recipe": cards[arguments.name]["recipe"],
            "seconds": lines[-1]["seconds"],
            "scores": scores,
            "date": str(datetime.date.today()),
        }
    elif recipe.loss is not None:
        cards[arguments.name]["objective"] = taught
    (weights.FOLDER / "cards.json").write_text(json.dumps(cards, indent=2) + "\n")
    print(json.dumps(cards[arguments.name], indent=2))


@torch.inference_mode()
def mean_loss(fuser: nn.Module, objective: nn.Module, pairs: Pairs) -> float:
    """Mean objective over whole images."""
    total = 0.0
    for index in range(len(pairs)):
        pair = pairs[index]
        total += float(sum(objective(fuse_tensors(fuser, pair.a, pair.b), pair.a, pair.b).values()))
    return total / len(pairs)


if __name__ == "__main__":
    main()
