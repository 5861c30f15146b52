"""Records how PyTorch interpolates a grid of positions, for the test of nn/bicubic.rs.

    venv/bin/python scripts/record_positions.py > crates/semanticist/tests/data/positions.json
"""

import json

import torch
import torch.nn.functional as F

torch.manual_seed(0)
cases = []
for side, new in [(4, 6), (4, 3), (3, 8), (2, 5), (1, 3), (5, 5)]:
    grid = torch.randn(1, side * side, 2)
    planes = grid.reshape(1, side, side, 2).permute(0, 3, 1, 2)
    resized = F.interpolate(planes, size=(new, new), mode="bicubic", align_corners=False)
    resized = resized.permute(0, 2, 3, 1).reshape(1, new * new, 2)
    cases.append({"side": side, "new": new, "grid": grid.flatten().tolist(), "resized": resized.flatten().tolist()})
print(json.dumps({"torch": torch.__version__, "cases": cases}))
