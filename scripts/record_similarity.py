"""Records SSIM and MS-SSIM of torchmetrics, in double precision, for crates/semanticist-eval/src/ssim.rs.

    venv/bin/python scripts/record_similarity.py crates/semanticist-eval/tests/data/similarity.json    (needs torchmetrics 1.9)
"""

import json
import sys

import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as multi_scale
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

# Height and width. Five scales need more than 160 pixels.
SIZES = [(6, 9), (16, 13), (32, 24), (161, 160), (176, 181)]


def image(height, width, value):
    c, y, x = torch.meshgrid(torch.arange(3), torch.arange(height), torch.arange(width), indexing="ij")
    return ((value(x, y, c) % 256).double() / 255)[None]


def ramp(x, y, c):
    return x * 7 + y * 13 + c * 29


def near(x, y, c):
    return ramp(x, y, c) + (x * x + 3 * y + c * 5) % 23


def far(x, y, c):
    return x * y * 3 + c * 71


def measured(a, b):
    both = [ssim(b, a, data_range=1.0).item(), None]
    if min(a.shape[2:]) // 16 > 10:
        both[1] = multi_scale(b, a, data_range=1.0, normalize="relu").item()
    return both


cases = []
for height, width in SIZES:
    a = image(height, width, ramp)
    pairs = {other.__name__: measured(a, image(height, width, other)) for other in (near, far)}
    cases.append({"height": height, "width": width, **pairs})
with open(sys.argv[1], "w") as file:
    json.dump(cases, file)
    file.write("\n")
