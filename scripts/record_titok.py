"""Records a narrow TiTok for crates/semanticist-verify/tests/data/reference/titok.safetensors.

Written from what the published source says (bytedance/1d-tokenizer at 10113ad: modeling/titok.py, modeling/modules/blocks.py,
modeling/modules/maskgit_vqgan.py, modeling/quantizer/quantizer.py) as plain functions of a dictionary of weights under the
published names; it cannot be installed. Three things there are as they are: features are reshaped, not transposed, before the last
layer of the encoder (`is_legacy`); a residual block of the pixel decoder that changes the width has no way around it; and its
shortcut sees what the block answers.

Usage: record_titok.py OUT.safetensors     (needs torch and safetensors)
       record_titok.py --full S OUT        writes random weights of the published size S, B or L, to run whole programs
"""

import json
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

FULL = {"S": (512, 8, 128), "B": (768, 12, 64), "L": (1024, 24, 32)}
# Width, depth and hidden width of encoder and decoder; widths of the pixel decoder from the finest level to the coarsest. One
# wide level at the fine end has groups of more than one channel and costs little.
NARROW = dict(
    encoder=(128, 1, 48), decoder=(64, 2, 96), tokens=5, token=6, codes=24, patch=4, grid=4, pixel_codes=20, pixel_width=7,
    levels=[64, 16, 32], blocks=[2, 1, 1], middle=1,
)


def sizes(name):
    width, depth, tokens = FULL[name]
    half = (width, depth, 4 * width)
    return dict(
        encoder=half, decoder=half, tokens=tokens, token=12, codes=4096, patch=16, grid=16, pixel_codes=1024, pixel_width=256,
        levels=[128, 128, 256, 256, 512], blocks=[2] * 5, middle=2,
    )


def shapes(s):
    """The shape of every published tensor."""
    all_shapes = {"latent_tokens": (s["tokens"], s["encoder"][0])}

    def layer(name, *shape, bias=True):
        all_shapes[f"{name}.weight"] = shape
        if bias:
            all_shapes[f"{name}.bias"] = shape[:1]

    def transformer(half, width, depth, hidden):
        all_shapes[f"{half}.class_embedding"] = (1, width)
        all_shapes[f"{half}.positional_embedding"] = (s["grid"] ** 2 + 1, width)
        all_shapes[f"{half}.latent_token_positional_embedding"] = (s["tokens"], width)
        for i in range(depth):
            block = f"{half}.transformer.{i}"
            all_shapes[f"{block}.attn.in_proj_weight"] = (3 * width, width)
            all_shapes[f"{block}.attn.in_proj_bias"] = (3 * width,)
            layer(f"{block}.attn.out_proj", width, width)
            layer(f"{block}.mlp.c_fc", hidden, width)
            layer(f"{block}.mlp.c_proj", width, hidden)
            layer(f"{block}.ln_1", width)
            layer(f"{block}.ln_2", width)
        layer(f"{half}.ln_pre", width)
        layer(f"{half}.ln_post", width)

    width = s["encoder"][0]
    transformer("encoder", *s["encoder"])
    layer("encoder.patch_embed", width, 3, s["patch"], s["patch"])
    layer("encoder.conv_out", s["token"], width, 1, 1)
    all_shapes["quantize.embedding.weight"] = (s["codes"], s["token"])
    width = s["decoder"][0]
    transformer("decoder", *s["decoder"])
    layer("decoder.decoder_embed", width, s["token"])
    all_shapes["decoder.mask_token"] = (1, 1, width)
    layer("decoder.ffn.0", 2 * width, width, 1, 1)
    layer("decoder.ffn.2", s["pixel_codes"], 2 * width, 1, 1)
    all_shapes["pixel_quantize.embedding.weight"] = (s["pixel_codes"], s["pixel_width"])

    def residual(name, inputs, outputs):
        layer(f"{name}.norm1", inputs)
        layer(f"{name}.conv1", outputs, inputs, 3, 3, bias=False)
        layer(f"{name}.norm2", outputs)
        layer(f"{name}.conv2", outputs, outputs, 3, 3, bias=False)
        if inputs != outputs:
            layer(f"{name}.nin_shortcut", outputs, outputs, 1, 1, bias=False)

    levels = s["levels"]
    width = levels[-1]
    layer("pixel_decoder.conv_in", width, s["pixel_width"], 3, 3)
    for i in range(s["middle"]):
        residual(f"pixel_decoder.mid.{i}", width, width)
    for level in reversed(range(len(levels))):
        for i in range(s["blocks"][level]):
            residual(f"pixel_decoder.up.{level}.block.{i}", width, levels[level])
            width = levels[level]
        if level > 0:
            layer(f"pixel_decoder.up.{level}.upsample_conv", width, width, 3, 3)
    layer("pixel_decoder.norm_out", width)
    layer("pixel_decoder.conv_out", 3, width, 3, 3)
    return all_shapes


