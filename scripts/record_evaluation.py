"""Records what numpy and scikit-learn compute, for tests of semanticist-eval (src/spectrum.rs, src/logistic.rs).

    venv/bin/python scripts/record_evaluation.py crates/semanticist-eval/tests/data    (needs numpy and scikit-learn)
"""

import json
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss


def power(side):
    y, x = np.mgrid[:side, :side]
    channels = [x * 7 + y * 13, x * y * 3, x * x + 5 * y]
    luminance = sum(weight * (c % 256) / 255 for weight, c in zip((0.299, 0.587, 0.114), channels))
    powers = np.abs(np.fft.fft2(luminance)) ** 2 / side**2
    frequency = np.fft.fftfreq(side, 1 / side)
    ring = np.floor(np.hypot(frequency[:, None], frequency[None]) + 0.5).astype(int)
    return {"side": side, "power": [powers[ring == r].mean() for r in range(side // 2 + 1)]}


def logistic(count=60, features=4, classes=3, decay=0.02):
    noise = np.random.default_rng(0)
    centres = noise.normal(size=(classes, features))
    labels = noise.integers(classes, size=count)
    rows = (centres[labels] + noise.normal(size=(count, features))).astype(np.float32).round(3)
    # scikit-learn minimises C times the sum of losses plus half the squared weights.
    model = LogisticRegression(C=1 / (decay * count), tol=1e-10, max_iter=10000).fit(rows.astype(np.float64), labels)
    weights = np.concatenate([model.coef_.T, model.intercept_[None]])
    return {
        "features": features,
        "classes": classes,
        "rows": [round(float(value), 3) for value in rows.ravel()],
        "labels": labels.tolist(),
        "decay": decay,
        "weights": weights.ravel().tolist(),
        "loss": log_loss(labels, model.predict_proba(rows)),
        "accuracy": model.score(rows, labels),
    }


folder = Path(sys.argv[1])
(folder / "spectrum.json").write_text(json.dumps([power(side) for side in (15, 16, 32)]) + "\n")
(folder / "logistic.json").write_text(json.dumps(logistic()) + "\n")
