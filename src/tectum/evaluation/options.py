"""The options of an evaluation, for `tectum eval`, `Evaluator` and `tectum.evaluate` alike."""

from dataclasses import dataclass
from typing import Literal

BASELINES = ("average", "maximum", "laplacian", "visible", "infrared")
"""The rows every table needs: by some metrics they beat every network. The last two are the sources themselves."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How fused images are scored. `Evaluator` refuses values that nothing could be scored with.

    Args:
        kind: What the pairs are: infrared, exposure (the first source is over-exposed), focus or medical (the second
            source is the MRI); infrared without it. A known set says it itself.
        variant: published takes the systems as their authors released them, with weights of your own.
        convention: Whose published tables the numbers can stand beside.
        metrics: Metrics in place of the convention's, as EN,SSIM; all takes every one.
        baselines: Rows beside the methods, any of average, maximum, laplacian (pyramid) and the two sources, as A,B;
            all of them without it.
        reference: The method that the others are compared with; the first one without it.
        names: Only the pairs that this file names, one a line; or a list of ours: msrs-test, roadscene-test. In Python
            also a sequence of names.
        visible_range: Raw values that became black and white in the first source, if it is not 8-bit; as in
            `tectum fuse`.
        infrared_range: Raw values that became black and white in the second source.
        nodata: Raw value of pixels without data in the second source (A,B: in both), which no metric sees; none ignores
            what files declare.
        both_colour: The second source may be in colour too: two exposures, two foci. Luminances are compared.
        device: Where systems run; metrics are computed on the CPU.
        workers: Pairs at a time, each on one processor thread; one for each core without it.
    """

    kind: str | None = None
    variant: str | None = None
    convention: Literal["tectum", "tdfusion", "cddfuse", "adasffuse", "vifb", "mefb", "mfifb", "ivif-zoo"] = "tectum"
    metrics: str | tuple[str, ...] | None = None
    baselines: str | tuple[str, ...] | None = None
    reference: str | None = None
    names: str | tuple[str, ...] | None = None
    visible_range: str = "auto"
    infrared_range: str = "auto"
    nodata: str | None = None
    both_colour: bool = False
    device: str = "auto"
    workers: int | None = None