def drawn(name, shape):
    """Random, so that every part is seen in the answer."""
    kind = name.split(".")[-1]
    if "ln_" in name or "norm" in name:
        return torch.empty(shape).uniform_(*((0.6, 1.4) if kind == "weight" else (-0.3, 0.3)))
    if "bias" in kind:
        return torch.empty(shape).uniform_(-0.2, 0.2)
    if len(shape) == 1 or "embedding" in kind or "token" in kind or "quantize" in name:
        return torch.randn(shape) * (0.5 if "embedding" in kind else 1.0)
    inputs = torch.Size(shape[1:]).numel()
    # Images are to be told apart, and codes of pixels to be mixed unevenly.
    gain = 4.0 if name in ("decoder.ffn.2.weight", "encoder.patch_embed.weight") else 1.5
    return torch.randn(shape) * gain / inputs**0.5


def norm(w, name, x):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def transformer(w, half, x):
    """Pre-norm blocks on `[B, N, W]`."""
    x = norm(w, f"{half}.ln_pre", x)
    width, depth = x.shape[-1], len({n.split(".")[2] for n in w if n.startswith(f"{half}.transformer.")})
    for i in range(depth):
        block = f"{half}.transformer.{i}"
        attention = torch.nn.MultiheadAttention(width, width // 64, batch_first=True)
        attention.load_state_dict({n.split("attn.")[1]: t for n, t in w.items() if n.startswith(f"{block}.attn.")})
        y = norm(w, f"{block}.ln_1", x)
        x = x + attention(y, y, y, need_weights=False)[0]
        y = norm(w, f"{block}.ln_2", x)
        y = F.gelu(F.linear(y, w[f"{block}.mlp.c_fc.weight"], w[f"{block}.mlp.c_fc.bias"]))
        x = x + F.linear(y, w[f"{block}.mlp.c_proj.weight"], w[f"{block}.mlp.c_proj.bias"])
    return x


def encode(w, images):
    """Latents `[B, K, D]` before they are quantised."""
    patches = F.conv2d(images, w["encoder.patch_embed.weight"], w["encoder.patch_embed.bias"], w["encoder.patch_embed.weight"].shape[-1])
    batch, width = patches.shape[:2]
    x = torch.cat([w["encoder.class_embedding"].expand(batch, 1, width), patches.flatten(2).mT], 1)
    x = x + w["encoder.positional_embedding"]
    latent = w["latent_tokens"] + w["encoder.latent_token_positional_embedding"]
    count = latent.shape[0]
    x = torch.cat([x, latent.expand(batch, count, width)], 1)
    x = norm(w, "encoder.ln_post", transformer(w, "encoder", x)[:, -count:])
    # Not a transposition: the numbers are read in another order.
    x = x.reshape(batch, width, count, 1)
    x = F.conv2d(x, w["encoder.conv_out.weight"], w["encoder.conv_out.bias"])
    return x.reshape(batch, -1, count).mT


def quantise(w, latents):
    """Indices `[B, K]`, their unit vectors `[B, K, D]`, and how far the second is behind the nearest at least."""
    book = F.normalize(w["quantize.embedding.weight"], dim=-1)
    distances = torch.cdist(F.normalize(latents, dim=-1), book.expand(latents.shape[0], *book.shape))
    two = distances.topk(2, largest=False).values
    codes = distances.argmin(-1)
    return codes, book[codes], (two[..., 1] - two[..., 0]).min().item()


def logits(w, vectors):
    """Of the codes of the pixel decoder, `[B, codes, side, side]`."""
    width = w["decoder.mask_token"].shape[-1]
    batch, places = vectors.shape[0], w["decoder.positional_embedding"].shape[0]
    x = F.linear(vectors, w["decoder.decoder_embed.weight"], w["decoder.decoder_embed.bias"])
    x = x + w["decoder.latent_token_positional_embedding"]
    masks = w["decoder.mask_token"].expand(batch, places - 1, width)
    masks = torch.cat([w["decoder.class_embedding"].expand(batch, 1, width), masks], 1) + w["decoder.positional_embedding"]
    x = transformer(w, "decoder", torch.cat([masks, x], 1))[:, 1:places]
    side = round((places - 1) ** 0.5)
    x = norm(w, "decoder.ln_post", x).mT.reshape(batch, width, side, side)
    x = torch.tanh(F.conv2d(x, w["decoder.ffn.0.weight"], w["decoder.ffn.0.bias"]))
    return F.conv2d(x, w["decoder.ffn.2.weight"], w["decoder.ffn.2.bias"])


def group_norm(w, name, x):
    """32 groups; a narrow network has as many as its narrowest layer has channels."""
    narrowest = min(t.shape[0] for n, t in w.items() if n.startswith("pixel_decoder.") and ".norm" in n)
    return F.group_norm(x, min(32, narrowest), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)


def residual(w, name, x):
    y = F.conv2d(F.silu(group_norm(w, f"{name}.norm1", x)), w[f"{name}.conv1.weight"], padding=1)
    y = F.conv2d(F.silu(group_norm(w, f"{name}.norm2", y)), w[f"{name}.conv2.weight"], padding=1)
    shortcut = w.get(f"{name}.nin_shortcut.weight")
    return y + (x if shortcut is None else F.conv2d(y, shortcut))


def blocks(w, name):
    return sorted({int(n.removeprefix(name).split(".")[0]) for n in w if n.startswith(name)})


def pixels(w, mixed):
    """Images `[B, 3, H, W]` of mixed codes `[B, D, side, side]`."""
    convolution = lambda name, x: F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)
    x = convolution("pixel_decoder.conv_in", mixed)
    for i in blocks(w, "pixel_decoder.mid."):
        x = residual(w, f"pixel_decoder.mid.{i}", x)
    for level in reversed(blocks(w, "pixel_decoder.up.")):
        for i in blocks(w, f"pixel_decoder.up.{level}.block."):
            x = residual(w, f"pixel_decoder.up.{level}.block.{i}", x)
        if level > 0:
            x = convolution(f"pixel_decoder.up.{level}.upsample_conv", F.interpolate(x, scale_factor=2, mode="nearest"))
    return convolution("pixel_decoder.conv_out", F.silu(group_norm(w, "pixel_decoder.norm_out", x)))


