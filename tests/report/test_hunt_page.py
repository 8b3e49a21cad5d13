"""The page of a hunt: what it claims, and that no text of a user becomes markup."""

from __future__ import annotations

import pytest

from raysweep.report import hunt_page
from raysweep.report.hunt_page import Facts, RoundFacts
from raysweep.store.hunts import HuntRecord, HuntRound
from raysweep.store.records import ParentRef

END = {
    "evaluation": "h_1", "sealed": True, "images": 500, "gain": 0.031, "low": 0.004, "high": 0.058, "p": 0.02, "found": True, "same_bits": True,
}  # fmt: skip


def facts(end, survivor="r1-01", **more):
    treatment = {"weights": {"<b>x|y": 3.0}, "shares": {}, "settings": {"loss.kind": "focal"}, "point": [0.5]}
    of = HuntRound(1, "base_1@3", 20, {}, {"r1-01": treatment}, (0.1,), "h-r1_1", survivor, "why", 0.02, 100.0)
    record = HuntRecord(
        id="h_20260101_000000", name="h", description="", timestamp="t", parent=ParentRef("base_1", 3, 0, "0" * 64, "f"), budget={"kind": "images", "amount": 30_000.0},
        planned=1, seed=0, epochs=2, images=1000, seconds_each=10.0, at_once=2, space={"select": "macro_f1"}, proposer="model", request={}, settings={},
        rounds=(of,), seeds=(4, 5, 6) if end else (), end=end,
    )  # fmt: skip
    shares = [("round 1", {"<b>x|y": 0.6, "z": 0.4})]
    return Facts(record, [RoundFacts(of, 20, ["r1-01"], 1)], 27, 27_000, 0.5, shares=shares, **more)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (
            END,
            [
                "Found: it is better.",
                "+3.1 points of macro-F1",
                "3 new seeds",
                "sealed test images",
                "p = 0.02, and 0.03 is enough",
            ],
        ),
        ({**END, "found": False, "p": 0.2}, ["Not shown to be better.", "p = 0.2"]),
        (
            {**END, "found": False, "sealed": False},
            ["Not shown to be better.", "validation images, on which it was also chosen"],
        ),
        ({}, ["Nothing was found", "nobody looked at the test images"]),
    ],
)
def test_what_is_claimed(end, words):
    text = " ".join(hunt_page.verdict(facts(end)))
    for word in words:
        assert word in text


MOVED = {
    "metric": "macro_f1",
    "gain": 0.024,
    "beyond": 0.007,
    "low": -0.01,
    "high": 0.024,
    "p": 0.4,
    "label": "not shown",
}


def test_what_a_moved_threshold_gives_stands_beside_the_claim():
    """Whoever reads only the first lines must not take for learned what is to be had for nothing."""
    told = hunt_page.verdict(facts({**END, "moved": MOVED}))
    assert told[0].startswith("Found: it is better.")
    assert told[1] == (
        "Moved thresholds alone give the control chain +2.4 points of macro-F1 there, without any training. The winner has +0.7 beyond that "
        "(95 % interval -1.0 … +2.4): not shown."
    )
    one_seed = hunt_page.verdict(facts({**END, "moved": {**MOVED, "low": None, "high": None, "label": ""}}))
    assert one_seed[1].endswith("The winner has +0.7 beyond that.")


def test_the_networks_stand_side_by_side_from_the_checkpoint_to_the_winner():
    each = {"accuracy": 0.8, "macro_f1": 0.5, "balanced_accuracy": 0.6}
    overall = {"control": each, "control + offsets": {**each, "macro_f1": 0.524}, "winner": {**each, "macro_f1": 0.531}}
    validation = {"began": 0.47, "control": 0.49, "winner": 0.52}
    text = hunt_page.page(facts({**END, "overall": overall}, validation=validation)).markdown()
    assert "| the checkpoint that it began with | 47.0% |  |  |  |" in text
    assert "| control chain + offsets, no training |  | 80.0% | 52.4% | 60.0% |" in text
    assert "| winner's recipe | 52.0% | 80.0% | 53.1% | 60.0% |" in text
    assert "macro-F1, test images" in text
    none = hunt_page.page(facts({}, validation={"began": 0.47, "control": 0.49})).markdown()
    assert "| control chain | 49.0% |" in none
    assert "One network each." in none


@pytest.mark.parametrize(("look", "said"), [(None, False), (1, False), (2, True)])
def test_a_second_look_is_told(look, said):
    text = hunt_page.page(facts({**END, "look": look})).markdown()
    assert ("This was the second look at these test images." in text) is said


def test_the_whole_page():
    page = hunt_page.page(facts(END, commands=["raysweep resume --from base_1@3"]))
    text = page.markdown()
    assert (
        "27 trainings, 27,000 images shown, 0.5 hours of work. The budget was 30,000 images; 90% of it was spent."
        in text
    )
    assert "1 training failed" in text
    assert "Round 1: weights <b>x|y=3.0; loss.kind=focal." in text
    assert "| images shown | <b>x\\|y | z |" in text
    assert "```\nraysweep resume --from base_1@3\n```" in text
    html = page.html()
    assert "<b>x" not in html
    assert "&lt;b&gt;x|y" in html
    assert "gave the same network, bit for bit" in html
    assert "did NOT give the same bits" in hunt_page.page(facts({**END, "same_bits": False}, commands=["x"])).markdown()
