"""How much of an image linear parts of a tokenizer can say before anything is trained (docs/recipes.md, "Linear parts").

Least squares from tokens to the latents of `autoencoder = { kind = "linear", patch_size = 4, channels = 12, whitening = 0.25 }`,
fitted on 2,500 images of each of the first four training shards, measured on 500 validation photos: PSNR in dB of the
estimate from the first 1, 4, 8 and 32 tokens of 16 numbers.

    python3 -m venv venv && venv/bin/pip install numpy pyarrow pillow
    venv/bin/python scripts/linear_parts.py --data tiny-imagenet-100
"""

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

SIDE, PATCH, CHANNELS, WHITENING = 64, 4, 12, 0.25
TOKENS, DIM, COUNTS = 32, 16, (1, 4, 8, 32)


def images(path, most):
    """Up to so many images of a shard, spread over it: [N, 64, 64, 3] in [0, 1]."""
    column = pq.read_table(path, columns=["image"]).column("image")
    rows = np.linspace(0, len(column) - 1, min(most, len(column))).astype(int)
    pictures = (Image.open(io.BytesIO(column[int(row)].as_py()["bytes"])).convert("RGB") for row in rows)
    return np.stack([np.asarray(picture, dtype=np.float32) / 255 for picture in pictures])


def patches(x):
    n = SIDE // PATCH
    return x.reshape(-1, n, PATCH, n, PATCH, 3).transpose(0, 1, 3, 5, 2, 4).reshape(len(x), n * n, -1)


class Latents:
    """The linear autoencoder: components of patches, whitened in part."""

    def __init__(self, x):
        flat = patches(x).reshape(-1, 3 * PATCH**2)
        self.mean = flat.mean(0)
        variances, components = np.linalg.eigh(np.cov((flat - self.mean).T))
        variances, self.components = variances[::-1][:CHANNELS], components[:, ::-1][:, :CHANNELS]
        scales = variances**-WHITENING
        self.scales = scales / np.sqrt(np.mean(variances * scales**2))

    def encode(self, x):
        return ((patches(x) - self.mean) @ self.components * self.scales).reshape(len(x), -1)

    def psnr(self, latents, x):
        """Mean over images of what the latents show of them."""
        decoded = latents.reshape(len(x), -1, CHANNELS) / self.scales @ self.components.T + self.mean
        return float(np.mean(-10 * np.log10(np.mean((decoded - patches(x)) ** 2, axis=(1, 2)))))


class Components:
    """Principal components of rows, whitened."""

    def __init__(self, rows):
        self.mean = rows.mean(0)
        _, singular, self.directions = np.linalg.svd(rows - self.mean, full_matrices=False)
        self.deviations = singular / np.sqrt(len(rows))

    def __call__(self, rows, count):
        return (rows - self.mean) @ self.directions[:count].T / self.deviations[:count]


def normalised(values, constant):
    """Tokens as the encoder has them; with a constant, that and minus the sum of all stand at their end."""
    tokens = values.reshape(len(values), TOKENS, -1)
    if constant is not None:
        ends = np.full((len(values), TOKENS, 1), constant)
        tokens = np.concatenate([tokens, ends, -ends - tokens.sum(-1, keepdims=True)], -1)
    tokens = (tokens - tokens.mean(-1, keepdims=True)) / tokens.std(-1, keepdims=True, ddof=1)
    return tokens.reshape(len(values), -1)


def least_squares(x, y, of):
    """What a linear map from x to y, with a bias, answers to `of`."""
    x, of = (np.concatenate([rows, np.ones((len(rows), 1))], 1) for rows in (x, of))
    return of @ np.linalg.solve(x.T @ x + 1e-4 * len(x) * np.eye(x.shape[1]), x.T @ y)


def reduced(x, side):
    """Means of squares of pixels."""
    step = SIDE // side
    return x.reshape(len(x), side, step, side, step, 3).mean((2, 4)).reshape(len(x), -1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train-*.parquet and validation-*.parquet")
    folder = Path(parser.parse_args().data)
    training = np.concatenate([images(path, 2500) for path in sorted(folder.glob("train-*.parquet"))[:4]])
    validation = images(min(folder.glob("validation-*.parquet")), 500)
    latents = Latents(training)
    known, truth = latents.encode(training), latents.encode(validation)

    def row(name, tokens_of):
        tokens, others = tokens_of(training), tokens_of(validation)
        found = (least_squares(tokens[:, : DIM * k], known, others[:, : DIM * k]) for k in COUNTS)
        print(f"| {name} | " + " | ".join(f"{latents.psnr(answer, validation):.1f}" for answer in found) + " |", flush=True)

    print("| tokens | " + " | ".join(map(str, COUNTS)) + " |\n| --- |" + " --- |" * len(COUNTS))
    of_latents = Components(known)
    every = TOKENS * DIM
    row("components of the latents, not normalised", lambda x: of_latents(latents.encode(x), every))
    row("16 of them in each token, normalised", lambda x: normalised(of_latents(latents.encode(x), every), None))
    fewer = TOKENS * (DIM - 2)
    for constant in (1, 2, 4, 8):
        row(
            f"14, a constant of {constant} and the balance",
            lambda x, constant=constant: normalised(of_latents(latents.encode(x), fewer), constant),
        )
    for side in (16, 32):
        of_images = Components(reduced(training, side))
        row(
            f"14 of images reduced to {side}×{side}, a constant of 4 and the balance",
            lambda x, side=side, of_images=of_images: normalised(of_images(reduced(x, side), fewer), 4),
        )


if __name__ == "__main__":
    main()
