"""Records a narrow VQ-16 of LlamaGen for crates/semanticist-verify/tests/data/reference/vq.safetensors.

Written from what the published source says (FoundationVision/LlamaGen at 3786e6a, tokenizer/tokenizer_image/vq_model.py) as plain
functions of a dictionary of weights under the published names; it cannot be installed.

Usage: record_vq.py OUT.safetensors     (needs torch and safetensors)
       record_vq.py --full OUT          writes random weights of the published size, to run whole programs
"""

import json
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

# Widths from the finest level to the coarsest, residual blocks per level of the encoder (the decoder has one more).
NARROW = dict(levels=[8, 16], blocks=1, features=12, dim=4, codes=40)
PUBLISHED = dict(levels=[128, 128, 256, 256, 512], blocks=2, features=256, dim=8, codes=16384)


def shapes(s):
    """The shape of every published tensor."""
    found = {}

    def layer(name, *shape):
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    def residual(name, inputs, outputs):
        layer(f"{name}.norm1", inputs)
        layer(f"{name}.conv1", outputs, inputs, 3, 3)
        layer(f"{name}.norm2", outputs)
        layer(f"{name}.conv2", outputs, outputs, 3, 3)
        if inputs != outputs:
            layer(f"{name}.nin_shortcut", outputs, inputs, 1, 1)

    def attention(name, width):
        layer(f"{name}.norm", width)
        for part in ["q", "k", "v", "proj_out"]:
            layer(f"{name}.{part}", width, width, 1, 1)

    def middle(half, width):
        residual(f"{half}.mid.0", width, width)
        attention(f"{half}.mid.1", width)
        residual(f"{half}.mid.2", width, width)

    levels, last = s["levels"], len(s["levels"]) - 1
    width = levels[0]
    layer("encoder.conv_in", width, 3, 3, 3)
    for level, outputs in enumerate(levels):
        for i in range(s["blocks"]):
            residual(f"encoder.conv_blocks.{level}.res.{i}", width, outputs)
            width = outputs
            if level == last:
                attention(f"encoder.conv_blocks.{level}.attn.{i}", width)
        if level < last:
            layer(f"encoder.conv_blocks.{level}.downsample.conv", width, width, 3, 3)
    middle("encoder", width)
    layer("encoder.norm_out", width)
    layer("encoder.conv_out", s["features"], width, 3, 3)
    layer("quant_conv", s["dim"], s["features"], 1, 1)
    found["quantize.embedding.weight"] = (s["codes"], s["dim"])
    layer("post_quant_conv", s["features"], s["dim"], 1, 1)
    layer("decoder.conv_in", width, s["features"], 3, 3)
    middle("decoder", width)
    # Here levels are counted from the coarsest.
    for at, outputs in enumerate(reversed(levels)):
        for i in range(s["blocks"] + 1):
            residual(f"decoder.conv_blocks.{at}.res.{i}", width, outputs)
            width = outputs
            if at == 0:
                attention(f"decoder.conv_blocks.{at}.attn.{i}", width)
        if at < last:
            layer(f"decoder.conv_blocks.{at}.upsample.conv", width, width, 3, 3)
    layer("decoder.norm_out", width)
    layer("decoder.conv_out", 3, width, 3, 3)
    return found


def drawn(name, shape):
    """Random, so that every part is seen in the answer."""
    if "norm" in name:
        return torch.empty(shape).uniform_(*((0.6, 1.4) if name.endswith("weight") else (-0.3, 0.3)))
    if name.endswith("bias"):
        return torch.empty(shape).uniform_(-0.2, 0.2)
    if name == "quantize.embedding.weight":
        return torch.randn(shape)
    return torch.randn(shape) * 1.4 / torch.Size(shape[1:]).numel() ** 0.5


def convolution(w, name, x, stride=1):
    weight = w[f"{name}.weight"]
    if stride == 2:
        # Zeros below and on the right alone.
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, w[f"{name}.bias"], 2)
    return F.conv2d(x, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)


def group_norm(w, name, x):
    """32 groups; a narrow network has as many as its narrowest layer has channels."""
    narrowest = min(t.shape[0] for n, t in w.items() if "norm" in n)
    return F.group_norm(x, min(32, narrowest), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)


