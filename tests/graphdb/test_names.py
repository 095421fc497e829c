"""What a mistyped id may have meant, and what it never means."""

from __future__ import annotations

from matchgraph.graphdb.names import nearest_ids

KNOWN = ["bob/sdxl-cute", "alice/flux-dev", "carol/flux-dev", "sd-1.5"]


def test_a_slip_is_found_among_the_models_of_the_same_owner() -> None:
    assert nearest_ids("bob/sdxl-cut", KNOWN) == ["bob/sdxl-cute"]
    assert nearest_ids("sd-15", KNOWN) == ["sd-1.5"]


def test_another_owners_model_is_never_meant() -> None:
    assert nearest_ids("alice/sdxl-cute", KNOWN) == []
    assert nearest_ids("bob/sd-1.5", ["sd-1.5"]) == []


def test_a_name_without_its_owner_may_mean_those_of_all_owners() -> None:
    assert nearest_ids("flux-dev", KNOWN) == ["alice/flux-dev", "carol/flux-dev"]
