"""The tokenizer in plain PyTorch, as one would write it there: fused attention, norm and GELU, in float32 or
under autocast in bfloat16, as it is or through torch.compile.

For timing beside `semanticist bench` only (see compare.py): random weights, the same sizes and jobs.

    python scripts/torch_models.py encode --preset b --batch 4 --threads 2     prints seconds of one run
    python scripts/torch_models.py load --file model.safetensors               the same of `bench load --file`
"""

import argparse
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}
TOKENS, TOKEN_DIM, IMAGE, PATCH, LATENT, CHANNELS, LATENT_PATCH = 256, 16, 256, 16, 16, 16, 2
# What the decoder gives for each number that it gets: 2 where it learns a variance too, as published.
OUTPUTS = 2


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x, mask=None):
        batch, count, width = x.shape
        q, k, v = self.qkv(x).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).reshape(batch, count, width))


class Mlp(nn.Module):
    def __init__(self, width, approximate):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.approximate = approximate

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class EncoderBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention, self.mlp = Attention(width, heads), Mlp(width, "none")

    def forward(self, x, mask):
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    def __init__(self, width, depth, heads):
        super().__init__()
        patches = (IMAGE // PATCH) ** 2
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.concepts = nn.Parameter(torch.randn(1, TOKENS, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 1 + patches + TOKENS, width) * 0.02)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.projection = nn.Linear(width, TOKEN_DIM)
        count = 1 + patches + TOKENS
        mask = torch.ones(count, count, dtype=torch.bool)
        mask[:, -TOKENS:] = False
        mask[-TOKENS:, -TOKENS:] = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
        self.register_buffer("mask", mask)

    def forward(self, images):
        batch = len(images)
        patches = self.patches(images).flatten(2).transpose(1, 2)
        parts = [self.class_token.expand(batch, -1, -1), patches, self.concepts.expand(batch, -1, -1)]
        x = torch.cat(parts, 1) + self.positions
        for block in self.blocks:
            x = block(x, self.mask)
        raw = self.projection(self.norm(x[:, -TOKENS:]))
        return (raw - raw.mean(-1, keepdim=True)) / raw.std(-1, keepdim=True)


def modulate(x, shift, scale):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class DecoderBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attention, self.mlp = Attention(width, heads), Mlp(width, "tanh")
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x, time):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(time).chunk(6, 1)
        x = x + gate1[:, None] * self.attention(modulate(x, shift1, scale1))
        return x + gate2[:, None] * self.mlp(modulate(x, shift2, scale2))


class Decoder(nn.Module):
    def __init__(self, width, depth, heads):
        super().__init__()
        side = LATENT // LATENT_PATCH
        self.patches = nn.Conv2d(CHANNELS, width, LATENT_PATCH, LATENT_PATCH)
        self.register_buffer("positions", torch.randn(1, side * side, width))
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.null_tokens = nn.Parameter(torch.randn(1, TOKENS, TOKEN_DIM) * 0.02)
        self.tokens = nn.Linear(TOKEN_DIM, width)
        self.blocks = nn.ModuleList(DecoderBlock(width, heads) for _ in range(depth))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.output = nn.Linear(width, LATENT_PATCH**2 * OUTPUTS * CHANNELS)

    def forward(self, noisy, timesteps, tokens, keep):
        kept = torch.arange(TOKENS)[None, :, None] < keep[:, None, None]
        tokens = self.tokens(torch.where(kept, tokens, self.null_tokens))
        patches = self.patches(noisy).flatten(2).transpose(1, 2) + self.positions
        count = patches.shape[1]
        frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
        angles = timesteps[:, None].float() * frequencies
        time_ = self.time(torch.cat([angles.cos(), angles.sin()], -1))
        x = torch.cat([patches, tokens], 1)
        for block in self.blocks:
            x = block(x, time_)
        shift, scale = self.modulation(time_).chunk(2, 1)
        x = self.output(modulate(x[:, :count], shift, scale))
        side, p = LATENT // LATENT_PATCH, LATENT_PATCH
        x = x.view(len(x), side, side, p, p, OUTPUTS * CHANNELS).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(len(x), OUTPUTS * CHANNELS, LATENT, LATENT)


class Setting:
    """What networks compute in, and whether they are compiled."""

    def __init__(self, precision, compiled):
        self.rounded, self.compiled = precision == "bfloat16", compiled

    def network(self, module):
        return torch.compile(module) if self.compiled else module

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16, enabled=self.rounded)