def residual(w, name, x):
    y = convolution(w, f"{name}.conv1", F.silu(group_norm(w, f"{name}.norm1", x)))
    y = convolution(w, f"{name}.conv2", F.silu(group_norm(w, f"{name}.norm2", y)))
    return y + (convolution(w, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in w else x)


def attention(w, name, x):
    y = group_norm(w, f"{name}.norm", x)
    q, k, v = (convolution(w, f"{name}.{part}", y).flatten(2).mT for part in "qkv")
    y = F.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape)
    return x + convolution(w, f"{name}.proj_out", y)


def middle(w, half, x):
    x = residual(w, f"{half}.mid.0", x)
    x = attention(w, f"{half}.mid.1", x)
    return residual(w, f"{half}.mid.2", x)


def children(w, name):
    return sorted({int(n.removeprefix(name).split(".")[0]) for n in w if n.startswith(name)})


def levels(w, half, x, resample):
    for level in children(w, f"{half}.conv_blocks."):
        name = f"{half}.conv_blocks.{level}"
        for i in children(w, f"{name}.res."):
            x = residual(w, f"{name}.res.{i}", x)
            if f"{name}.attn.{i}.norm.weight" in w:
                x = attention(w, f"{name}.attn.{i}", x)
        x = resample(name, x)
    return x


def head(w, half, x):
    return convolution(w, f"{half}.conv_out", F.silu(group_norm(w, f"{half}.norm_out", x)))


def encode(w, images):
    """Latents `[B, D, h, w]` before they are quantised, of images in `[0, 1]`."""
    down = lambda name, x: convolution(w, f"{name}.downsample.conv", x, 2) if f"{name}.downsample.conv.weight" in w else x
    x = levels(w, "encoder", convolution(w, "encoder.conv_in", 2 * images - 1), down)
    return convolution(w, "quant_conv", head(w, "encoder", middle(w, "encoder", x)))


def quantise(w, latents):
    """Indices `[B, h w]`, their unit vectors `[B, h w, D]`, and how far the second is behind the nearest at least."""
    book = F.normalize(w["quantize.embedding.weight"], dim=-1)
    distances = torch.cdist(F.normalize(latents.flatten(2).mT, dim=-1), book.expand(latents.shape[0], *book.shape))
    two = distances.topk(2, largest=False).values
    codes = distances.argmin(-1)
    return codes, book[codes], (two[..., 1] - two[..., 0]).min().item()


def decode(w, vectors, height):
    """Images in about `[0, 1]` of vectors `[B, h w, D]`."""
    x = vectors.mT.unflatten(2, (height, -1))
    x = middle(w, "decoder", convolution(w, "decoder.conv_in", convolution(w, "post_quant_conv", x)))
    doubled = lambda x: F.interpolate(x, scale_factor=2, mode="nearest")
    up = lambda name, x: convolution(w, f"{name}.upsample.conv", doubled(x)) if f"{name}.upsample.conv.weight" in w else x
    return (head(w, "decoder", levels(w, "decoder", x, up)) + 1) / 2


def main():
    torch.manual_seed(3)
    full = sys.argv[1] == "--full"
    # What half precision holds, so that the file can be small.
    weights = {n: drawn(n, shape).half().float() for n, shape in shapes(PUBLISHED if full else NARROW).items()}
    # As `codebook_show_usage` keeps it; nothing reads it.
    weights["quantize.codebook_used"] = torch.zeros(65536 if full else 8)
    if full:
        torch.save({"model": weights}, sys.argv[2])
        return
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        latents = encode(weights, images)
        codes, vectors, margin = quantise(weights, latents)
        pictures = decode(weights, vectors, latents.shape[2])
    print(f"{codes.unique().numel()} codes, margin {margin:.4f}, pictures {pictures.std():.3f}")
    assert margin > 5e-5, "draw other weights: a code is a near tie"
    tensors = {f"weights.{name}": value.half() for name, value in weights.items()}
    tensors |= {"images": images, "latents": latents.flatten(2).mT, "codes": codes, "vectors": vectors, "pictures": pictures}
    config = {"note": "VQ-16 of FoundationVision/LlamaGen at 3786e6a, narrow, random weights"}
    save_file({name: value.contiguous() for name, value in tensors.items()}, sys.argv[1], {"config": json.dumps(config)})
    print(len(tensors), "tensors")


main()
