"""Times `semanticist bench` beside the same models in plain PyTorch (torch_models.py), in turn, A B A B.

Every run is a process of its own; a figure is the median over the rounds, a ratio is PyTorch's time over
ours (above 1: we are faster). Each precision is compared with PyTorch's own: bfloat16 with autocast. With
--compile, PyTorch goes through torch.compile as well, where that works. Writes a table per precision into
BENCHMARKS.md between its two marks.

    python3 -m venv venv && venv/bin/pip install torch
    cargo build --release --workspace
    venv/bin/python scripts/compare.py [--rounds 5] [--threads 2] [--only encode,decode]
        [--precision bfloat16] [--compile]

`load` needs `pip install safetensors numpy` too, and 3 GB of disk.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- compare.py: begin -->", "<!-- compare.py: end -->"

# What it is called, the job, our further arguments, PyTorch's.
CASES = [
    ("encode, ViT-B/16, 256 tokens, batch 4", "encode", ["--preset", "b", "--batch", "4"], []),
    ("encode, the first 32 tokens only", "encode", ["--preset", "b", "--batch", "4"], ["--tokens", "32"]),
    ("one denoising step, DiT-L, batch 2", "decode", ["--preset", "l", "--batch", "2"], []),
    ("training step, S, batch 4", "train", ["--preset", "s", "--batch", "4"], []),
    ("one token of the head in 250 steps, guided, batch 1", "head", ["--batch", "1"], []),
    ("the same, batch 8", "head", ["--batch", "8"], []),
    ("load 3.0 GB of float32, ViT-L and DiT-L", "load", ["--preset", "l", "--batch", "1"], []),
]


def run(command, may_fail=False):
    """The output of a command, and its peak memory in bytes; None of one that failed and may."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        problem = f"{' '.join(map(str, command))} failed"
        if not may_fail:
            sys.exit(problem)
        print(problem, file=sys.stderr)
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return output, usage.ru_maxrss * unit


def measure(job, precision, common, ours_only, given):
    """One run of each: (our seconds, our memory, our share of the peak), (their seconds, memory), and the
    seconds of theirs compiled, if it was."""
    options = ["--threads", str(given.threads), "--repeats", str(given.repeats), "--precision", precision]
    if job == "load":
        options += ["--file", given.file]
    output, memory = run([given.binary, "bench", job, *common, *ours_only, *options, "--json"])
    report = json.loads(output)
    share = report["gflops"] / report["peak_gflops"] if report["gflops"] else None
    ours = (report["seconds"], memory, share)
    torch_models = [sys.executable, ROOT / "scripts/torch_models.py", job, *common, *options]
    output, memory = run(torch_models)
    compiled = run([*torch_models, "--compile"], may_fail=True) if given.compile and job != "load" else None
    return ours, (float(output), memory), float(compiled[0]) if compiled else None


def ratio(ours, theirs):
    """PyTorch's time over ours: the median of the rounds, the least and the greatest."""
    ratios = [t / o[0] for o, t in zip(ours, theirs)]
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"


def row(name, ours, theirs, compiled, batch, given):
    o, t = statistics.median(x[0] for x in ours), statistics.median(x[0] for x in theirs)
    share = "" if ours[0][2] is None else f"{statistics.median(x[2] for x in ours):.0%}"
    mib = [max(x[1] for x in side) / 2**20 for side in (ours, theirs)]
    cells = [name, f"{o / batch:.3f}", f"{t / batch:.3f}", ratio(ours, [x[0] for x in theirs])]
    if given.compile:
        cells += ["", ""] if None in compiled else [
            f"{statistics.median(compiled) / batch:.3f}", ratio(ours, compiled)
        ]
    return "| " + " | ".join([*cells, share, f"{mib[0]:.0f} / {mib[1]:.0f}"]) + " |"


def table(precision, given):
    """The lines of one precision."""
    head = ["job", "ours, s", "PyTorch, s", "PyTorch over ours"]
    head += ["compiled, s", "compiled over ours"] if given.compile else []
    head += ["of our peak", "MiB, ours / PyTorch"]
    lines = [f"In {precision}:", "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for name, job, common, ours_only in CASES:
        if job not in given.only.split(",") or (job == "load" and precision != "float32"):
            continue
        if job == "load":
            # Writes the file, and reads it once so that both sides find it in the system's cache.
            run([given.binary, "bench", "load", "--preset", "l", "--repeats", "1", "--file", given.file])
        rounds = [measure(job, precision, common, ours_only, given) for _ in range(given.rounds)]
        lines.append(row(name, *zip(*rounds), batch=int(common[-1]), given=given))
        print(lines[-1], flush=True)
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs in each process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="float32,bfloat16", help="one or both, separated by a comma")
    parser.add_argument("--compile", action="store_true", help="time PyTorch through torch.compile as well")
    parser.add_argument("--only", default="encode,decode,train,head,load", help="jobs, separated by commas")
    parser.add_argument("--file", help="what load reads; written if it is not there [default: a temporary file]")
    parser.add_argument("--binary", default=ROOT / "target/release/semanticist")
    parser.add_argument("--dry-run", action="store_true", help="print the table and leave the file as it is")
    given = parser.parse_args()
    if not Path(given.binary).is_file():
        sys.exit(f"{given.binary} does not exist; build it first or give --binary")
    import torch

    folder = tempfile.TemporaryDirectory()
    given.file = given.file or str(Path(folder.name) / "model.safetensors")
    lines = [
        f"PyTorch {torch.__version__}, {given.threads} threads, {given.rounds} rounds in turn of "
        f"{given.repeats} runs each. Seconds per image; memory of the whole process.",
    ]
    for precision in given.precision.split(","):
        lines += ["", *table(precision, given)]
    if given.dry_run:
        return
    path = ROOT / "BENCHMARKS.md"
    text = path.read_text()
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    path.write_text(head + BEGIN + "\n" + "\n".join(lines) + "\n" + END + tail)


if __name__ == "__main__":
    main()
