"""Records means, covariances and Fréchet distances of numpy and scipy, for the test of semanticist-eval/src/frechet.rs.

    venv/bin/python scripts/record_frechet.py > crates/semanticist-eval/tests/data/frechet.json
"""

import json

import numpy as np
import scipy
from scipy import linalg


def distance(first, second):
    """pytorch-fid, fid_score.py, calculate_frechet_distance, without the steps for what fails."""
    difference = first.mean(axis=0) - second.mean(axis=0)
    covariances = [np.cov(features, rowvar=False) for features in (first, second)]
    root = linalg.sqrtm(covariances[0] @ covariances[1])
    assert np.isfinite(root).all() and np.abs(root.imag).max() < 1e-9 * np.abs(root.real).max()
    return difference @ difference + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root.real)


rng = np.random.default_rng(0)


def case(name, dimensions, counts, mixing, offset):
    """Two sets of normal features that are mixed by one matrix each and moved, in float32 as networks give them."""
    sets = []
    for count in counts:
        features = rng.normal(size=(count, dimensions)) @ mixing() + offset()
        sets.append(features.astype(np.float32))
    first, second = [features.astype(np.float64) for features in sets]
    return {
        "name": name,
        "dimensions": dimensions,
        "first": numbers(sets[0]),
        "second": numbers(sets[1]),
        "mean": first.mean(axis=0).tolist(),
        "covariance": np.cov(first, rowvar=False).flatten().tolist(),
        "distance": float(distance(first, second)),
    }


def numbers(features):
    """Nine digits tell every float32."""
    return [float(f"{value:.9g}") for value in features.flatten()]


def mixed(dimensions):
    return lambda: rng.normal(size=(dimensions, dimensions)) / np.sqrt(dimensions)


def stretched(dimensions):
    """Deviations over four decades in a random frame."""

    def matrix():
        frame = linalg.qr(rng.normal(size=(dimensions, dimensions)))[0]
        return (np.logspace(-2, 2, dimensions)[:, None] * frame) @ frame.T

    return matrix


cases = [
    case("mixed", 8, (40, 30), mixed(8), lambda: rng.normal(size=8)),
    case("far from 0", 6, (25, 50), mixed(6), lambda: 1000 + rng.normal(size=6)),
    case("stretched", 8, (60, 40), stretched(8), lambda: rng.normal(size=8)),
    case("as few as can be", 16, (17, 20), mixed(16), lambda: rng.normal(size=16)),
]
print(json.dumps({"numpy": np.__version__, "scipy": scipy.__version__, "cases": cases}))
