"""Records what Pillow makes of small files of many formats, for crates/semanticist/tests/formats.rs.

The published evaluation reads with torchvision's ImageFolder, whose loader is `Image.open(f).convert("RGB")`:
no rotation by EXIF, opacity thrown away. That is `NAME.pillow.png`. Where this project means to see something
else, `NAME.meant.png` holds that, made with Pillow and numpy.

    python scripts/record_images.py PHOTOS crates/semanticist/tests/data/formats
    (needs pillow and numpy)
"""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

photos, out = Path(sys.argv[1]), Path(sys.argv[2])
# Neither side is a multiple of 8, so that the last blocks of a JPEG are cut.
SIZE = (43, 29)


def photo(name, box, size=SIZE):
    with Image.open(photos / name) as image:
        return bare(image.convert("RGB").resize(size, Image.Resampling.LANCZOS, box))


def bare(image):
    """Without what Pillow would write beside the pixels: a profile, one colour that is transparent."""
    image.info.clear()
    return image


coffee = photo("coffee.png", (60, 20, 490, 310))
rocket = photo("rocket.jpg", (170, 120, 385, 265))
small = photo("astronaut.png", (140, 0, 330, 130), (19, 13))


def encoded(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def jpeg(image, **options):
    return encoded(image, "JPEG", **{"quality": 90, "optimize": True, **options})


def png(image, **options):
    return encoded(image, "PNG", optimize=True, **options)


def segments(data):
    """The marker segments of a JPEG up to its first scan, and the rest."""
    at, found = 2, []
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append(data[at:end])
        at = end
    return found, data[at:]


def with_adobe(data, transform):
    """The JPEG with the colour transform of its Adobe marker changed, or without the marker."""
    found, rest = segments(data)
    assert any(segment[1] == 0xEE for segment in found)
    if transform is None:
        found = [segment for segment in found if segment[1] != 0xEE]
    else:
        found = [s[:-1] + bytes([transform]) if s[1] == 0xEE else s for s in found]
    return data[:2] + b"".join(found) + rest


def ink(image):
    """The same colours with a part of them in black."""
    cmy = 255 - np.asarray(image).astype(int)
    black = cmy.min(2) // 2
    cmy = (cmy - black[..., None]) * 255 // np.maximum(255 - black, 1)[..., None]
    return Image.fromarray(np.dstack([cmy, black]).astype(np.uint8), "CMYK")


def ycck(image):
    """As Photoshop writes it: luminance and colour of the inverted inks, black beside them."""
    inks = np.asarray(ink(image))
    colour = np.asarray(Image.fromarray(255 - inks[..., :3]).convert("YCbCr"))
    # Pillow inverts what it writes; the transform in the marker says how to read it.
    planes = np.dstack([255 - colour, inks[..., 3:]])
    return with_adobe(jpeg(Image.fromarray(planes, "CMYK")), 2)


def veil():
    """Opacity from left to right, and a transparent corner."""
    opacity = np.linspace(0, 255, SIZE[0]).round().astype(np.uint8)[None].repeat(SIZE[1], 0)
    opacity[:5, -7:] = 0
    return Image.fromarray(opacity)


def over_white(image):
    """Exact arithmetic with one rounding."""
    rgba = np.asarray(image.convert("RGBA")).astype(int)
    colour, opacity = rgba[..., :3], rgba[..., 3:]
    return Image.fromarray(((2 * (colour * opacity + 255 * (255 - opacity)) + 255) // 510).astype(np.uint8))


def deep(levels):
    """16-bit levels as 8-bit ones: the nearest."""
    levels = (levels.astype(int) + 128) // 257
    return Image.fromarray((levels if levels.ndim == 3 else np.dstack([levels] * 3)).astype(np.uint8))


def deep_png(levels):
    """A PNG of 16-bit RGB, which Pillow cannot write."""
    height, width, _ = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def main():
    out.mkdir(parents=True, exist_ok=True)
    grey = rocket.convert("L")
    with Image.open(photos / "rocket.jpg") as image:
        profile = image.info["icc_profile"]  # Adobe RGB
    for name, data in {
        "grey.jpg": jpeg(grey),
        "colour420.jpg": jpeg(coffee, subsampling="4:2:0"),
        "colour422.jpg": jpeg(coffee, subsampling="4:2:2"),
        "colour444.jpg": jpeg(coffee, subsampling="4:4:4"),
        "progressive420.jpg": jpeg(rocket, subsampling="4:2:0", progressive=True),
        "progressive444.jpg": jpeg(rocket, subsampling="4:4:4", progressive=True),
        "profile.jpg": jpeg(rocket, icc_profile=profile),
        "rgb.jpg": jpeg(coffee, keep_rgb=True),
        "cmyk.jpg": jpeg(ink(coffee)),
        "cmyk_without_adobe.jpg": with_adobe(jpeg(ink(coffee)), None),
        "ycck.jpg": ycck(coffee),
        "grey.png": png(grey),
        "colour.png": png(coffee),
        "palette.png": png(coffee.quantize(32)),
        "one_bit.png": png(grey.convert("1")),
    }.items():
        record(name, data)

    # What this project shows otherwise than Pillow does: transparency, 16 bits, rotation.
    clear = coffee.copy()
    clear.putalpha(veil())
    record("rgba.png", png(clear), over_white(clear))
    clear = grey.copy()
    clear.putalpha(veil())
    record("grey_alpha.png", png(clear), over_white(clear))
    palette = coffee.quantize(16)
    data = png(palette, transparency=bytes([0, 128] + [255] * 14))
    record("palette_transparent.png", data, over_white(Image.open(io.BytesIO(data))))

    # One level or colour that stands for nothing.
    for name, image in {"grey_hole.png": grey, "colour_hole.png": coffee.quantize(16).convert("RGB")}.items():
        data = png(image, transparency=image.getpixel((20, 14)))
        record(name, data, over_white(Image.open(io.BytesIO(data))))

    levels = np.asarray(rocket.resize((24, 16))).astype(np.uint16) * 257
    # Between the 8-bit levels: 128 of 257 still belongs to the lower one.
    levels = np.minimum(levels.astype(int) + np.arange(levels.size).reshape(levels.shape) % 257, 65_535)
    levels = levels.astype(np.uint16)
    record("deep_grey.png", png(Image.fromarray(levels[..., 0])), deep(levels[..., 0]))
    record("deep_colour.png", deep_png(levels), deep(levels))

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = jpeg(small, exif=exif, subsampling="4:2:0")
        turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        record(f"orientation{orientation}.jpg", data, turned if orientation > 1 else None)
    print(f"Pillow {PIL.__version__}, {sum(path.stat().st_size for path in out.iterdir())} bytes in all")


def record(name, data, meant=None):
    (out / name).write_bytes(data)
    image = Image.open(io.BytesIO(data))
    pillow = bare(image.convert("RGB"))
    # A rotated picture has the same pixels as the first of its kind.
    if not name.startswith("orientation") or name == "orientation1.jpg":
        (out / f"{name}.pillow.png").write_bytes(png(pillow))
    if meant is not None:
        (out / f"{name}.meant.png").write_bytes(png(meant))
    print(f"{name}: {image.mode} {pillow.width}x{pillow.height}, {len(data)} bytes")


if __name__ == "__main__":
    main()
