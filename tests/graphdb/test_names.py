"""What a mistyped id may have meant, and what it never means."""

from __future__ import annotations

from matchgraph.graphdb.names import alike, listed, nearest_ids

KNOWN = ["bob/sdxl-cute", "alice/flux-dev", "carol/flux-dev", "sd-1.5"]


def test_a_slip_is_found_among_the_models_of_the_same_owner() -> None:
    assert nearest_ids("bob/sdxl-cut", KNOWN) == ["bob/sdxl-cute"]
    assert nearest_ids("sd-15", KNOWN) == ["sd-1.5"]


def test_another_owners_model_is_never_meant() -> None:
    assert nearest_ids("alice/sdxl-cute", KNOWN) == []
    assert nearest_ids("bob/sd-1.5", ["sd-1.5"]) == []


def test_a_name_without_its_owner_may_mean_those_of_all_owners() -> None:
    assert nearest_ids("flux-dev", KNOWN) == ["alice/flux-dev", "carol/flux-dev"]


def test_case_and_the_code_points_of_accents_are_the_nearest_of_all() -> None:
    assert nearest_ids("SD-1.5", ["sd-1.5", "SD-1.6"]) == ["sd-1.5"]
    assert nearest_ids("cafe\u0301", ["caf\u00e9", "cafe"]) == ["caf\u00e9"]
    assert listed(["caf\u00e9"], "cafe\u0301") == r"'caf\xe9'"
    assert listed(["caf\u00e9"], "cafe") == "'caf\u00e9'"


def test_new_names_that_look_like_others_are_told() -> None:
    assert alike(["SDXL", "flux"], ["sdxl", "a", "A"]) == [
        "'SDXL' and 'sdxl' are different names here: rename one if both mean the same."
    ]
    assert alike(["caf\u00e9", "cafe\u0301"]) == [
        r"'cafe\u0301' and 'caf\xe9' are different names here: rename one if both mean the same."
    ]
    assert alike(["sdxl"], ["sdxl"]) == []
