"""Whether training in bfloat16 ends where training in float32 ends: the same run in both, with several seeds.

Two runs of one seed see the same images, noise and initial weights, so what is left between them is
rounding; what is between seeds is the noise that it is to be compared with. All models are evaluated in
float32. Prints a table in Markdown; runs that are in the folder already are only evaluated.

    cargo build --release --workspace
    python3 scripts/precision_runs.py --data tiny-imagenet-100 --out runs/precision [--steps 600] [--seeds 0,1,2]
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRECISIONS = ["float32", "bfloat16"]
# Steps at the end whose losses are averaged: each is of one batch.
LAST = 100


def train(precision, seed, given):
    """The folder of the finished run."""
    out = Path(given.out) / f"{precision}-{seed}"
    state = out / "checkpoints" / f"step-{given.steps:08}"
    if not state.is_dir():
        settings = {
            "seed": seed,
            "steps": given.steps,
            # An average that has forgotten the beginning of so short a run.
            "ema": 0.99,
            "log.every": 1,
            "log.validate_every": given.steps,
            "validation.images": 1000,
            "validation.tokens": f"[{given.tokens}]",
        }
        command = [given.binary, "train", "tokenizer", given.config, "--data", given.data, "--out", out]
        command += ["--precision", precision, "--threads", str(given.threads)]
        command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        # A run that was stopped goes on.
        command += ["--resume"] if (out / "checkpoints").is_dir() else []
        subprocess.run(list(map(str, command)), check=True)
    return out


def measure(out, given):
    """Training loss over the last steps, validation loss and PSNR by tokens, seconds per step."""
    records = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    validated = [record["validation_mse"] for record in records if "validation_mse" in record]
    command = [given.binary, "evaluate", "reconstruction", "--data", given.data, "--model", out / "model.safetensors"]
    command += ["--images", given.images, "--tokens", given.tokens, "--steps", 10, "--guidance", 1, "--json"]
    command += ["--threads", given.threads]
    evaluated = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    table = json.loads(evaluated.stdout)["tables"][0]
    psnr = table["columns"].index("PSNR dB")
    # The last row is the autoencoder alone.
    rows = [row[psnr] for row in table["rows"][:-1]]
    numbers = [statistics.mean(losses[-LAST:]), *validated[-1], *rows]
    state = json.loads((out / "checkpoints" / f"step-{given.steps:08}" / "state.json").read_text())
    return [*numbers, state["seconds"] / given.steps]


def cells(numbers):
    return " | ".join(f"{number:.4f}" for number in numbers)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, help="the folder of all runs")
    parser.add_argument("--config", default=ROOT / "configs/tokenizer-tiny.toml")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tokens", default="1,8,32", help="numbers of tokens that are measured")
    parser.add_argument("--images", type=int, default=250, help="images in PSNR")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", default=ROOT / "target/release/semanticist")
    given = parser.parse_args()
    seeds, counts = given.seeds.split(","), given.tokens.split(",")
    found = {(p, s): measure(train(p, s, given), given) for s in seeds for p in PRECISIONS}

    names = [f"loss, last {LAST} steps", *(f"validation loss, {k}" for k in counts)]
    names += [*(f"dB, {k}" for k in counts), "s per step"]
    print(f"| run | {' | '.join(names)} |\n|{' --- |' * (len(names) + 1)}")
    for (precision, seed), numbers in found.items():
        print(f"| {precision}, seed {seed} | {cells(numbers)} |")
    for precision in PRECISIONS:
        columns = list(zip(*(found[precision, seed] for seed in seeds)))
        print(f"| {precision}, mean | {cells(map(statistics.mean, columns))} |")
        if len(seeds) > 1:
            print(f"| {precision}, deviation of seeds | {cells(map(statistics.stdev, columns))} |")
    apart = [[b - a for a, b in zip(found["float32", s], found["bfloat16", s])] for s in seeds]
    print(f"| bfloat16 less float32, mean of pairs | {cells(map(statistics.mean, zip(*apart)))} |")


if __name__ == "__main__":
    main()
