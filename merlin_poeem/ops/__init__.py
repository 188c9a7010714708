"""Steps of an NVTabular workflow that use a saved index. Needs NVTabular (Merlin).

Import it before ``Workflow.load``: NVTabular after 23.8 loads only operators that it has been told
of.
"""

from merlin_poeem.optional import needed_by

with needed_by("merlin_poeem.ops", "train"):
    from merlin_poeem.ops.assign_codes import AssignCodes
    from merlin_poeem.ops.retrieve_candidates import RetrieveCandidates
    from merlin_poeem.ops.workflow_json import register

__all__ = ["AssignCodes", "RetrieveCandidates"]

register(AssignCodes)
register(RetrieveCandidates)
