"""Draw the figures: synthetic scenes for the README (committed), real pairs from the user's own copy of the data (not).

    python benchmarks/figures.py [--weights NAME|FILE]

docs/figures/*.jpg show scenes of `tectum.data.synthetic`. With TECTUM_DATA set to a folder of data sets
(`NAME/test/vi` and `NAME/test/ir`), out/figures/NAME.png shows every few pairs of each set; those stay uncommitted.
"""

import argparse
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import tectum
from tectum.data.synthetic import demo_folder, render
from tectum.fusion.command import draw_report
from tectum.fusion.pipeline import FuseOptions, FusePipeline
from tectum.io.folders import match
from tectum.io.image import to_array, write_image

SETS = ("msrs", "tno", "roadscene", "llvip", "m3fd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights")
    parser.add_argument("--each", type=int, default=6, help="real pairs per set")
    arguments = parser.parse_args()
    pipeline = FusePipeline(FuseOptions(weights=arguments.weights))
    street(pipeline, Path("docs/figures"))
    kinds(Path("docs/figures"))
    data = os.environ.get("TECTUM_DATA")
    for name in SETS if data else ():
        folder = Path(data or "") / name / "test"
        if folder.is_dir():
            real(pipeline, folder, Path("out/figures") / f"{name}.png", arguments.each)


def street(pipeline: FusePipeline, out: Path) -> None:
    """Visible | infrared | fused of the packaged scenes, one row each."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for pair in match(str(demo_folder() / "vi"), str(demo_folder() / "ir")).pairs:
        fused = pipeline(*pipeline.read(pair.visible, pair.infrared))
        rows.append(row([to_array(x.y, x.chroma) for x in (fused.visible, fused.infrared)] + [fused.array()]))
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((1440, sheet.height * 1440 // sheet.width), Image.Resampling.LANCZOS).save(
        out / "street.jpg", quality=88
    )
    print(out / "street.jpg")


def kinds(out: Path) -> None:
    """Two exposures and two foci of rendered scenes, and what their kinds' weights make of them."""
    dusk = render(5, hour="dusk").visible.permute(1, 2, 0).numpy()
    light = dusk**2.2
    over, under = ((np.clip(gain * light, 0, 1) ** (1 / 2.2) * 255).round().astype(np.uint8) for gain in (3.5, 0.2))
    scene = render(8, hour="day")
    sharp, close = scene.visible.permute(1, 2, 0).numpy(), (scene.mask > 0).float().numpy()[..., None]
    soft = blurred(close)
    # divided by the blurred mask, so that neither side takes in what lies on the other
    near = close * sharp + (1 - close) * blurred((1 - close) * sharp) / np.maximum(1 - soft, 1e-3)
    far = soft * blurred(close * sharp) / np.maximum(soft, 1e-3) + (1 - soft) * sharp
    first, second = ((np.clip(x, 0, 1) * 255).round().astype(np.uint8) for x in (near, far))
    rows = [
        row([a, b, tectum.fuse(a, b, kind=kind)])
        for kind, a, b in (("exposure", over, under), ("focus", first, second))
    ]
    sheet = Image.fromarray(np.concatenate(rows))
    size = (1440, sheet.height * 1440 // sheet.width)
    sheet.resize(size, Image.Resampling.LANCZOS).save(out / "kinds.jpg", quality=88)
    print(out / "kinds.jpg")


def blurred(x: np.ndarray, sigma: float = 5) -> np.ndarray:
    """(H,W,C) under a Gaussian."""
    return cv2.GaussianBlur(x.astype(np.float64), (0, 0), sigma).reshape(x.shape)


def real(pipeline: FusePipeline, folder: Path, out: Path, num: int) -> None:
    """Reports of pairs spread over a test folder, one picture."""
    out.parent.mkdir(parents=True, exist_ok=True)
    pairs = match(str(folder / "vi"), str(folder / "ir")).pairs
    pictures = []
    for pair in pairs[:: max(1, len(pairs) // num)][:num]:
        fused = pipeline(*pipeline.read(pair.visible, pair.infrared))
        pictures.append(draw_report(fused, labels=("visible", "infrared", "fused")))
    width = max(p.shape[1] for p in pictures)
    padded = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=250) for p in pictures]
    write_image(out, np.concatenate(padded))
    print(out)


def row(images: list[np.ndarray]) -> np.ndarray:
    """Images side by side with a thin white gap."""
    coloured = [x if x.ndim == 3 else np.repeat(x[..., None], 3, axis=2) for x in images]
    gap = np.full((coloured[0].shape[0], 8, 3), 255, np.uint8)
    line = np.concatenate([part for x in coloured for part in (x, gap)][:-1], axis=1)
    return np.concatenate([line, np.full((8, line.shape[1], 3), 255, np.uint8)])


if __name__ == "__main__":
    main()
