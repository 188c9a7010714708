"""Raw rows in, raw ids out: from an application's frames to its candidates, with text ids."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import merlin.models.tf as mm
import numpy as np
import nvtabular as nvt
import pandas as pd
import pytest
import tensorflow as tf
from merlin.io import Dataset
from nvtabular import ops

from merlin_poeem import Index, load_index, open_searcher, save_index, search_frame
from merlin_poeem.blocks import (
    IVFPQQuantizer,
    QuantizedRecall,
    QuantizedTwoTowerModel,
    StaleIndexError,
    encode_items,
    export_index,
    export_retrieval,
    item_vectors,
    query_vectors,
    recommend,
    settle_index,
    top_k_encoder,
)
from merlin_poeem.blocks.export import export
from merlin_poeem.blocks.export.exported_ids import FirstRows, read_exported_ids
from merlin_poeem.blocks.export.query_tower import load_query_tower, save_query_tower
from merlin_poeem.blocks.export.workflow_part import WorkflowPart
from merlin_poeem.blocks.quantizer import warm_start
from merlin_poeem.serving.retrieval import Answer, Retrieval

N_USERS, N_ITEMS, DIM, K = 40, 60, 8, 4
BRANDS, TAGS = list("abcd"), list("wxyz")


def users() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "user_id": [f"u{i}" for i in range(N_USERS)],
            "age": np.where(rng.random(N_USERS) < 0.2, np.nan, rng.integers(15, 80, N_USERS)),
            "country": rng.choice(["de", "fr", None], N_USERS),
        }
    )


def items() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    return pd.DataFrame(
        {
            "item_id": [f"sku-{i}" for i in rng.permutation(N_ITEMS)],
            "brand": rng.choice(BRANDS, N_ITEMS),
            "tags": [list(rng.choice(TAGS, rng.integers(1, 4))) for _ in range(N_ITEMS)],
            "title": [f"Item {i}" for i in range(N_ITEMS)],
        }
    )


def pairs() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    user, item = rng.integers(0, N_USERS, 512), rng.integers(0, N_ITEMS - 5, 512)
    return pd.DataFrame(
        {"user_id": users()["user_id"][user].values, "item_id": items()["item_id"][item].values}
    )


def make_workflow(folder: Path, *more: nvt.WorkflowNode) -> nvt.Workflow:
    def numbered(columns: list[str]) -> nvt.WorkflowNode:
        return columns >> ops.Categorify(out_path=str(folder))

    user_id, item_id = numbered(["user_id"]), numbered(["item_id"])
    age = ["age"] >> ops.FillMissing() >> ops.Normalize()
    columns = (user_id >> ops.TagAsUserID()) + (item_id >> ops.TagAsItemID())
    columns += (numbered(["country"]) + age) >> ops.TagAsUserFeatures()
    columns += numbered(["brand", "tags"]) >> ops.TagAsItemFeatures()
    return nvt.Workflow(sum(more, columns))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("raw")


@pytest.fixture(scope="module")
def workflow(folder: Path) -> nvt.Workflow:
    workflow = make_workflow(folder / "categories")
    workflow.fit(Dataset(pairs().merge(users(), on="user_id").merge(items(), on="item_id")))
    return workflow


@pytest.fixture(scope="module")
def trained(workflow: nvt.Workflow) -> Any:
    """The model and what its callback saw of an epoch before the index started and one after."""
    tf.keras.utils.set_random_seed(0)
    raw = pairs().merge(users(), on="user_id").merge(items(), on="item_id")
    data = workflow.transform(Dataset(raw))
    quantizer = IVFPQQuantizer(
        n_lists=4, pq_dim=4, pq_bits=4, metric="cosine", warmup=0.5, sample_size=128
    )
    tower = mm.MLPBlock([DIM], no_activation_last_layer=True)
    model = QuantizedTwoTowerModel(data.schema, tower, quantizer)
    model.compile("adam", run_eagerly=True, metrics=[])
    relevant = pairs().groupby("user_id")["item_id"].agg(list).reindex(users()["user_id"])
    recall = QuantizedRecall(
        users(), items(), relevant.tolist(), k=K, n_probes=4, workflow=workflow
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm_start, "ITERATIONS", 3)
        history = model.fit(data, batch_size=128, epochs=2, verbose=0, callbacks=[recall]).history
    return SimpleNamespace(model=model, history=history, relevant=relevant)


@pytest.fixture(scope="module")
def model(trained: Any) -> Any:
    return trained.model


@pytest.fixture(scope="module")
def index(model: Any, workflow: nvt.Workflow) -> Index:
    return export_index(model, items(), workflow=workflow, item_table=["title"], n_probes=4)


def encoded(workflow: nvt.Workflow, raw: pd.DataFrame, side: list[str]) -> pd.DataFrame:
    """What the workflow makes of rows that have the columns of both sides."""
    both = raw.merge(pairs().drop_duplicates(side[0]).head(1).drop(columns=side[0]), how="cross")
    for other in (users(), items()):
        key = other.columns[0]
        if key not in side:
            both = both.merge(other, on=key)
    return workflow.transform(both)[side]


class TestWorkflowPart:
    """One side of a workflow, beside all of it."""

    ITEM, USER = ["item_id", "brand", "tags"], ["user_id", "age", "country"]

    @pytest.mark.parametrize(("raw", "side"), [(items(), ITEM), (users(), USER)])
    def test_a_side_is_what_the_whole_makes_of_it(
        self, workflow: nvt.Workflow, raw: pd.DataFrame, side: list[str]
    ) -> None:
        got = WorkflowPart(workflow, side)(raw.set_index(raw.index[::-1]))
        truth = encoded(workflow, raw, side)
        pd.testing.assert_frame_equal(got, truth.reset_index(drop=True))
        assert workflow.input_schema.column_names  # which is left as it was
        assert set(side) < set(workflow.output_schema.column_names)

    def test_columns_of_nulls_alone_and_no_rows(self, workflow: nvt.Workflow) -> None:
        part = WorkflowPart(workflow, self.USER)
        known = part(users())
        nulls = pd.DataFrame({"user_id": [None, None], "age": [None, 30], "country": [None, None]})
        got = part(nulls)
        assert got["user_id"].tolist() == [1, 1]  # Categorify's number of nulls
        assert got["country"].tolist() == [1, 1]
        filled = part(nulls.assign(age=[0.0, 30.0]))
        np.testing.assert_array_equal(got["age"], filled["age"])
        lists = WorkflowPart(workflow, ["tags"])(pd.DataFrame({"tags": [[], []]}))
        assert list(map(len, lists["tags"])) == [0, 0]
        assert part(users().head(0)).columns.tolist() == self.USER
        pd.testing.assert_frame_equal(
            part(users().drop(columns="user_id"))[["age", "country"]], known[["age", "country"]]
        )

    @pytest.mark.parametrize("column", [[np.nan] * 2, pd.Categorical([None] * 2)])
    @pytest.mark.parametrize("name", ["user_id", "country"])
    def test_columns_of_nulls_of_another_dtype(
        self, workflow: nvt.Workflow, name: str, column: Any
    ) -> None:
        got = WorkflowPart(workflow, self.USER)(users().head(2).assign(**{name: column}))
        assert got[name].tolist() == [1, 1]

    @pytest.mark.parametrize("dtype", ["int64", "int32", "uint64"])
    def test_integers_of_users_with_nulls_among_them(self, folder: Path, dtype: str) -> None:
        """They stand for users who are not known, as a missing column does."""
        ids = np.arange(0 if dtype == "uint64" else -2, 8).astype(dtype)
        numbered = ["user_id"] >> ops.Categorify(out_path=str(folder / dtype))
        workflow = nvt.Workflow((numbered >> ops.TagAsUserID()) + ["age"])
        workflow.fit(Dataset(pd.DataFrame({"user_id": ids, "age": 1.0})))
        part = WorkflowPart(workflow, ["user_id", "age"])
        known = part(pd.DataFrame({"user_id": ids, "age": 1.0}))["user_id"]
        assert known.nunique() == len(ids)
        new = part(pd.DataFrame({"age": [1.0, 2.0]}))["user_id"]
        assert new.nunique() == 1
        assert not new.isin(known).any()
        for made in ("Int64", "float64", object):
            some = pd.Series(ids, dtype=made)
            some[1] = None
            got = part(pd.DataFrame({"user_id": some, "age": 1.0}))["user_id"]
            assert got.drop(1).tolist() == known.drop(1).tolist()
            assert got[1] == new[0]

    def test_columns_that_are_renamed(self, folder: Path) -> None:
        """NVTabular 23.8 counts the new name among the inputs, where a column before it is gone."""

        def numbers() -> ops.Categorify:
            return ops.Categorify(out_path=str(folder / "renamed"))

        item_id = ["sku"] >> ops.Rename(name="item_id") >> numbers() >> ops.TagAsItemID()
        workflow = nvt.Workflow((["user"] >> numbers()) + item_id + (["brand"] >> numbers()))
        skus = pd.DataFrame({"sku": list("abc"), "brand": list("xxy")})
        truth = workflow.fit_transform(Dataset(skus.assign(user="u"))).compute()
        got = WorkflowPart(workflow, ["item_id", "brand"])(skus)
        pd.testing.assert_frame_equal(got, truth[["item_id", "brand"]])

    def test_ids_of_which_none_is_known_are_told_of(
        self, workflow: nvt.Workflow, caplog: pytest.LogCaptureFixture
    ) -> None:
        part = WorkflowPart(workflow, self.USER)
        encoded_users = part(users())
        new = users().assign(user_id=[f"new {i}" for i in range(N_USERS)])
        mixed = pd.concat([new.head(30), users().head(1)])
        for untold in (users(), new.head(19), users().assign(user_id=None), mixed):
            part(untold)
        assert not caplog.records
        part(encoded_users)
        part(encoded_users)
        (record,) = caplog.records
        assert "column 'user_id': expected ids that the workflow was" in record.getMessage()
        WorkflowPart(workflow, self.ITEM)(items().assign(item_id=range(N_ITEMS)))
        assert "column 'item_id'" in caplog.text

    def test_what_is_missing_is_named(self, workflow: nvt.Workflow) -> None:
        message = r"expected the raw columns \['brand', 'tags'\], from which .* \['brand', 'tags'\]"
        with pytest.raises(ValueError, match=message):
            WorkflowPart(workflow, self.ITEM)(items()[["item_id", "title"]])

    def test_what_is_no_workflow(self, folder: Path) -> None:
        with pytest.raises(TypeError, match=r"workflow: expected a fitted .*, got int"):
            WorkflowPart(3, self.USER)
        with pytest.raises(ValueError, match="workflow: expected a fitted one"):
            WorkflowPart(make_workflow(folder / "other"), self.USER)

    def test_operators_that_look_at_other_columns(self, folder: Path) -> None:
        encoded = ["item_id"] >> ops.TargetEncoding("click", kfold=1, out_path=str(folder / "te"))
        workflow = nvt.Workflow(encoded + (["n"] >> ops.FillMissing()))
        rows = pd.DataFrame({"item_id": [1, 1, 2], "click": [0.0, 1.0, 1.0], "n": [1, 2, 3]})
        workflow.fit(Dataset(rows))
        part = WorkflowPart(workflow, ["n", "TE_item_id_click"])
        with pytest.raises(ValueError, match=r"TargetEncoding, need these in the rows|raw columns"):
            part(rows.drop(columns="click"))
        filled = part(rows.assign(click=0.0))
        assert filled["TE_item_id_click"].nunique() == 2

    def test_rows_that_fail(self, folder: Path) -> None:
        workflow = nvt.Workflow(["n"] >> ops.LambdaOp(lambda column: column / column.name.missing))
        workflow.fit_schema(Dataset(pd.DataFrame({"n": [1.0]})).schema)
        with pytest.raises(
            ValueError, match=r"make \['n'\] of the raw columns \['n'\], got .*Error"
        ):
            WorkflowPart(workflow, ["n"])(pd.DataFrame({"n": [1.0]}))

    def test_rows_that_are_dropped(self, folder: Path) -> None:
        dropped = ["n"] >> ops.Filter(lambda frame: frame[frame["n"] > 1])
        workflow = nvt.Workflow(dropped)
        workflow.fit(Dataset(pd.DataFrame({"n": [1, 2, 3]})))
        with pytest.raises(ValueError, match="expected a row for each of 3 rows, got fewer"):
            WorkflowPart(workflow, ["n"])(pd.DataFrame({"n": [1, 1, 5]}))


class TestExport:
    """The index of raw items."""

    def test_holds_the_ids_and_titles_of_the_application(self, index: Index) -> None:
        assert sorted(index.item_keys.keys_of(index.item_ids)) == sorted(items()["item_id"])
        titles = index.item_table.set_index("item_key")["title"]
        assert titles[items()["item_id"]].tolist() == items()["title"].tolist()

    def test_codes_are_those_of_the_workflow_s_numbers(
        self, model: Any, workflow: nvt.Workflow, index: Index
    ) -> None:
        raw = items()
        rows = encoded(workflow, raw, TestWorkflowPart.ITEM).assign(number=np.arange(N_ITEMS))
        numbers = export_index(model, rows, id_column="number", n_probes=4)
        ids = index.item_keys.ids_of(raw["item_id"])
        np.testing.assert_array_equal(ids, numbers.item_ids[numbers.rows_of(ids)])
        np.testing.assert_array_equal(
            index.codes[index.rows_of(ids)], numbers.codes[numbers.rows_of(ids)]
        )

    def test_partitions_and_repeats(self, model: Any, workflow: nvt.Workflow, index: Index) -> None:
        raw = pd.concat([items(), items().sample(20, random_state=0)], ignore_index=True)
        again = export_index(
            model,
            Dataset(raw, npartitions=4),
            workflow=workflow,
            item_table=raw[["item_id", "title"]].drop_duplicates(),
            n_probes=4,
        )
        for name in ("item_ids", "codes", "scales", "list_ids"):
            np.testing.assert_array_equal(getattr(again, name), getattr(index, name))
        pd.testing.assert_frame_equal(again.item_table, index.item_table)

    def test_texts_in_one_partition_and_integers_in_another(
        self, model: Any, workflow: nvt.Workflow
    ) -> None:
        raw = items().assign(mixed=["a"] * 30 + list(range(30)))
        for first, second in ((raw[:30], raw[30:]), (raw[30:], raw[:30])):
            first_rows = FirstRows()
            first_rows.of(read_exported_ids(first, "mixed"))
            with pytest.raises(TypeError, match="integers or texts in all partitions, got both"):
                first_rows.of(read_exported_ids(second, "mixed"))

    def test_a_missing_title_is_found_before_anything_is_encoded(
        self, model: Any, workflow: nvt.Workflow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export, "encode", lambda *_, **__: pytest.fail("it was encoded"))
        with pytest.raises(ValueError, match=r"expected the columns \['nope'\]"):
            export_index(model, items(), workflow=workflow, item_table=["nope"])

    def test_integers_stay_integers(self, model: Any, workflow: nvt.Workflow, folder: Path) -> None:
        workflow.save(str(folder / "saved"))
        raw = items().assign(number=np.arange(N_ITEMS) + 2**40)
        options = {"id_column": "number", "item_table": ["title"]}
        index = export_index(model, raw, workflow=str(folder / "saved"), **options)
        assert not index.has_item_keys
        assert sorted(index.item_ids) == raw["number"].tolist()
        assert (
            encode_items(model, raw, workflow=workflow, id_column="number").item_ids.tolist()
            == raw["number"].tolist()
        )

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (
                lambda m, w: export_index(m, items().rename(columns={"item_id": "x"}), workflow=w),
                ValueError,
                "expected the raw ids in column 'item_id', .* name it with id_column",
            ),
            (lambda m, w: encode_items(m, items(), workflow=w), TypeError, "got texts, such as"),
            (
                lambda m, w: export_index(m, items(), workflow=w, item_table="title"),
                TypeError,
                "item_table: expected a frame or names of columns, got 'title'",
            ),
            (
                lambda m, w: export_index(m, items(), workflow=w, item_table=["item_id"]),
                ValueError,
                "item_table: expected columns beside the ids",
            ),
            (
                lambda m, w: export_index(m, items(), workflow=w, item_table=["nope"]),
                ValueError,
                r"expected the columns \['nope'\]",
            ),
            (
                lambda m, w: export_index(m, items().assign(item_id=None), workflow=w),
                ValueError,
                "column 'item_id': expected no nulls, got 60, first in row 0",
            ),
            (
                lambda m, w: settle_index(m, items(), workflow=w, frequencies=np.ones(99)),
                TypeError,
                "frequencies: expected a Series by raw id",
            ),
        ],
    )
    def test_what_is_refused(
        self, model: Any, workflow: nvt.Workflow, call: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            call(model, workflow)

    def test_encoded_ids_are_told_of(
        self, model: Any, workflow: nvt.Workflow, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = encoded(workflow, items(), TestWorkflowPart.ITEM)
        export_index(model, rows, id_column="item_id")
        assert "Categorify" not in caplog.text
        export_index(model, rows)
        assert "got column 'item_id', which Categorify numbered" in caplog.text

    def test_graphs_take_no_keys(self, model: Any, index: Index) -> None:
        with pytest.raises(ValueError, match=r"take index\.without_item_keys\(\), and join"):
            top_k_encoder(model, index)
        assert top_k_encoder(model, index.without_item_keys()) is not None


def test_recall_by_raw_ids(trained: Any, workflow: nvt.Workflow) -> None:
    """The callback's numbers are those of searches for the same users after the last epoch."""
    model, history = trained.model, trained.history
    assert len(history[f"float_recall_at_{K}"]) == 2
    index = export_index(model, items(), workflow=workflow, n_probes=4)
    _, vectors = query_vectors(model, users(), workflow=workflow)
    frame = users().assign(embedding=list(vectors))
    found = search_frame(open_searcher(index), frame, k=K, query_id="user_id", form="list")
    shares = [
        len(set(ids) & set(wanted)) / len(set(wanted))
        for ids, wanted in zip(found["item_id"], trained.relevant, strict=True)
        if isinstance(wanted, list)
    ]
    got = history[f"quantized_recall_at_{K}"][-1]
    assert got == pytest.approx(np.mean(shares))
    assert got > 0


