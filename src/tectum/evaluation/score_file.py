"""File of scores that outlives a run that was cut short: one JSON object a line, written as soon as it is known."""

import json
import math
import threading
from pathlib import Path

from tectum.io.files import append_text

Values = dict[str, float]
"""{metric: value}."""


class ScoreFile:
    """The scores computed so far, in memory and, where there is a path, on disk.

    A line that was cut off when a run was killed is passed over. Lines of other keys (other metrics, changed images)
    stay in the file and are not used; of several lines of an image and method the last one counts.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._scores: dict[tuple[str, str], tuple[str, Values]] = {}
        self._lock = threading.Lock()
        content = path.read_bytes() if path is not None and path.exists() else b""
        self._ends_within_a_line = bool(content) and not content.endswith(b"\n")
        for text in content.split(b"\n"):
            try:
                line = json.loads(text)
                values = {k: math.nan if v is None else float(v) for k, v in line["scores"].items()}
                self._scores[line["image"], line["method"]] = line["key"], values
            except (ValueError, KeyError, TypeError, AttributeError):  # UnicodeDecodeError is a ValueError
                continue

    def get(self, image: str, method: str, key: str) -> Values | None:
        """Returns the scores of an image and a method, or None where there are none under that key."""
        stored_key, values = self._scores.get((image, method), (None, None))
        return values if stored_key == key else None

    def put(self, image: str, method: str, key: str, values: Values) -> None:
        """Add the scores of an image and a method."""
        plain = {k: None if math.isnan(v) else v for k, v in values.items()}
        text = json.dumps({"image": image, "method": method, "key": key, "scores": plain}) + "\n"
        with self._lock:
            self._scores[image, method] = key, values
            if self._path is not None:
                append_text(self._path, "\n" * self._ends_within_a_line + text)
                self._ends_within_a_line = False

    def clear(self) -> None:
        """Forget all scores, also on disk."""
        self._scores.clear()
        self._ends_within_a_line = False
        if self._path is not None:
            self._path.unlink(missing_ok=True)
