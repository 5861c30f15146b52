"""Records a training step whose teacher has another grid than the decoder's patches, for
crates/semanticist-verify/tests/verify/alignment.rs: 3x3 patches, a teacher of 4x4 positions.

A tiny decoder with random weights in plain PyTorch, under the names of the published code; the loss is that of
guided-diffusion (learned-range variance, linear betas) and of REPA, where the projector's map is resized bicubically
to the teacher's grid. Writes decoder.safetensors and training_step.safetensors, as `semanticist verify` reads them.

    python scripts/record_alignment.py crates/semanticist-verify/tests/data/alignment
    (needs torch, numpy and safetensors)
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

SIZES = {
    "latent_size": 6,
    "latent_channels": 2,
    "patch_size": 2,
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "tokens": 3,
    "token_dim": 4,
    "repa_layer": 1,
    "repa_dim": 6,
    "repa_hidden": 8,
}
SIDE, CHANNELS, PATCH, WIDTH, DEPTH, HEADS, TOKENS, TOKEN_DIM, LAYER, TEACHER, HIDDEN = SIZES.values()
GRID, TEACHER_GRID, BATCH = SIDE // PATCH, 4, 2


def modulate(x, shift, scale):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        batch, count, _ = x.shape
        q, k, v = self.qkv(x).view(batch, count, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.mlp = Attention(), Mlp()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))

    def forward(self, x, time):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(time).chunk(6, 1)
        x = x + gate1[:, None] * self.attn(modulate(x, shift1, scale1))
        return x + gate2[:, None] * self.mlp(modulate(x, shift2, scale2))


def sine_cosine_grid():
    """MAE, get_2d_sincos_pos_embed: columns in the first half of the width, rows in the second."""
    rows, columns = np.meshgrid(np.arange(GRID), np.arange(GRID), indexing="ij")
    frequencies = 1 / 10000 ** (np.arange(WIDTH // 4) / (WIDTH / 4))
    angles = [axis.reshape(-1, 1) * frequencies for axis in (columns, rows)]
    parts = [function(angle) for angle in angles for function in (np.sin, np.cos)]
    return torch.from_numpy(np.concatenate(parts, 1)).float()[None]


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.x_embedder = nn.Module()
        self.x_embedder.proj = nn.Conv2d(CHANNELS, WIDTH, PATCH, PATCH)
        self.t_embedder = nn.Module()
        self.t_embedder.mlp = nn.Sequential(nn.Linear(256, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.autoenc_cond_embedder = nn.Linear(TOKEN_DIM, WIDTH)
        self.null_cond = nn.Parameter(torch.zeros(1, TOKENS, TOKEN_DIM))
        self.register_buffer("pos_embed", sine_cosine_grid())
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.final_layer = nn.Module()
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH))
        self.final_layer.linear = nn.Linear(WIDTH, PATCH**2 * 2 * CHANNELS)
        layers = [nn.Linear(WIDTH, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, TEACHER)]
        self.projector = nn.Sequential(*layers)

    def forward(self, noisy, timesteps, tokens, keep):
        """The prediction with the variance logits, and the projected hidden states of the patches."""
        kept = torch.arange(TOKENS)[None, :, None] < keep[:, None, None]
        tokens = self.autoenc_cond_embedder(torch.where(kept, tokens, self.null_cond))
        patches = self.x_embedder.proj(noisy).flatten(2).transpose(1, 2) + self.pos_embed
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
        angles = timesteps[:, None].float() * frequencies
        time = self.t_embedder.mlp(torch.cat([angles.cos(), angles.sin()], 1))
        x = torch.cat([patches, tokens], 1)
        for number, block in enumerate(self.blocks, 1):
            x = block(x, time)
            if number == LAYER:
                projection = self.projector(x[:, : GRID**2])
        shift, scale = self.final_layer.adaLN_modulation(time).chunk(2, 1)
        x = self.final_layer.linear(modulate(x[:, : GRID**2], shift, scale))
        x = x.view(len(x), GRID, GRID, PATCH, PATCH, 2 * CHANNELS).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(len(x), 2 * CHANNELS, SIDE, SIDE), projection


def diffusion_loss(output, latent, noise, timesteps, noisy, tables):
    """guided-diffusion, training_losses: squared error, and the bound with the predicted mean frozen."""
    at = lambda table: torch.from_numpy(table)[timesteps].float()[:, None, None, None]
    betas, bars, before = tables
    prediction, logits = output.chunk(2, 1)
    mse = ((prediction - noise) ** 2).mean((1, 2, 3))

    def posterior_mean(clean):
        of_clean, of_noisy = betas * np.sqrt(before) / (1 - bars), (1 - before) * np.sqrt(1 - betas) / (1 - bars)
        return at(of_clean) * clean + at(of_noisy) * noisy

    clean = at(np.sqrt(1 / bars)) * noisy - at(np.sqrt(1 / bars - 1)) * prediction.detach()
    variance = betas * (1 - before) / (1 - bars)
    least, most = at(np.log(np.append(variance[1], variance[1:]))), at(np.log(betas))
    share = (logits + 1) / 2
    log_variance = share * most + (1 - share) * least
    difference = (posterior_mean(latent) - posterior_mean(clean)) ** 2
    divergence = log_variance - least - 1 + torch.exp(least - log_variance) + difference * torch.exp(-log_variance)
    # At timestep 0 it would be a likelihood instead: none is asked here.
    vb = 0.5 * divergence.mean((1, 2, 3)) / math.log(2)
    return mse, vb


def alignment(projection, teacher):
    planes = projection.transpose(1, 2).reshape(BATCH, TEACHER, GRID, GRID)
    planes = F.interpolate(planes, size=(TEACHER_GRID, TEACHER_GRID), mode="bicubic", align_corners=False)
    resized = planes.flatten(2).transpose(1, 2)
    return -(F.normalize(resized, dim=-1) * F.normalize(teacher, dim=-1)).sum(-1).mean()


def write(path, tensors, note):
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    config = SIZES | {"note": note, "torch": torch.__version__}
    save_file(tensors, path, {"config": json.dumps(config)})
    print(path, path.stat().st_size)


def main():
    torch.manual_seed(0)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    decoder = Decoder()
    for parameter in decoder.parameters():
        # Of an ordinary size, so that no gradient vanishes.
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1)
    latent, noise = torch.randn(2, BATCH, CHANNELS, SIDE, SIDE)
    tokens, teacher = torch.randn(BATCH, TOKENS, TOKEN_DIM), torch.randn(BATCH, TEACHER_GRID**2, TEACHER)
    timesteps, keep = torch.tensor([700, 45]), torch.tensor([2, 3])
    inputs = {"latent": latent, "tokens": tokens, "timestep": timesteps, "keep": keep}

    ask = lambda count: decoder(latent, timesteps, tokens, torch.as_tensor(count).expand(BATCH))[0]
    kept, projection = decoder(latent, timesteps, tokens, keep)
    # DiT, forward_with_cfg: the variance logits are those of the kept tokens.
    (none, _), (some, logits) = ask(0).chunk(2, 1), kept.chunk(2, 1)
    guided = torch.cat([none + 3 * (some - none), logits], 1)
    answers = {"out_all_tokens": ask(TOKENS), "out_kept": kept, "out_cfg3": guided}
    weights = {f"weights.dit.{name}": tensor for name, tensor in decoder.state_dict().items()}
    note = "random weights, recorded by scripts/record_alignment.py"
    write(folder / "decoder.safetensors", inputs | answers | {"repa_projection": projection} | weights, note)

    betas = np.linspace(1e-4, 0.02, 1000)
    bars = np.cumprod(1 - betas)
    tables = betas, bars, np.append(1.0, bars[:-1])
    level = torch.from_numpy(bars)[timesteps][:, None, None, None]
    noisy = level.sqrt().float() * latent + (1 - level).sqrt().float() * noise
    output, projection = decoder(noisy, timesteps, tokens, keep)
    mse, vb = diffusion_loss(output, latent, noise, timesteps, noisy, tables)
    diffusion, repa = (mse + vb).mean(), alignment(projection, teacher)
    total = diffusion + repa
    total.backward()
    gradients = {f"grads.dit.{name}": p.grad for name, p in decoder.named_parameters()}
    norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
    losses = {"loss_mse": mse, "loss_vb": vb, "loss_diffusion": diffusion, "loss_repa": repa, "loss_total": total}
    step = inputs | {"noise": noise, "teacher": teacher, "grad_norm": norm} | losses | gradients
    note = f"weights are those of decoder.safetensors; the teacher has {TEACHER_GRID}x{TEACHER_GRID} positions"
    write(folder / "training_step.safetensors", step, note)
    print({name: loss.tolist() for name, loss in losses.items()}, norm.item())


if __name__ == "__main__":
    main()
