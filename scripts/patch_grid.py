"""How much more neighbouring pixels of pictures differ across the edges of patches than elsewhere: the grid that a decoder leaves.

The mean absolute difference, in rows and columns, across every eighth edge and across the fourth edges between them, over that of all
other neighbours. For pictures of 64×64; needs numpy and Pillow.
Usage: patch_grid.py FOLDER...
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

for folder in sys.argv[1:]:
    files = sorted(Path(folder).rglob("*.png"))[:1000]
    pictures = np.stack([np.asarray(Image.open(file).convert("RGB"), dtype=float) for file in files])
    across = np.abs(np.diff(pictures, axis=2)).mean((0, 1, 3)) + np.abs(np.diff(pictures, axis=1)).mean((0, 2, 3))
    place = np.arange(len(across))
    other = across[place % 4 != 3].mean()
    ratios = [across[place % 8 == edge].mean() / other for edge in (7, 3)]
    print(f"{folder}: {len(files)} pictures, {ratios[0]:.3f} at edges of 8 pixels, {ratios[1]:.3f} at those of 4 between them")
