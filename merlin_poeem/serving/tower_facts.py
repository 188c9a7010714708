"""What a served tower is: ``tower.json``, beside the file or folder of the tower itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from merlin_poeem.atomic_files import new_file
from merlin_poeem.serving.features import TowerFeature

HEADER_FILE = "tower.json"
MAGIC = "merlin_poeem served tower"
FORMAT_VERSION = 1

ONNX, SAVED_MODEL = "onnx", "saved_model"
ONNX_FILE, SAVED_MODEL_FOLDER = "query_tower.onnx", "query_tower"
OUTPUT = "query_vector"
"""The one tensor that a tower returns, (n, dim) float32."""

REQUIRES = {ONNX: ("onnxruntime>=1.17",), SAVED_MODEL: ("tensorflow>=2.12",)}
"""What ``pip install`` takes at the server, by kind."""


@dataclass(frozen=True)
class TowerFacts:
    """What there is to know of a served tower without opening it."""

    kind: str
    """``"onnx"`` or ``"saved_model"``."""
    reason: str
    """Why it is of that kind."""
    dim: int
    """Width of its vectors."""
    fingerprint: str
    """Of its weights, as an index exported from the same model holds it."""
    features: tuple[TowerFeature, ...]
    """The columns that it reads."""

    @property
    def requires(self) -> tuple[str, ...]:
        """What ``pip install`` takes at the server."""
        return REQUIRES[self.kind]

    def save(self, folder: Path) -> None:
        """Write ``tower.json`` into ``folder``; ``FileExistsError`` where it has one."""
        header = {"magic": MAGIC, "format_version": FORMAT_VERSION, "requires": self.requires}
        with new_file(folder / HEADER_FILE) as file:
            file.write(json.dumps({**header, **asdict(self)}, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> TowerFacts:
        """Of the tower in ``folder``; ``ValueError`` where there is none, or of a newer version."""
        path = folder / HEADER_FILE
        try:
            told = json.loads(path.read_text())
            magic, version = told["magic"], told["format_version"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{folder}: expected a served tower, got something else") from error
        if magic != MAGIC:
            raise ValueError(f"{path}: expected {MAGIC!r}, got {magic!r}")
        if version != FORMAT_VERSION or told["kind"] not in REQUIRES:
            raise ValueError(
                f"{path}: expected format version {FORMAT_VERSION} and one of {sorted(REQUIRES)}, "
                f"got {version} and {told['kind']!r}: exported by a newer release"
            )
        features = tuple(TowerFeature(**feature) for feature in told["features"])
        return cls(told["kind"], told["reason"], told["dim"], told["fingerprint"], features)