def decode(w, vectors):
    found = logits(w, vectors)
    mixed = torch.einsum("bchw,cd->bdhw", found.softmax(1), w["pixel_quantize.embedding.weight"])
    return found, pixels(w, mixed)


def main():
    torch.manual_seed(0)
    full = sys.argv[1] == "--full"
    s = sizes(sys.argv[2]) if full else NARROW
    # What half precision holds, so that the file can be small.
    weights = {name: drawn(name, shape).half().float() for name, shape in shapes(s).items()}
    if full:
        save_file({name: value.contiguous() for name, value in weights.items()}, sys.argv[3])
        return
    images = torch.rand(2, 3, s["patch"] * s["grid"], s["patch"] * s["grid"])
    with torch.no_grad():
        latents = encode(weights, images)
        codes, vectors, margin = quantise(weights, latents)
        found, pictures = decode(weights, vectors)
        # Some tokens are nothing: what decompositions give.
        partial = vectors * (torch.arange(s["tokens"]) < 2)[:, None]
        _, of_partial = decode(weights, partial)
    print(f"codes {codes.tolist()}, margin {margin:.4f}, pictures {pictures.std():.3f}, apart {(pictures - of_partial).abs().mean():.3f}")
    assert margin > 1e-3, "draw other weights: a code is a near tie"
    tensors = {f"weights.{name}": value.half() for name, value in weights.items()}
    tensors |= {
        "images": images, "latents": latents, "codes": codes, "vectors": vectors, "logits": found, "pictures": pictures,
        "pictures_of_two": of_partial,
    }
    config = {"note": "bytedance/1d-tokenizer at 10113ad, narrow, random weights"}
    save_file({name: value.contiguous() for name, value in tensors.items()}, sys.argv[1], {"config": json.dumps(config)})
    print(len(tensors), "tensors")


main()
