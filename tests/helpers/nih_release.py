"""Small folders in the shape of the NIH release, for tests of what reads them."""

import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

V2020, V2017 = "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
LABELS = {
    "00000001_000.png": "No Finding",
    "00000001_004.png": "Cardiomegaly|Effusion",
    "00000002_000.png": "Pleural_Thickening",
    "00000003_000.png": "Infiltration|Mass|Nodule",
    "00000004_000.png": "Hernia",
    "00000005_000.png": "No Finding",
    "00000005_001.png": "Pneumonia",
}
TEST = ("00000005_000.png", "00000005_001.png")
TRAIN_VAL = tuple(name for name in LABELS if name not in TEST)


def row(name: str, findings: str, patient: str | None = None) -> str:
    # The follow-up number is wrong on purpose: it must never be used to build a name.
    return f"{name},{findings},77,{patient or int(name[:8])},58,M,PA,2682,2749,0.143,0.143"


def paint(file: Path, size: tuple[int, int] = (6, 6)) -> None:
    """A gray image that equals none of its turned or mirrored forms."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[1], size[0])
    Image.fromarray(pixels).save(file)


def release(
    root: Path,
    labels: dict[str, str] = LABELS,
    train_val: Sequence[str] = TRAIN_VAL,
    test: Sequence[str] = TEST,
    boxes: Sequence[str] = (),
    place: Callable[[str], str] = "images/{}".format,
) -> Path:
    """A small folder in the shape of the NIH release."""
    root.mkdir(parents=True, exist_ok=True)
    (root / V2020).write_text("\n".join([HEADER, *(row(*item) for item in labels.items())]) + "\n")
    (root / "train_val_list.txt").write_text("\n".join(train_val))
    (root / "test_list.txt").write_text("\n".join(test))
    if boxes:
        (root / "BBox_List_2017.csv").write_text("\n".join([BOX_HEADER, *boxes]) + "\n")
    for name in (*train_val, *test):
        paint(root / place(name))
    return root


def claimed_png(width, height):
    """A PNG that claims to be so large, and holds nothing."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
