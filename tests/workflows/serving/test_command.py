"""The serving demo, tiny and real: trained, served, asked by raw columns, swapped."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
pytest.importorskip("tritonclient.grpc")

from merlin.models.tf.models.base import BaseModel

from merlin_poeem.blocks.quantizer import warm_start
from workflows.serving import __main__ as command
from workflows.serving.shop import make_shop
from workflows.serving.triton_server import NoTritonServer, find_installation

SIZES = ["--users", "200", "--items", "150", "--taken", "8", "--epochs", "1", "--seconds", "1"]
ANSWERS = r"(\d+) by version 1(?:, (\d+) by version 2)?\), 0 failed; p50"


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps, eager ones: they take less time than the trace of one."""
    compile_model = BaseModel.compile

    def compile_eager(model: Any, **options: Any) -> None:
        compile_model(model, **{**options, "run_eagerly": True})

    monkeypatch.setattr(BaseModel, "compile", compile_eager)
    monkeypatch.setattr(warm_start, "ITERATIONS", 3)


@pytest.mark.usefixtures("short_training")
def test_tiny(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        find_installation()
    except NoTritonServer as missing:
        pytest.skip(f"needs a Triton server: {missing}")
    command.main(SIZES)
    printed = capfd.readouterr().out
    alone, swapped = re.findall(ANSWERS, printed)
    assert int(alone[0]) > 0
    assert int(swapped[0]) > 0
    assert int(swapped[1]) > 0
    titles = {row.item_id: row.title for row in make_shop(200, 150, 8).items.itertuples()}
    shown = re.findall(r"\d\. (.*) \((SKU-\d+)\)  -?\d", printed)
    assert len(shown) == 2 * command.SHOWN_USERS * command.K
    assert all(titles[key] == title for title, key in shown)
    for version in (1, 2):
        assert len(re.findall(rf"user-\d+, .*by version {version}\b", printed)) == 3


def test_a_shop_is_what_its_seed_says() -> None:
    shop, again, other = make_shop(50, 40, 5), make_shop(50, 40, 5), make_shop(50, 40, 5, seed=1)
    assert shop.pairs.equals(again.pairs)
    assert not shop.pairs.equals(other.pairs)
    assert len(shop.pairs) == len(shop.pairs.drop_duplicates()) == 250
    assert set(shop.pairs["user_id"]) == set(shop.users["user_id"])
    assert set(shop.pairs["item_id"]) <= set(shop.items["item_id"])
