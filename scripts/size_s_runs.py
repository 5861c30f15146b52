"""The tokenizer of size S on 64×64 photos (configs/tokenizer-s.toml), trained four times: by one process, by two that share
every batch (mpirun), with REPA, and by plain PyTorch (torch_models.py) from the same first weights, on the same photos with the same
optimiser, but with an order and noise of its own. Prints losses over parts of the run, validation, images per second, and
how far losses of the two processes are from those of the one, as tables in Markdown; --plot draws the curves.

    cargo build --release --workspace --features semanticist-cli/mpi
    python3 -m venv venv && venv/bin/pip install torch numpy pyarrow pillow safetensors matplotlib
    venv/bin/python scripts/size_s_runs.py --data tiny-imagenet-100 --teacher classifier/model.safetensors --out runs
        [--only one,two,repa,pytorch] [--plot curves.svg]

Runs that are in the folder already are only read, those that were stopped go on. Throughput is the median over steps, so that validation and a
neighbour's short job do not count; the runs come one after the other.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "tokenizer-s.toml"
RUNS = ["one", "two", "repa", "pytorch"]
SETTINGS = tomllib.loads(CONFIG.read_text())
REPA = "{layer=6,teacher_width=192,hidden=768}"


def train(name, given):
    command = ["train", "tokenizer", CONFIG, "--data", given.data, "--out", Path(given.out) / name]
    command += ["--set", f"steps={given.steps}", "--set", f"log.validate_every={given.steps}"]
    if name == "repa":
        command += ["--set", f"model.decoder.repa={REPA}", "--set", f"objective.repa.teacher={given.teacher}"]
        command += ["--set", "objective.repa.weight=0.5"]
    # A run that was stopped goes on.
    command += ["--resume"] if (Path(given.out) / name / "checkpoints").is_dir() else []
    launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "2"] if name == "two" else []
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    subprocess.run([*map(str, [*launch, given.binary, *command])], check=True, env=environment)


def first_weights(given):
    """The weights, and the fitted autoencoder, of a run that has made one step at no rate."""
    from safetensors.torch import load_file

    out = Path(given.out) / "first"
    if not (out / "model.safetensors").exists():
        command = [given.binary, "train", "tokenizer", CONFIG, "--data", given.data, "--out", out]
        command += ["--set", "steps=1", "--set", "learning_rate.peak=1e-12", "--set", "log.validate_every=1000"]
        subprocess.run([*map(str, command)], check=True)
    weights = load_file(out / "checkpoints" / "step-00000001" / "weights.safetensors")
    weights = {name.removeprefix("tokenizer."): weight for name, weight in weights.items()}
    return weights, load_file(out / "model.safetensors")


def photos(folder):
    """The bytes of the training photos."""
    import pyarrow.parquet

    files = sorted(Path(folder).rglob("train*.parquet"))
    assert files, f"no train*.parquet in {folder}"
    return [row["bytes"] for file in files for row in pyarrow.parquet.read_table(file, columns=["image"])["image"].to_pylist()]


def pytorch(given):
    import numpy
    import torch
    import torch.nn.functional as F
    import torch_models as models
    from PIL import Image

    torch.manual_seed(0)
    torch.set_num_threads(2)
    model, optimizing, rate = SETTINGS["model"], SETTINGS["optimizer"], SETTINGS["learning_rate"]
    linear, batch = model["autoencoder"], SETTINGS["batch"]
    drop_all = SETTINGS["objective"]["nested_guidance"]["drop_all_nested"]
    models.TOKENS, models.IMAGE, models.PATCH = model["tokens"], model["image_size"], model["encoder"]["patch_size"]
    models.LATENT, models.CHANNELS, models.OUTPUTS = model["image_size"] // linear["patch_size"], linear["channels"], 1
    encoder, decoder = (part(*models.SIZES["s"]) for part in (models.Encoder, models.Decoder))
    weights, file = first_weights(given)
    take(encoder, weights, "encoder", {"concepts": "concept_tokens"})
    renamed = {"time.0": "time.up", "time.2": "time.down", "modulation.1": "output.modulation", "output": "output.linear"}
    take(decoder, weights, "decoder", renamed)
    decoder.positions.copy_(sine_cosine_grid(models.LATENT // models.LATENT_PATCH, models.SIZES["s"][0]))
    mean, components, scales = (file[f"autoencoder.{name}"] for name in ("mean", "components", "scales"))

    def latents_of(images):
        patch, side = linear["patch_size"], models.LATENT
        patches = (images * 2 - 1).view(batch, 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5).reshape(batch, side, side, -1)
        return (((patches - mean) @ components.T) * scales).permute(0, 3, 1, 2)

    parameters = [*encoder.parameters(), *decoder.parameters()]
    betas, decay = (optimizing["beta1"], optimizing["beta2"]), optimizing["weight_decay"]
    optimizer = torch.optim.AdamW(parameters, betas=betas, weight_decay=decay)
    data, order = photos(given.data), numpy.random.default_rng(0)
    shuffled, records = order.permutation(len(data)), []
    for step in range(1, given.steps + 1):
        begun = time.perf_counter()
        images = []
        for index in shuffled[(step - 1) * batch : step * batch]:
            pixels = numpy.asarray(Image.open(io.BytesIO(data[index])).convert("RGB"))
            images.append(pixels[:, ::-1] if order.random() < 0.5 else pixels)
        images = torch.from_numpy(numpy.stack(images)).permute(0, 3, 1, 2).float() / 255
        latents, share = latents_of(images), torch.rand(batch)
        noise = torch.randn_like(latents)
        keep = torch.randint(1, models.TOKENS + 1, (batch,)) * (torch.rand(batch) >= drop_all)
        t = share[:, None, None, None]
        for group in optimizer.param_groups:
            group["lr"] = rate["peak"] * min(1, step / rate["warmup_steps"])
        with torch.autocast("cpu", torch.bfloat16):
            output = decoder(t * latents + (1 - t) * noise, share * model["diffusion"]["time_scale"], encoder(images), keep)
        loss = F.mse_loss(output.float(), latents - noise)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, optimizing["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()
        record = {"step": step, "loss": loss.item(), "gradient_norm": norm.item()}
        record["images_per_second"] = batch / (time.perf_counter() - begun)
        records.append(record)
        print(record, flush=True)
    out = Path(given.out) / "pytorch"
    out.mkdir(parents=True, exist_ok=True)
    (out / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def take(module, weights, prefix, renamed):
    """Copies our weights into a module of torch_models.py; both must have the same."""
    import torch

    wanted = {}
    for name, parameter in module.named_parameters():
        ours = name.replace(".modulation.1.", ".modulation.") if name.startswith("blocks.") else name
        for theirs, there in renamed.items():
            if not name.startswith("blocks.") and (ours == theirs or ours.startswith(theirs + ".")):
                ours = there + ours[len(theirs):]
                break
        wanted[f"{prefix}.{ours}"] = parameter
    names = {name: weight for name, weight in weights.items() if name.startswith(prefix + ".")}
    assert wanted.keys() == names.keys(), f"names differ: {sorted(wanted.keys() ^ names.keys())}"
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(names[name])


def sine_cosine_grid(side, width):
    """MAE's positions: of the column in the first half of the width, of the row in the second."""
    import torch

    frequencies = 10_000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], 1)
    columns, rows = line[None].expand(side, -1, -1), line[:, None].expand(-1, side, -1)
    return torch.cat([columns, rows], -1).reshape(1, side * side, width).float()


