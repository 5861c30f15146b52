"""Records LPIPS distances from PyTorch for crates/semanticist-eval/tests/data/lpips.safetensors.

The published network is VGG-16 with 528 MB of weights; this one has its layers with few channels and random
weights, and the formula of `lpips` 0.1.4 (lpips/lpips.py: LPIPS.forward with net="vgg", lpips=True).
Usage: record_lpips.py OUT.safetensors    (needs torch, numpy and safetensors)
"""
import sys

import torch
import torch.nn as nn
from safetensors.torch import save_file

torch.manual_seed(0)
WIDTHS = [3, 5, 6, 7, 8]
DEPTHS = [2, 2, 3, 3, 3]

layers, inputs = [], 3
for depth, (width, count) in enumerate(zip(WIDTHS, DEPTHS)):
    if depth:
        layers.append(nn.MaxPool2d(2, 2))
    for _ in range(count):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
        inputs = width
features = nn.Sequential(*layers).eval()
for layer in features:
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, std=(2 / (9 * layer.in_channels)) ** 0.5)
        nn.init.uniform_(layer.bias, 0.0, 0.5)
slices, start = [], 0
for depth, count in enumerate(DEPTHS):
    end = start + 2 * count + (depth > 0)
    slices.append(features[start:end])
    start = end
lins = [torch.rand(1, width, 1, 1) for width in WIDTHS]

shift = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
scale = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]


def normalize_tensor(x, eps=1e-10):
    return x / (torch.sqrt(torch.sum(x**2, dim=1, keepdim=True)) + eps)


def lpips(a, b):
    a, b = ((x * 2 - 1 - shift) / scale for x in (a, b))
    total = 0
    for part, lin in zip(slices, lins):
        a, b = part(a), part(b)
        difference = (normalize_tensor(a) - normalize_tensor(b)) ** 2
        total = total + nn.functional.conv2d(difference, lin).mean([2, 3])
    return total[:, 0]


photos = torch.rand(2, 3, 32, 48)
pictures = (photos + 0.2 * torch.randn_like(photos)).clamp(0, 1)
with torch.no_grad():
    distances = lpips(photos, pictures)
tensors = {f"features.{name}": value for name, value in features.state_dict().items()}
tensors |= {f"lin{i}.model.1.weight": lin for i, lin in enumerate(lins)}
tensors |= {"photos": photos, "pictures": pictures, "distances": distances}
save_file({name: value.contiguous() for name, value in tensors.items()}, sys.argv[1])
print(distances)
