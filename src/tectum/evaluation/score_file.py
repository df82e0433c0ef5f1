"""Scores that outlive a run that was cut short: one JSON object a line, written as soon as they are known."""

import json
import math
import threading
from dataclasses import dataclass, field
from pathlib import Path

Values = dict[str, float]


@dataclass
class ScoreFile:
    """The lines computed so far, in memory and, where there is a path, on disk.

    A line that was cut off when a run was killed is passed over. Lines of other keys (other metrics, changed images)
    stay in the file and are not used; of several lines the last one counts.
    """

    path: Path | None
    lines: dict[tuple[str, str], tuple[str, Values]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    torn: bool = False
    """The file ends within a line."""

    def load(self) -> None:
        if self.path is None or not self.path.exists():
            return
        content = self.path.read_bytes()
        self.torn = bool(content) and not content.endswith(b"\n")
        for text in content.split(b"\n"):
            try:
                line = json.loads(text)
                values = {k: math.nan if v is None else float(v) for k, v in line["scores"].items()}
                self.lines[line["image"], line["method"]] = line["key"], values
            except (ValueError, KeyError, TypeError, AttributeError):  # UnicodeDecodeError is a ValueError
                continue

    def get(self, image: str, method: str, key: str) -> Values | None:
        stored = self.lines.get((image, method))
        return stored[1] if stored is not None and stored[0] == key else None

    def put(self, image: str, method: str, key: str, values: Values) -> None:
        plain = {k: None if math.isnan(v) else v for k, v in values.items()}
        text = json.dumps({"image": image, "method": method, "key": key, "scores": plain}) + "\n"
        with self.lock:
            self.lines[image, method] = key, values
            if self.path is not None:
                with self.path.open("a", encoding="ascii") as file:
                    file.write("\n" * self.torn + text)
                self.torn = False
