"""Records features of small DINOv2 networks for crates/semanticist-verify/tests/data/reference/dinov2.safetensors.

Random weights in the layers of `transformers` (Dinov2Model, Dinov2WithRegistersModel), under the names of its published
files and under those of torch.hub. The published code of torch.hub (facebookresearch/dinov2, vision_transformer.py,
interpolate_pos_encoding) differs in one place, which is repeated here: without registers, positions are resized with
scale_factor = (new + 0.1) / old.
Usage: record_dinov2.py OUT.safetensors    (needs torch, transformers and safetensors)
"""

import json
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

torch.manual_seed(0)
WIDTH, PATCH, TRAINED = 64, 4, 16
MEAN = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None]
DEVIATION = torch.tensor([0.229, 0.224, 0.225])[None, :, None, None]
SIDES = (12, 16, 28)

# Names inside the newest transformers, in its published files, and in torch.hub's.
PUBLISHED = [
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.o_proj", "attention.output.dense"),
]
HUB = [
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.mask_token", "mask_token"),
    ("embeddings.register_tokens", "register_tokens"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("encoder.layer.", "blocks."),
    ("attention.output.dense", "attn.proj"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
    ("mlp.weights_in", "mlp.w12"),
    ("mlp.weights_out", "mlp.w3"),
    ("layernorm", "norm"),
]


def published(weights):
    """As the files on the hub have it: gate and up in one matrix."""
    out = {}
    for name, value in weights.items():
        for new, old in PUBLISHED:
            name = name.replace(new, old)
        out[name] = value
    for name in [name for name in out if ".gate_proj." in name]:
        both = torch.cat([out.pop(name), out.pop(name.replace("gate_proj", "up_proj"))])
        out[name.replace("gate_proj", "weights_in")] = both
    return {name.replace("down_proj", "weights_out"): value for name, value in out.items()}


def hub(weights):
    weights = published(weights)
    out = {}
    for name, value in weights.items():
        for ours, theirs in HUB:
            name = name.replace(ours, theirs)
        out[name] = value
    for name in [name for name in out if ".attention.attention.query." in name]:
        parts = [out.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        out[name.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return out


def network(kind, depth):
    shared = dict(
        hidden_size=WIDTH, num_hidden_layers=depth, num_attention_heads=1, mlp_ratio=2, image_size=TRAINED, patch_size=PATCH,
        use_swiglu_ffn="gated" in kind, attn_implementation="eager",
    )
    if "registers" in kind:
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=4, **shared))
    else:
        model = Dinov2Model(Dinov2Config(**shared))
    for parameter in model.parameters():
        spread = 0.5 if parameter.ndim == 1 else 0.15
        values = torch.randn_like(parameter) * spread
        # What half precision holds, so that the file can be small.
        parameter.data = values.half().float()
    return model.eval()


tensors = {f"images_{side}": torch.rand(2, 3, side, side) for side in SIDES}
DEPTHS = {"plain": 2, "registers": 1, "gated": 1, "hub": 2, "hub_registers": 1, "hub_gated": 1}
for kind, depth in DEPTHS.items():
    model = network(kind, depth)
    names = hub if "hub" in kind else published
    weights = names(model.state_dict())
    # One file with the newest names.
    weights = model.state_dict() if kind == "gated" else weights
    tensors |= {f"weights.{kind}.{name}": value.half() for name, value in weights.items()}
    for side in SIDES:
        images = (tensors[f"images_{side}"] - MEAN) / DEVIATION
        if "hub" in kind and "registers" not in kind and side != TRAINED:
            positions = model.embeddings.position_embeddings
            trained, new = TRAINED // PATCH, side // PATCH
            grid = positions[:, 1:].reshape(1, trained, trained, WIDTH).permute(0, 3, 1, 2)
            factor = (new + 0.1) / trained
            grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic", antialias=False)
            assert grid.shape[-1] == new
            positions = torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, WIDTH)], 1)
            model.embeddings.interpolate_pos_encoding = lambda *_, positions=positions: positions
        with torch.no_grad():
            out = model(images).last_hidden_state
        model.embeddings.__dict__.pop("interpolate_pos_encoding", None)
        skipped = 1 + (4 if "registers" in kind else 0)
        tensors[f"{kind}.class_{side}"] = out[:, :1]
        tensors[f"{kind}.patches_{side}"] = out[:, skipped:]
config = json.dumps({"networks": list(DEPTHS), "sides": SIDES})
save_file({name: value.contiguous() for name, value in tensors.items()}, sys.argv[1], {"config": config})
print(len(tensors), "tensors")