def journal(name, given):
    lines = (Path(given.out) / name / "journal.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record for record in records if "loss" in record]
    validation = [record["validation_mse"] for record in records if "validation_mse" in record]
    return steps, validation[-1] if validation else None


def is_done(name, given):
    path = Path(given.out) / name / "journal.jsonl"
    return path.exists() and len(journal(name, given)[0]) >= given.steps


def loss(record):
    """The diffusion loss without REPA's."""
    return record.get("mse", record["loss"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="tiny-imagenet-100: Parquet files train*.parquet")
    parser.add_argument("--teacher", help="for repa: a file of `train classifier`, of width 192")
    parser.add_argument("--out", required=True)
    parser.add_argument("--binary", default=ROOT / "target" / "release" / "semanticist")
    parser.add_argument("--steps", type=int, default=SETTINGS["steps"])
    parser.add_argument("--only", default=",".join(RUNS))
    parser.add_argument("--plot", help="an SVG")
    given = parser.parse_args()
    names = [name for name in RUNS if name in given.only.split(",")]
    if "repa" in names and not given.teacher and not is_done("repa", given):
        parser.error("the run with REPA needs --teacher, a file of `train classifier`; or leave it out: --only one,two,pytorch")
    for name in names:
        if not is_done(name, given):
            pytorch(given) if name == "pytorch" else train(name, given)

    part = given.steps // 4
    heads = [f"loss, steps {i * part + 1} to {(i + 1) * part}" for i in range(4)]
    heads = ["run", "images/s", *heads, "validation: 1 token", "4", "32"]
    print("| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads))
    journals = {name: journal(name, given) for name in names}
    for name, (steps, validation) in journals.items():
        row = [f"{statistics.median(step['images_per_second'] for step in steps[2:]):.1f}"]
        row += [f"{statistics.mean(map(loss, steps[i * part : (i + 1) * part])):.4f}" for i in range(4)]
        row += [f"{value:.4f}" for value in validation] if validation else ["", "", ""]
        print(f"| {name} | " + " | ".join(row) + " |")
    if "one" in journals and "two" in journals:
        apart = [abs(loss(a) - loss(b)) / loss(a) for a, b in zip(journals["one"][0], journals["two"][0], strict=True)]
        parts = [f"{max(apart[:count]):.1e} in the first {count}" for count in (1, 20, 50, len(apart)) if count <= len(apart)]
        print(f"\nlosses of two processes and of one differ at most by {', '.join(parts)} steps")
    if given.plot:
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(7, 4))
        for name, (steps, _) in journals.items():
            smooth = [statistics.mean(map(loss, steps[max(0, i - 9) : i + 1])) for i in range(len(steps))]
            axes.plot(range(1, len(steps) + 1), smooth, label=name, linewidth=1)
        axes.set(xlabel="step", ylabel="diffusion loss, mean of ten steps")
        axes.legend()
        figure.savefig(given.plot)


if __name__ == "__main__":
    main()
