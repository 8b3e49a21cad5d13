"""Networks whose true differences are known: seven classes as rare as those of FER-2013's test images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raysweep.report.findings import findings
from raysweep.report.findings.arms import LEARNED, Arm, Cases
from raysweep.report.findings.findings import Finding, Findings

SHARES = np.array([958, 111, 1024, 1774, 1233, 831, 1247]) / 7178


class Images:
    """n images with what all networks see in them. ``sd`` is the standard deviation between seeds of a whole class's logit."""

    def __init__(self, n: int, seed: int, sd: float = 0.08) -> None:
        self.rng = np.random.default_rng(seed)
        self.sd = sd
        self.classes = len(SHARES)
        counts = np.maximum(1, np.round(SHARES * n).astype(int))
        self.labels = self.rng.permutation(np.repeat(np.arange(self.classes), counts))
        self.truth = np.eye(self.classes)[self.labels]
        noise = self.rng.standard_normal(self.truth.shape)
        self.seen = np.log(SHARES) + 2.2 * self.truth + noise

    def network(
        self, moved: Any = 0.0, learned: Any = 0.0, temperature: float = 1.0, unsteady: float = 1.0
    ) -> np.ndarray:
        """Log probabilities (n, K) of one training.

        Args:
            moved: added to every image's logits, as a changed prior does.
            learned: added to the logit of the image's own class.
            unsteady: times the variation between seeds.
        """
        logits = self.seen + 0.5 * self.rng.standard_normal(self.truth.shape)
        logits = logits + unsteady * self.sd * self.rng.standard_normal(self.classes) + moved + learned * self.truth
        logits = logits / temperature
        logits = logits - logits.max(1, keepdims=True)
        return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)

    def arm(self, name: str, seeds: int, **of_network: Any) -> Arm:
        return arm(name, [self.network(**of_network) for _ in range(seeds)])

    def sweep(self, branches: Sequence[dict[str, Any]], seeds: int, control_seeds: int) -> Findings:
        control = self.arm("control", control_seeds)
        arms = [self.arm(f"b{i}", seeds, **b) for i, b in enumerate(branches)]
        return findings.find(control, arms, Cases(self.labels, self.classes))


def arm(name: str, networks: Sequence[np.ndarray]) -> Arm:
    return Arm(name, [lambda found=found: found for found in networks])  # type: ignore[misc]


def shown(found: Findings, learned: bool | None = None) -> list[Finding]:
    """The findings with a label; only those of learning, or only the others, if asked for."""
    return [
        f for f in found.findings if f.label in findings.SHOWN and (learned is None or (f.metric == LEARNED) == learned)
    ]
