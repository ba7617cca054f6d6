"""Runs one peer's merging method in the peer's own interpreter: votes.parquet in, answers and seconds out.

    PYTHON benchmarks/merging_peers.py VOTES METHOD OUT

VOTES has ``row``, ``teacher``, ``label`` as whole numbers. Prints nothing; OUT gets ``row``, ``label``, ``top`` (the
probability stated for the label, null where there is none), ``seconds`` (of the fit alone, after the import).
"""

import importlib
import sys
import time

import numpy as np
import pandas as pd

CROWDKIT_STEPS = 100


def crowdkit(votes: pd.DataFrame, method: str) -> tuple[pd.Series, pd.Series | None]:
    from crowdkit import aggregation

    frame = votes.rename(columns={"row": "task", "teacher": "worker"})
    if method == "MajorityVote":
        model = aggregation.MajorityVote()
    elif method == "DawidSkene":
        model = aggregation.DawidSkene(n_iter=CROWDKIT_STEPS, tol=1e-5)
    elif method == "OneCoinDawidSkene":
        model = aggregation.OneCoinDawidSkene(n_iter=CROWDKIT_STEPS, tol=1e-5)
    elif method == "GLAD":
        model = aggregation.GLAD(n_iter=CROWDKIT_STEPS, silent=True)
    else:
        model = aggregation.MACE(n_restarts=5, n_iter=50, random_state=7)
    model.fit(frame)
    probs = getattr(model, "probas_", None)
    return model.labels_, None if probs is None else probs.max(axis=1)


def snorkel(votes: pd.DataFrame) -> tuple[pd.Series, pd.Series | None]:
    from snorkel.labeling.model import LabelModel

    rows = np.sort(votes["row"].unique())
    place = np.searchsorted(rows, votes["row"])
    matrix = np.full((len(rows), votes["teacher"].max() + 1), -1)
    matrix[place, votes["teacher"]] = votes["label"]
    model = LabelModel(cardinality=int(votes["label"].max()) + 1, verbose=False)
    model.fit(matrix, n_epochs=500, seed=7, progress_bar=False)
    probs = model.predict_proba(matrix)
    return pd.Series(probs.argmax(axis=1), index=rows), pd.Series(probs.max(axis=1), index=rows)


def main() -> None:
    votes_path, method, out = sys.argv[1:]
    votes = pd.read_csv(votes_path)
    importlib.import_module("snorkel.labeling.model" if method == "snorkel" else "crowdkit.aggregation")
    began = time.process_time()
    labels, top = snorkel(votes) if method == "snorkel" else crowdkit(votes, method)
    seconds = time.process_time() - began
    found = pd.DataFrame({"row": labels.index, "label": labels.to_numpy(), "seconds": seconds})
    found["top"] = np.nan if top is None else top.reindex(labels.index).to_numpy()
    found.to_csv(out, index=False)


if __name__ == "__main__":
    main()
