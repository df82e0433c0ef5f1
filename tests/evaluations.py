"""Finished evaluations made by hand, for the tests of tables and pages."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tectum.evaluation.evaluate import Evaluation
from tectum.evaluation.statistics import Scores, summarise
from tectum.metrics import METRICS
from tectum.metrics.conventions import CONVENTIONS, with_metrics


def make_evaluation(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    baselines: Sequence[str] = (),
    convention: str = "tectum",
    images: Sequence[str] | None = None,
    **changes: Any,
) -> Evaluation:
    """{method: {metric: a value per image}} -> a finished evaluation; `changes` replaces other fields of it."""
    methods, metrics = list(values), list(next(iter(values.values())))
    table = np.array([[values[m][k] for k in metrics] for m in methods], np.float64).transpose(2, 0, 1)
    names = tuple(images or (f"image-{i}" for i in range(len(table))))
    scores = Scores(names, tuple(methods), tuple(metrics), table)
    higher = {metric: METRICS[metric].higher_is_better for metric in metrics}
    evaluation = Evaluation(
        scores=scores,
        summary=summarise(scores, higher_is_better=higher, baselines=baselines, resamples=200),
        convention=with_metrics(CONVENTIONS[convention], metrics),
        higher_is_better=higher,
        units={metric: METRICS[metric].unit for metric in metrics},
        failures={},
        warnings=(),
        data="demo set",
        command="tectum eval --data demo",
        date="2026-11-20",
    )
    return replace(evaluation, **changes)
