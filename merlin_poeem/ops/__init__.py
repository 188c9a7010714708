"""Steps of an NVTabular workflow that use a saved index. Needs NVTabular 23.8 (Merlin)."""

from merlin_poeem.optional import needed_by

with needed_by("merlin_poeem.ops", "train"):
    from merlin_poeem.ops.assign_codes import AssignCodes
    from merlin_poeem.ops.retrieve_candidates import RetrieveCandidates

__all__ = ["AssignCodes", "RetrieveCandidates"]
