"""Which process runs what, and when: files whole, some in one process, the slowest first."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

TOY = (
    "tests/blocks/model/test_two_tower.py",
    "tests/blocks/model/test_freshness.py",
    "tests/blocks/export/test_distributed.py",
    "tests/blocks/export/test_export.py",
    "tests/blocks/export/test_features.py",
    "tests/blocks/export/test_retrieval.py",
    "tests/blocks/export/test_settling.py",
    "tests/docs/test_training_pages.py",
    "tests/blocks/model/test_quantized_model.py",
    "tests/ops/test_ops.py",
    "tests/ops/test_workflow_json.py",
)

REAL_SERVER = "tests/serving/real_server/"

# Started first, so that no process is left with one of them at the end.
SLOWEST = (
    "search/test_contract.py",
    "workflows/aliccp/test_command.py",
    "notebooks/test_notebooks.py",
    "search/gpu/test_compile.py",
    "blocks/model/test_two_tower.py",
    "blocks/model/test_freshness.py",
    "blocks/model/test_quantized_model.py",
    "blocks/export/test_distributed.py",
    "ops/test_ops.py",
    "docs/test_training_pages.py",
    "docs/test_your_own_data.py",
    "blocks/in_graph/test_contract.py",
    "workflows/movielens/test_command.py",
    "serving/real_server/test_contract.py",
    "benchmarks/test_quality_trunk.py",
    "benchmarks/test_quality_training.py",
    "blocks/in_graph/test_topk.py",
    "workflows/test_poeem_tutorial.py",
    "workflows/test_readme.py",
    "blocks/quantizer/test_quantizer.py",
    "blocks/quantizer/test_health.py",
    "blocks/model/test_query_refresh.py",
    "systems/test_export.py",
    "search/gpu/test_mutants.py",
    "search/gpu/test_sanitizer.py",
    "search/gpu/test_searcher.py",
)


def order_of(path: str) -> int:
    """A file's place: those of ``SLOWEST`` first, in their order."""
    return next((i for i, slow in enumerate(SLOWEST) if path.endswith(slow)), len(SLOWEST))


class ByFileAndModel(LoadFileScheduling):
    """``--dist loadfile``, but for the files of the toy model and those of the real server."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if file in TOY:
            return "the toy model"
        return "the real server" if file.startswith(REAL_SERVER) else file
