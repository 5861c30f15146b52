"""Records the power over rings of numpy, for the test of semanticist-eval/src/spectrum.rs.

    venv/bin/python scripts/record_evaluation.py > crates/semanticist-eval/tests/data/spectrum.json
"""

import json

import numpy as np


def power(side):
    y, x = np.mgrid[:side, :side]
    channels = [x * 7 + y * 13, x * y * 3, x * x + 5 * y]
    luminance = sum(weight * (c % 256) / 255 for weight, c in zip((0.299, 0.587, 0.114), channels))
    powers = np.abs(np.fft.fft2(luminance)) ** 2 / side**2
    frequency = np.fft.fftfreq(side, 1 / side)
    ring = np.floor(np.hypot(frequency[:, None], frequency[None]) + 0.5).astype(int)
    return {"side": side, "power": [powers[ring == r].mean() for r in range(side // 2 + 1)]}


print(json.dumps([power(side) for side in (15, 16, 32)]))
