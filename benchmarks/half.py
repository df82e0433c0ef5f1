"""A copy of a labelled set at half its size, for tables that a slow machine can carry.

    python benchmarks/half.py MSRS -o half/msrs

Images by the mean of 2x2 pixels, masks by one of the four. The folders `vi`, `ir` and `labels` of `train` and `test`.
"""

import argparse
from pathlib import Path

from PIL import Image

MODES = {"vi": "RGB", "ir": "L", "labels": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    for split in ("train", "test"):
        for folder, mode in MODES.items():
            target = given.out / split / folder
            target.mkdir(parents=True, exist_ok=True)
            for path in sorted((given.data / split / folder).iterdir()):
                image = Image.open(path)
                size = image.width // 2, image.height // 2
                small = (
                    image.resize(size, Image.NEAREST) if mode is None else image.convert(mode).resize(size, Image.BOX)
                )
                small.save(target / f"{path.stem}.png")


if __name__ == "__main__":
    main()
