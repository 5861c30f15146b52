"""Records statistics of features as NumPy writes them for crates/semanticist-eval/tests/data/statistics.

Layouts of pytorch-fid (mu, sigma) and ADM (mu, sigma, mu_s, sigma_s; openai/guided-diffusion, evaluations/evaluator.py);
distances with pytorch-fid 0.3.0's formula, whose root is that of scipy.
Usage: record_statistics.py FOLDER    (needs numpy, scipy and pytorch-fid)
"""

import json
import pathlib
import sys

import numpy as np
import scipy.linalg


def distance(mu1, sigma1, mu2, sigma2):
    """pytorch_fid.fid_score.calculate_frechet_distance, which calls sqrtm with an argument that newer scipy lacks."""
    root = scipy.linalg.sqrtm(sigma1 @ sigma2).real
    return ((mu1 - mu2) ** 2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * np.trace(root)


folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
random = np.random.default_rng(0)


def features(dimensions, shift):
    mixing = random.normal(size=(dimensions, dimensions))
    return np.maximum(random.normal(size=(40, dimensions)) @ mixing + shift, 0)


def statistics(values):
    return values.mean(axis=0), np.cov(values, rowvar=False)


(mu1, sigma1), (mu2, sigma2) = statistics(features(12, 0.2)), statistics(features(12, 0.5))
(mus1, sigmas1), (mus2, sigmas2) = statistics(features(9, 0.0)), statistics(features(9, 0.3))
# Single precision holds the means that are written in it.
mu1, mus2 = mu1.astype(np.float32).astype(np.float64), mus2.astype(np.float32).astype(np.float64)
np.savez(folder / "pytorch_fid.npz", mu=mu1, sigma=sigma1)
np.savez(folder / "adm.npz", mu=mu2, sigma=sigma2, mu_s=mus1, sigma_s=sigmas1)
np.savez_compressed(
    folder / "compressed.npz",
    mu=mu1.astype(np.float32), sigma=np.asfortranarray(sigma1), mu_s=mus2.astype(np.float32), sigma_s=np.asfortranarray(sigmas2),
)
found = {"fid": distance(mu1, sigma1, mu2, sigma2), "sfid": distance(mus1, sigmas1, mus2, sigmas2)}
(folder / "distances.json").write_text(json.dumps(found) + "\n")
print(found)
