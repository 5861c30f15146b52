"""Writes each image as its best AVIF of no more than so many bytes shows it, for `evaluate reconstruction --series avif=DIR`.

Images become squares as `evaluate` makes them; those that cannot be brought into so few bytes are an error that says how many
bytes the largest takes. The encoder is that of Pillow (libavif).
Usage: avif_pictures.py IMAGES OUT --size 64 --bytes 1024        (needs Pillow 11.3 or later)
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image


def square(image, size):
    """As `semanticist` does it: halved by boxes while it is twice too large, then bicubic, then the middle."""
    while min(image.size) >= 2 * size:
        image = image.resize(tuple(side // 2 for side in image.size), Image.BOX)
    scale = size / min(image.size)
    image = image.resize(tuple(round(side * scale) for side in image.size), Image.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    return image.crop((left, top, left + size, top + size))


def encoded(image, quality):
    """Without colour profile and comments."""
    file = io.BytesIO()
    image.info.clear()
    image.save(file, "AVIF", quality=quality, speed=4)
    return file.getvalue()


def best(image, most):
    """The file of the highest quality that fits; sizes grow with it. None fits if that of quality 0 does not."""
    fits, too_large, file = 0, 101, encoded(image, 0)
    while len(file) <= most and fits + 1 < too_large:
        middle = (fits + too_large) // 2
        other = encoded(image, middle)
        if len(other) <= most:
            fits, file = middle, other
        else:
            too_large = middle
    return file


parser = argparse.ArgumentParser()
parser.add_argument("images", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--size", type=int, required=True, help="side of the squares, in pixels")
parser.add_argument("--bytes", type=int, required=True, help="most bytes of a file")
arguments = parser.parse_args()
paths = sorted(path for path in arguments.images.rglob("*") if path.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"})
if not paths:
    sys.exit(f"{arguments.images}: no images")
largest = 0
for path in paths:
    file = best(square(Image.open(path).convert("RGB"), arguments.size), arguments.bytes)
    largest = max(largest, len(file))
    target = arguments.out / path.relative_to(arguments.images).with_suffix(".png")
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(file)).save(target)
print(f"{len(paths)} images, at most {largest} bytes each")
if largest > arguments.bytes:
    sys.exit(f"not every image fits into {arguments.bytes} bytes: give {largest} or more")