def encode(size, batch, setting):
    encoder, images = setting.network(Encoder(*size).eval()), torch.rand(batch, 3, IMAGE, IMAGE)

    @torch.no_grad()
    def run():
        with setting.autocast():
            encoder(images)

    return run


def decode(size, batch, setting):
    decoder = setting.network(Decoder(*size).eval())
    noisy, tokens = torch.randn(batch, CHANNELS, LATENT, LATENT), torch.randn(batch, TOKENS, TOKEN_DIM)
    timesteps, keep = torch.full((batch,), 500), torch.full((batch,), TOKENS)

    @torch.no_grad()
    def run():
        with setting.autocast():
            decoder(noisy, timesteps, tokens, keep)

    return run


def train(size, batch, setting):
    encoder, decoder = (setting.network(part(*size)) for part in (Encoder, Decoder))
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0)
    images, latents = torch.rand(batch, 3, IMAGE, IMAGE), torch.randn(batch, CHANNELS, LATENT, LATENT)

    def run():
        noise = torch.randn_like(latents)
        timesteps, keep = torch.randint(0, 1000, (batch,)), torch.randint(1, TOKENS + 1, (batch,))
        with setting.autocast():
            output = decoder(latents + noise, timesteps, encoder(images), keep)
        F.mse_loss(output[:, :CHANNELS].float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 3.0)
        optimizer.step()
        optimizer.zero_grad()

    return run


class HeadBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.mlp = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x, time_, condition):
        shift, scale, gate = self.modulation(time_).chunk(3, -1)
        return x + gate * self.mlp(torch.cat([self.norm(x) * (1 + scale) + shift, condition], -1))


class Head(nn.Module):
    """The generator's diffusion head with the published settings, evaluated as the published code does."""

    def __init__(self, width=1536, depth=12, transformer=1024):
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.condition, self.input = nn.Linear(transformer, width), nn.Linear(TOKEN_DIM, width)
        self.blocks = nn.ModuleList(HeadBlock(width) for _ in range(depth))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.output = nn.Linear(2 * width, TOKEN_DIM)

    def forward(self, x, times, condition):
        angles = times[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
        time_ = self.time(torch.cat([angles.cos(), angles.sin()], -1))
        x, condition = self.input(x), self.condition(condition)
        for block in self.blocks:
            x = block(x, time_, condition)
        shift, scale = self.modulation(time_).chunk(2, -1)
        x = F.layer_norm(x, (self.width,), eps=1e-6) * (1 + scale) + shift
        return self.output(torch.cat([x, condition], -1))


def head(batch, setting):
    network, answers = setting.network(Head().eval()), torch.randn(2 * batch, 1024)
    times = torch.linspace(0, 0.96, 250)
    length = times[1] - times[0]

    @torch.no_grad()
    def run():
        x = torch.randn(2 * batch, TOKEN_DIM)
        for t in times[:-1]:
            # The published sampler asks for the velocity and for the score, each time the network.
            each = t.expand(2 * batch)
            with setting.autocast():
                velocity, again = network(x, each, answers).float(), network(x, each, answers).float()
            score = (t * again - x) / (1 - t)
            x = x + (velocity + (1 - t) * score) * length + (2 * (1 - t) * length).sqrt() * torch.randn_like(x)

    return run


def load(path):
    """Reads a file into a module of its own names and shapes, which starts without initial values."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}

    def run():
        root = nn.Module()
        for name, shape in shapes.items():
            *path_in_module, leaf = name.split(".")
            module = root
            for part in path_in_module:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(leaf, nn.Parameter(torch.empty(shape)))
        root.load_state_dict(load_file(path))

    return run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=["encode", "decode", "train", "head", "load"])
    parser.add_argument("--preset", choices=SIZES, default="b")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--file", help="what load reads")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="bfloat16: autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    setting = Setting(given.precision, given.compile)
    if given.job == "load":
        run = load(given.file)
    elif given.job == "head":
        run = head(given.batch, setting)
    else:
        jobs = {"encode": encode, "decode": decode, "train": train}
        run = jobs[given.job](SIZES[given.preset], given.batch, setting)
    # The head does the same 250 times over: only what is compiled needs a run before.
    if given.job in ("encode", "decode", "train") or (given.job == "head" and given.compile):
        run()
    seconds = []
    for _ in range(given.repeats):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    print(statistics.median(seconds))


if __name__ == "__main__":
    main()