@pytest.mark.parametrize("name", ["relevant", "exclude"])
def test_recall_of_integers_where_ids_are_texts(
    trained: Any, workflow: nvt.Workflow, name: str
) -> None:
    lists = {"relevant": [["sku-1"]] * N_USERS, name: [[1]] * N_USERS}
    recall = QuantizedRecall(users(), items(), k=K, n_probes=4, workflow=workflow, **lists)
    recall.set_model(trained.model)
    with pytest.raises(TypeError, match=f"{name}: expected texts, .* such as 'sku-.*; got integer"):
        recall.on_epoch_end(0, {})


def test_frequencies_by_raw_id(model: Any, workflow: nvt.Workflow) -> None:
    before = model.get_weights()
    try:
        settle_index(
            model, items(), workflow=workflow, frequencies=pairs()["item_id"].value_counts()
        )
        settled = model.get_weights()
        model.set_weights(before)
        settle_index(model, items(), workflow=workflow)
        alike = model.get_weights()
        assert any(not np.array_equal(a, b) for a, b in zip(settled, alike, strict=True))
    finally:
        model.set_weights(before)


class TestRecommend:
    """One call for users as the application has them."""

    @pytest.fixture
    def searcher(self, index: Index) -> Any:
        return open_searcher(index)

    def test_is_vectors_search_and_titles(
        self, model: Any, workflow: nvt.Workflow, index: Index, searcher: Any
    ) -> None:
        asked = users().assign(seen=[[key] for key in items()["item_id"][:N_USERS]])
        found = recommend(model, searcher, asked, workflow=workflow, k=K, exclude="seen")
        _, vectors = query_vectors(model, asked, workflow=workflow)
        frame = asked.assign(embedding=list(vectors))
        truth = search_frame(searcher, frame, k=K, query_id="user_id", exclude="seen")
        titles = items().set_index("item_id")["title"]
        assert found.columns.tolist() == ["user_id", "rank", "item_id", "score", "title"]
        pd.testing.assert_frame_equal(found.drop(columns="title"), truth)
        assert found["title"].tolist() == titles[found["item_id"]].tolist()

    def test_from_what_was_saved(
        self, model: Any, workflow: nvt.Workflow, index: Index, searcher: Any, folder: Path
    ) -> None:
        truth = recommend(model, searcher, users(), workflow=workflow, k=K)
        save_query_tower(model, folder / "tower")
        workflow.save(str(folder / "workflow"))
        save_index(index, folder / "index")
        opened = open_searcher(load_index(folder / "index"))
        for tower in (folder / "tower", str(folder / "tower"), load_query_tower(folder / "tower")):
            found = recommend(tower, opened, users(), workflow=folder / "workflow", k=K)
            pd.testing.assert_frame_equal(found, truth, atol=1e-5)

    def test_each_option_counts(self, model: Any, workflow: nvt.Workflow, searcher: Any) -> None:
        asked, keys = users().head(3), items()["item_id"].tolist()
        named = asked.assign(name=["x", "y", "z"])

        def found(frame: pd.DataFrame = asked, **options: Any) -> pd.DataFrame:
            return recommend(model, searcher, frame, workflow=workflow, **{"k": K, **options})

        assert len(found(k=2)) == 6
        assert found(allow=keys[:2])["item_id"].isin(keys[:2]).all()
        assert not found(exclude=keys[:50])["item_id"].isin(keys[:50]).any()
        assert found(named, query_id="name")["name"].unique().tolist() == ["x", "y", "z"]
        assert found(form="list").columns.tolist() == ["user_id", "item_id", "score", "count"]
        assert len(found(n_probes=1, k=60)) < len(found(k=60))
        with pytest.raises(ValueError, match="refine"):
            found(refine=2)
        with pytest.raises(ValueError, match="batch_size"):
            found(batch_size=0)

    def test_users_who_are_new(self, model: Any, workflow: nvt.Workflow, searcher: Any) -> None:
        new = pd.DataFrame({"age": [33.0, np.nan], "country": ["de", "never seen"]})
        unknown = recommend(model, searcher, new.assign(user_id=None), workflow=workflow, k=K)
        features_alone = recommend(model, searcher, new, workflow=workflow, k=K)
        assert features_alone["query_id"].tolist() == [0] * K + [1] * K
        assert features_alone["item_id"].tolist() == unknown["item_id"].tolist()
        assert unknown["user_id"].isna().all()
        none = recommend(model, searcher, new.head(0), workflow=workflow, k=K)
        assert none.columns.tolist() == features_alone.columns.tolist()
        assert not len(none)

    def test_without_a_workflow(self, model: Any, workflow: nvt.Workflow, searcher: Any) -> None:
        rows = WorkflowPart(workflow, TestWorkflowPart.USER)(users())
        truth = recommend(model, searcher, users(), workflow=workflow, k=K)
        found = recommend(model, searcher, rows, k=K)
        assert found["item_id"].tolist() == truth["item_id"].tolist()
        assert found["user_id"].tolist() == np.repeat(rows["user_id"], K).tolist()

    @pytest.mark.parametrize("given", [users().to_dict("list"), users().iloc[0]])
    def test_users_that_are_no_frame(self, model: Any, searcher: Any, given: Any) -> None:
        with pytest.raises(
            TypeError, match=r"users: expected a pandas DataFrame, got (dict|pandas)"
        ):
            recommend(model, searcher, given)

    def test_another_model_s_index(self, model: Any, workflow: nvt.Workflow, index: Index) -> None:
        of_towers = index.info["fingerprints"]
        swapped = dict(zip(of_towers, reversed(of_towers.values()), strict=True))
        info = {"fingerprints": swapped}
        stale = Index.from_codes(index.params, index.quantization, index.item_codes, info=info)
        with pytest.raises(StaleIndexError):
            recommend(model, open_searcher(stale), users(), workflow=workflow)


