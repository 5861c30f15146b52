"""Records LPIPS and DISTS of narrow networks for crates/semanticist-verify/tests/data/reference/{lpips,dists}.safetensors.

The measures are those of `lpips` 0.1.4 and `DISTS_pytorch` 0.1 (PyPI). VGG-16 and AlexNet have all their layers, with an eighth or
fewer of the channels and random weights, under torchvision's names.
Usage: record_perceptual.py FOLDER           (needs torch, torchvision, lpips, dists-pytorch and safetensors)
       record_perceptual.py --full FOLDER    writes random weights of the full sizes, to compare whole programs
"""

import json
import sys
from pathlib import Path
from unittest import mock

import lpips
import torch
import torch.nn as nn
import torchvision
from DISTS_pytorch import DISTS_pt
from safetensors.torch import save_file

FULL = sys.argv[1] == "--full"
FOLDER = Path(sys.argv[-1])
WIDTHS = {"vgg16": [64, 128, 256, 512, 512], "alexnet": [64, 192, 384, 256, 256]}
if not FULL:
    WIDTHS = {"vgg16": [5, 6, 7, 8, 9], "alexnet": [6, 7, 9, 8, 5]}
# Height and width, odd at some halving.
SIZE = (38, 45)


def vgg16(**_):
    layers, inputs = [], 3
    for width, count in zip(WIDTHS["vgg16"], [2, 2, 3, 3, 3]):
        for _ in range(count):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2, 2))
    return network("vgg16", layers)


def alexnet(**_):
    a, b, c, d, e = WIDTHS["alexnet"]
    pool = lambda: nn.MaxPool2d(3, 2)
    layers = [nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), pool(), nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), pool()]
    for inputs, width in [(b, c), (c, d), (d, e)]:
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
    return network("alexnet", layers)


def network(name, layers):
    """Random, and exact in half precision, so that the file can be small."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=(2 / layer.weight[0].numel()) ** 0.5)
            nn.init.uniform_(layer.bias, 0.0, 0.3)
    model = nn.Module()
    model.name = name
    model.features = nn.Sequential(*layers).half().float().eval()
    return model


def recorded_lpips(name, photos, pictures):
    trunk = {"vgg": vgg16, "alex": alexnet}[name]()
    source = torchvision.models
    with (
        mock.patch.object(source, "vgg16", lambda **_: trunk),
        mock.patch.object(source, "alexnet", lambda **_: trunk),
    ):
        measure = lpips.LPIPS(net=name, pretrained=False, verbose=False)
    # Widths are the package's own.
    measure.lins = nn.ModuleList([measure.lin0.__class__(width, use_dropout=True).eval() for width in WIDTHS[trunk.name]])
    for lin in measure.lins:
        lin.model[-1].weight.data.uniform_(0, 1)
        lin.half().float()
    weights = {f"features.{key}": value for key, value in trunk.features.state_dict().items()}
    weights |= {f"lin{depth}.model.1.weight": lin.model[-1].weight.data for depth, lin in enumerate(measure.lins)}
    with torch.no_grad():
        return weights, measure(photos, pictures, normalize=True)[:, 0, 0, 0]


def recorded_dists(photos, pictures):
    trunk = vgg16()
    with mock.patch.object(DISTS_pt.models, "vgg16", lambda **_: trunk):
        measure = DISTS_pt.DISTS(load_weights=False)
    # Widths are the package's own.
    for stage, width in zip([measure.stage2, measure.stage3, measure.stage4, measure.stage5], WIDTHS["vgg16"]):
        stage[0].filter = stage[0].filter[:1].repeat(width, 1, 1, 1)
    measure.chns = [3, *WIDTHS["vgg16"]]
    for name in ("alpha", "beta"):
        values = torch.rand(1, sum(measure.chns), 1, 1).half().float()
        setattr(measure, name, nn.Parameter(values))
    weights = {f"features.{key}": value for key, value in trunk.features.state_dict().items()}
    weights |= {"alpha": measure.alpha.data, "beta": measure.beta.data}
    return weights, measure(photos, pictures)


def save(file, tensors, config):
    halves = {name: value.half() if "weights." in name else value for name, value in tensors.items()}
    save_file({name: value.contiguous() for name, value in halves.items()}, FOLDER / file, {"config": json.dumps(config)})


torch.manual_seed(0)
photos = torch.rand(2, 3, *SIZE)
pictures = (photos + 0.2 * torch.randn_like(photos)).clamp(0, 1)
found = {name: recorded_lpips(name, photos, pictures) for name in ("vgg", "alex")}
dists_weights, dists = recorded_dists(photos, pictures)
print({name: distances for name, (_, distances) in found.items()}, dists)
if FULL:
    for name, (weights, _) in found.items():
        torch.save(weights, FOLDER / f"lpips-{name}.pth")
    torch.save(dists_weights, FOLDER / "dists.pth")
else:
    tensors = {"photos": photos, "pictures": pictures}
    for name, (weights, distances) in found.items():
        tensors |= {f"weights.{name}.{key}": value for key, value in weights.items()} | {f"{name}.distances": distances}
    save("lpips.safetensors", tensors, {"networks": list(found)})
    tensors = {"photos": photos, "pictures": pictures, "distances": dists}
    save("dists.safetensors", tensors | {f"weights.{key}": value for key, value in dists_weights.items()}, {})
