r"""MACE: voters that are right, or spam in a way of their own. For crowds in which some do not even try.

Voter :math:`j` knows the label with probability :math:`t_j` and gives it; else it draws from its habit :math:`\xi_j`:

.. math:: \theta_{jkl} = t_j [k = l] + (1 - t_j) \, \xi_{jl}

so that always saying the same teaches nothing, where Dawid–Skene has to learn it label by label. The M step shares each
agreeing vote out between knowing and spamming, with Beta and Dirichlet priors as in the paper's variational version
(here at their mode, smoothed). EM is started from the votes and from ``restarts`` random posteriors; the likeliest end
is kept.

Hovy, Berg-Kirkpatrick, Vaswani and Hovy, "Learning whom to trust with MACE", NAACL 2013.
"""

from __future__ import annotations

import numpy as np

from distill.labeling.merging.aggregate_config import MaceConfig
from distill.labeling.merging.confusion_em import Fitted, ReadConfusions, VoteMatrix, fit_confusions
from distill.labeling.merging.merged import Merged, posterior_merged
from distill.labeling.merging.panel import Panel

_SEED = 7


def mace(panel: Panel, config: MaceConfig) -> Merged:
    """Merges by MACE; only labels are read, and the labels are taken for equally frequent, as in the paper."""
    matrix = VoteMatrix.of(panel)
    labels = len(panel.labels)
    even = np.full(labels, 1.0 / labels)
    random = np.random.default_rng(_SEED)
    best: Fitted | None = None
    for attempt in range(config.restarts + 1):
        shares = matrix.shares()
        # A random start near the votes: one that is far from them finds the same end with the labels swapped.
        start = shares if not attempt else 0.5 * shares + 0.5 * random.dirichlet(np.ones(labels), size=len(shares))
        found = fit_confusions(
            matrix, mace_reader(config), steps=config.steps, tolerance=config.tolerance, prior=even, start=start
        )
        if best is None or found.log_likelihood > best.log_likelihood + 1e-6:
            best = found
    assert best is not None
    return posterior_merged(panel, best.posterior, even)


def mace_reader(config: MaceConfig) -> ReadConfusions:
    """The M step of MACE. It goes on from its own last state, so that each fit needs a reader of its own."""
    state: dict[str, np.ndarray] = {}

    def read(counts: np.ndarray) -> np.ndarray:
        labels = counts.shape[1]
        given = counts.sum(axis=1)
        agreeing = counts[:, np.arange(labels), np.arange(labels)]
        trust = state.get("trust", np.full(len(counts), 0.5))
        habit = state.get("habit", np.full((len(counts), labels), 1.0 / labels))
        knowing = trust[:, None] / np.maximum(trust[:, None] + (1 - trust[:, None]) * habit, 1e-12) * agreeing
        spam = given - knowing
        known, spammed = knowing.sum(axis=1), spam.sum(axis=1)
        trust = (known + config.trust_prior) / (known + spammed + 2 * config.trust_prior)
        habit = (spam + config.habit_prior) / (spammed + labels * config.habit_prior)[:, None]
        state.update(trust=trust, habit=habit)
        found = np.repeat((1 - trust)[:, None, None] * habit[:, None, :], labels, axis=1)
        found[:, np.arange(labels), np.arange(labels)] += trust[:, None]
        return found

    return read
