"""The reliability plot is drawn whatever the intervals are."""

from __future__ import annotations

from types import SimpleNamespace


def test_an_interval_may_end_at_the_accuracy_and_by_rounding_before_it():
    from raysweep.report.reliability import reliability_png

    def bin_of(accuracy: float, low: float, high: float) -> SimpleNamespace:
        return SimpleNamespace(
            confidence=accuracy, accuracy=accuracy, accuracy_low=low, accuracy_high=high, images=3, low=0.0, high=0.1
        )

    bins = [bin_of(1.0, 0.4, 1.0 - 1e-16), bin_of(0.0, 1e-17, 0.6), bin_of(0.5, 0.2, 0.8)]
    arm = SimpleNamespace(name="branch", bins=bins, overall={"ece": SimpleNamespace(value=0.1)}, ece_by_luck=0.02)
    assert reliability_png([arm], "title").startswith(b"\x89PNG")
