"""Times the statistics of FID beside pytorch-fid's, in turn on the same images and weights, and compares what both found.

Both are whole programs, the start of each included; pytorch-fid (0.3.0, PyPI) runs as it is, but reads its weights from a file. Random
weights of the full size serve: `record_inception.py --full OUT.pth`.
Usage: compare_fid.py WEIGHTS.pth IMAGES --binary target/release/semanticist --repeats 3    (IMAGES: a flat folder of square images)
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THREADS = os.cpu_count()
PEER = """
import sys, torch
from unittest import mock
from pytorch_fid import fid_score, inception
torch.set_num_threads({threads})
weights = torch.load(sys.argv[1], map_location="cpu")
with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: weights):
    fid_score.save_fid_stats([sys.argv[2], sys.argv[3]], 50, "cpu", 2048, num_workers=1)
"""

parser = argparse.ArgumentParser()
parser.add_argument("weights", type=Path)
parser.add_argument("images", type=Path)
parser.add_argument("--binary", default="target/release/semanticist")
parser.add_argument("--repeats", type=int, default=3)
arguments = parser.parse_args()


def timed(command):
    """Seconds, and the most memory in MiB."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(message)
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


with tempfile.TemporaryDirectory() as folder:
    from PIL import Image

    images = sorted(arguments.images.iterdir())
    side = Image.open(images[0]).size[0]
    ours, theirs = (str(Path(folder) / name) for name in ("ours.npz", "theirs.npz"))
    peer = [sys.executable, "-c", PEER.format(threads=THREADS), arguments.weights, arguments.images, theirs]
    own = [arguments.binary, "evaluate", "generation", "--data", arguments.images, "--images", str(len(images)), "--size", str(side)]
    own += ["--features", f"inception={arguments.weights}", "--save-statistics", ours, "--threads", str(THREADS)]
    seconds = {"pytorch-fid": [], "semanticist": []}
    for number in range(arguments.repeats):
        for name, command in [("pytorch-fid", peer), ("semanticist", own)]:
            Path(ours if name == "semanticist" else theirs).unlink(missing_ok=True)
            took, memory = timed([str(part) for part in command])
            seconds[name].append(took)
            print(f"{name}: {took:.1f} s, {len(images) / took:.1f} images/s, at most {memory:.0f} MiB", flush=True)
    ratio = statistics.median(seconds["pytorch-fid"]) / statistics.median(seconds["semanticist"])
    print(f"{len(images)} images of {side}×{side} on {THREADS} cores: semanticist is {ratio:.2f} times as fast (medians)")

    import numpy as np

    with np.load(ours) as a, np.load(theirs) as b:
        difference = np.abs(a["mu"] - b["mu"]).max() / np.abs(b["mu"]).max()
        spread = np.abs(a["sigma"] - b["sigma"]).max() / np.abs(b["sigma"]).max()
    print(f"largest difference over largest value: mean {difference:.1e}, covariance {spread:.1e}")
