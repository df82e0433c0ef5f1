"""The tables as text, CSV and JSON: what is missing, infinite or odd in a name does not stop them."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from evaluations import make_evaluation
from tectum.evaluation.evaluate import Evaluation
from tectum.evaluation.tables import (
    explain_infinite,
    explain_stretch,
    explain_undefined,
    markdown_table,
    text_table,
    write_tables,
)

INF, NAN = math.inf, math.nan
ODD = "caf\udce9"  # what Python makes of a file name that is not UTF-8


def written(folder: Path, found: Evaluation) -> tuple[list[dict[str, str]], list[dict[str, str]], Any]:
    """The rows of scores.csv and summary.csv, and evaluation.json."""
    write_tables(found, folder)
    tables = []
    for name in ("scores.csv", "summary.csv"):
        with (folder / name).open(encoding="utf-8", newline="") as stream:
            tables.append(list(csv.DictReader(stream)))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return *tables, json.loads((folder / "evaluation.json").read_text(encoding="utf-8"), parse_constant=refuse)


VALUES = {
    "ours": {"PSNR": [30.0, 31.0, 32.0], "SCD": [1.0, 1.5, 2.0]},
    "theirs": {"PSNR": [33.0, INF, 35.0], "SCD": [1.0, NAN, 2.5]},
    "average": {"PSNR": [INF, INF, INF], "SCD": [NAN, NAN, NAN]},
}


def test_missing_and_infinite_values_are_told_apart_in_the_files(tmp_path: Path) -> None:
    scores, summary, stored = written(tmp_path, make_evaluation(VALUES, baselines=["average"]))
    assert [row["PSNR"] for row in scores if row["image"] == "image-1"] == ["31.0", "inf", "inf"]
    assert [row["SCD"] for row in scores if row["image"] == "image-1"] == ["1.5", "", ""]
    rows = {(row["method"], row["metric"]): row for row in summary}
    row = rows["theirs", "PSNR"]
    assert (row["mean"], row["low"], row["num"], row["undefined"], row["infinite"]) == ("inf", "", "3", "0", "1")
    assert (float(row["difference"]), row["difference_num"], row["better"], row["p"]) == (3.0, "2", "1.0", "0.5")
    row = rows["average", "SCD"]
    assert (row["mean"], row["undefined"], row["infinite"], row["p"]) == ("", "3", "0", "")
    assert rows["ours", "SCD"]["difference"] == "" == rows["ours", "SCD"]["p"]
    assert stored["scores"]["image-1"]["theirs"] == {"PSNR": "inf", "SCD": None}
    assert stored["summary"]["theirs"]["PSNR"]["mean"] == "inf" and stored["summary"]["theirs"]["PSNR"]["low"] is None
    assert stored["summary"]["theirs"]["PSNR"]["num_infinite"] == 1
    assert stored["differences"]["theirs"]["PSNR"]["p"] == 0.5
    assert (
        stored["differences"]["average"]["PSNR"] | {"num": 0, "num_infinite": 3, "mean": None, "p": None}
        == (stored["differences"]["average"]["PSNR"])
    )


def test_the_text_says_what_is_missing_and_infinite() -> None:
    found = make_evaluation(VALUES, baselines=["average"])
    assert explain_undefined(found) == [
        "SCD is not defined (n/a) for theirs on 1 of 3, average on all of 3 images; the means leave these out"
    ]
    (told,) = explain_infinite(found)
    assert told.startswith("PSNR is infinite for theirs on 1 of 3, average on all of 3 images; a mean with one is")
    text = text_table(found)
    assert (
        "inf*" in text and "inf!" in text and "31.00" in text and f"\n{explain_undefined(found)[0]}.\n{told}." in text
    )
    nothing = make_evaluation({name: {"SCD": [NAN] * 3, "EN": [7.0] * 3} for name in ("a", "b")})
    assert explain_undefined(nothing) == ["SCD is not defined for any image of any method"] and not explain_infinite(
        nothing
    )


def test_names_that_are_not_utf8_are_written_and_read_back(tmp_path: Path) -> None:
    found = make_evaluation({ODD: {"EN": [1.0, 2.0]}, "b": {"EN": [1.0, 3.0]}}, images=[ODD, "fine"])
    scores, summary, stored = written(tmp_path, found)
    assert scores[0]["image"] == "caf\\udce9" and summary[0]["method"] == "caf\\udce9"
    assert list(stored["scores"]) == [ODD, "fine"] and stored["reference"] == ODD
    for text in (text_table(found), markdown_table(found)):
        assert "caf\\udce9" in text and text.encode("utf-8")


def test_stretched_systems_beside_baselines_are_explained() -> None:
    values = {name: {"EN": [7.0] * 3, "SD": [40.0] * 3, "VIF": [0.5] * 3} for name in ("ours", "average")}
    assert not explain_stretch(make_evaluation(values, baselines=["average"]))
    found = make_evaluation(values, baselines=["average"], convention="cddfuse")
    (told,) = explain_stretch(found)
    assert "cddfuse stretches" in told and "raises EN and SD of systems" in told and f"{told}." in text_table(found)
    assert not explain_stretch(make_evaluation(values, convention="cddfuse"))  # no baseline beside them
    only = {name: {"VIF": row["VIF"]} for name, row in values.items()}
    (told,) = explain_stretch(make_evaluation(only, baselines=["average"], convention="cddfuse"))
    assert "changes the values of systems" in told