def test_items_that_are_new(model: Any, workflow: nvt.Workflow, index: Index) -> None:
    """An item by its features alone goes into the index, and is found like its kin."""
    new = items().head(1).assign(item_id="brand new", title="New")
    ids, vectors = item_vectors(model, new, workflow=workflow)
    assert ids.tolist() == ["brand new"]
    table = new[["item_id", "title"]]
    more = index.extend(ids, vectors, item_table=table)
    found = search_frame(
        open_searcher(more), pd.DataFrame({"embedding": list(vectors)}), k=1, allow=ids
    )
    assert found["item_id"].tolist() == ["brand new"]


class TestServed:
    """The same users, asked of a served version that has no workflow."""

    @pytest.fixture
    def served(
        self, model: Any, index: Index, workflow: nvt.Workflow, tmp_path_factory: Any
    ) -> Retrieval:
        folder = tmp_path_factory.mktemp("served")
        save_index(index, folder / "items.index")
        version = export_retrieval(
            model, folder / "items.index", folder, k=K, titles="title", workflow=workflow
        )
        return Retrieval(version.folder)

    def request(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        """As bytes, where a null text is an empty one."""
        texts = {
            name: np.array([[(text or "").encode()] for text in rows[name]], object)
            for name in ("user_id", "country")
        }
        return {**texts, "age": rows["age"].to_numpy(np.float64).reshape(-1, 1)}

    def test_it_answers_as_recommend_does(
        self, served: Retrieval, model: Any, index: Index, workflow: nvt.Workflow
    ) -> None:
        rows = pd.concat([users(), users().head(1).assign(user_id="nobody")], ignore_index=True)
        (answer,) = served.answer([self.request(rows)])
        assert isinstance(answer, Answer)
        found = recommend(model, open_searcher(index), rows, workflow=workflow, k=K)
        keys = [key.decode() for key in answer.arrays["item_ids"].ravel()]
        titles = [title.decode() for title in answer.arrays["titles"].ravel()]
        assert keys == found["item_id"].tolist()
        assert titles == found["title"].tolist()
        np.testing.assert_allclose(answer.arrays["scores"].ravel(), found["score"], atol=1e-4)

    def test_users_without_an_id(
        self, served: Retrieval, model: Any, index: Index, workflow: nvt.Workflow
    ) -> None:
        rows = users().drop(columns="user_id")
        request = self.request(users())
        del request["user_id"]
        (answer,) = served.answer([request])
        assert isinstance(answer, Answer)
        found = recommend(model, open_searcher(index), rows, workflow=workflow, k=K)
        keys = [key.decode() for key in answer.arrays["item_ids"].ravel()]
        assert keys == found["item_id"].tolist()

    def test_a_missing_column_is_named(self, served: Retrieval) -> None:
        request = self.request(users())
        (answer,) = served.answer([{"user_id": request["user_id"], "age": request["age"]}])
        assert "country: expected it in the request" in str(answer)
