"""What tests of trained models share."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.blocks.toy import trained_model


@pytest.fixture(scope="session")
def saved_toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Path]:
    """``saved_toy(v1)``: where the trained toy is saved, once, as saving takes long."""

    @functools.cache
    def save(build: Any) -> Path:
        path = tmp_path_factory.mktemp("toy") / "model"
        trained_model(build).save(path)
        return path

    return save
