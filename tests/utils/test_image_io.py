"""What a file says about its pixels is obeyed: gray values computed by hand, for pictures and DICOM alike."""

import os
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1

from chxbench.benchmark.dataset import DataError, Dataset
from chxbench.benchmark.utils.image_io import read_image
from chxbench.datasets.phantom import Phantom

SIDES = ("LeftVerticalEdge", "RightVerticalEdge", "UpperHorizontalEdge", "LowerHorizontalEdge")
REAL = Path(__file__).resolve().parents[3] / "shared" / "nih256" / "images"
GRAY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
TURNED = {6: np.rot90(GRAY, -1), 3: GRAY[::-1, ::-1], 8: np.rot90(GRAY), 2: GRAY[:, ::-1], 0: GRAY, 9: GRAY}


def refusal(path) -> str:
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


# --- pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason="the real NIH files are not there")
def test_real_radiographs_are_read_as_pillow_reads_them():
    for path in sorted(REAL.iterdir())[::7]:
        np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path).convert("L")))


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(
    ("name", "options"), [("a.png", {}), ("a.webp", {"lossless": True}), ("a.jpg", {"quality": 100})]
)
def test_exif_turns_a_picture(tmp_path, name, options, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(GRAY).save(tmp_path / name, exif=exif, **options)
    assert np.abs(read_image(tmp_path / name) - TURNED[orientation].astype(int)).max() <= 3 * (name == "a.jpg")


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_tiff_is_turned_once(tmp_path, compression, orientation):
    Image.fromarray(GRAY).save(tmp_path / "a.tif", tiffinfo={274: orientation}, compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), TURNED[orientation])


@pytest.mark.parametrize(
    ("bits", "data", "expected"), [(8, b"\0\x40\xff\x80", [255, 191, 0, 127]), (1, b"\x50", [255, 0, 255, 0])]
)
def test_in_a_tiff_zero_is_white_if_it_says_so(tmp_path, bits, data, expected):
    tags = [(256, 3, 4), (257, 3, 1), (258, 3, bits), (259, 3, 1), (262, 3, 0), (273, 4, 200), (278, 3, 1), (279, 4, 4)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0"
    (tmp_path / "a.tif").write_bytes(head.ljust(200, b"\0") + data.ljust(4, b"\0"))
    assert read_image(tmp_path / "a.tif").tolist() == [expected]


def test_signed_values_of_a_tiff_are_refused(tmp_path):
    for kind in (1, 2):
        Image.fromarray(GRAY).save(tmp_path / "a.tif", tiffinfo={339: kind})
        if kind == 1:
            np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), GRAY)
    assert "its values are signed: add 128" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("chunks", "exponent"),
    [
        ({b"gAMA": 100_000}, 1 / 2.2),  # values proportional to light
        ({b"gAMA": 45_455}, 1),
        ({b"gAMA": 55_556}, 1 / (2.2 * 0.55556)),
        ({b"sRGB": None, b"gAMA": 100_000}, 1),  # which sRGB replaces
        ({b"sBIT": None}, 1),  # values have their full range whatever the number of significant bits
    ],
)
def test_the_gamma_of_a_png_is_that_of_its_display(tmp_path, chunks, exponent):
    info = PngInfo()
    for name, value in chunks.items():
        info.add(name, b"\x05" if value is None else value.to_bytes(4, "big"))
    Image.fromarray(GRAY).save(tmp_path / "a.png", pnginfo=info)
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), 255 * (GRAY / 255) ** exponent, atol=0.51)


THREE = Image.fromarray(np.array([[9, 8, 7]], np.uint8))


def half_transparent(mode):
    alpha = np.array([[0, 255, 51]], np.uint8)
    gray = np.full((1, 3), 200, np.uint8)
    return Image.fromarray(np.stack([gray] * 3 + [alpha], axis=2)).convert(mode)


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        pytest.param(half_transparent("RGBA"), {}, [0, 200, 40], id="RGBA"),
        pytest.param(half_transparent("LA"), {}, [0, 200, 40], id="LA"),
        pytest.param(THREE, {"transparency": 8}, [9, 0, 7], id="L"),
        pytest.param(THREE.convert("RGB"), {"transparency": (8, 8, 8)}, [9, 0, 7], id="RGB"),
        pytest.param(THREE.convert("P"), {"transparency": 8}, [9, 0, 7], id="P"),
        pytest.param(Image.fromarray(np.array([[True, False]])), {}, [255, 0], id="1 bit"),
    ],
)
def test_what_is_transparent_is_black(tmp_path, image, options, expected):
    image.save(tmp_path / "a.png", **options)
    assert read_image(tmp_path / "a.png").tolist() == [expected]


def deep_png(kind, samples):
    import zlib

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 1, 1, 16, kind, 0, 0, 0)
    data = zlib.compress(b"\0" + struct.pack(">H", 300) * samples)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bits_are_refused_in_gray_and_in_color(tmp_path, kind, samples):
    (tmp_path / "a.png").write_bytes(deep_png(kind, samples))
    assert "more than 8 bits" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.png", "a.webp"])
def test_several_frames_are_refused_and_previews_are_not_frames(tmp_path, name):
    image, other = Image.fromarray(GRAY), Image.fromarray(GRAY[::-1].copy())
    image.save(tmp_path / name, save_all=True, append_images=[other])
    assert "it has 2 frames" in refusal(tmp_path / name)
    image.save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[other], quality=100)
    assert np.abs(read_image(tmp_path / "b.jpg") - GRAY.astype(int)).max() <= 3


def make_link(path):
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(os.mkfifo, "it is not a file", id="pipe"),
        pytest.param(Path.mkdir, "it is not a file", id="folder"),
        pytest.param(make_link, "its link leads nowhere", id="link to nothing"),
        pytest.param(Path.touch, "cannot identify its format", id="empty"),
    ],
)
def test_what_is_no_image_file_is_refused(tmp_path, make, message):
    make(tmp_path / "a.png")
    assert message in refusal(tmp_path / "a.png")


# --- DICOM --------------------------------------------------------------------------------------------------------

RAMP = np.arange(0, 4096, 273, dtype=np.int64)[None]  # 0, 273, ... 4095 of 12 bits
LEVELS = RAMP[0] / 4095


@pytest.fixture
def dicom(tmp_path):
    """Write one row of pixels as 16 bits, of which 12 are stored, with these elements changed; None removes one."""

    def write(values=RAMP, name="a.dcm", syntax=ExplicitVRLittleEndian, **changes):
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = syntax
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4"
        data = pydicom.Dataset()
        data.file_meta = meta
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.Rows, data.Columns, data.SamplesPerPixel, data.PixelRepresentation = *values.shape, 1, 0
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PhotometricInterpretation = 16, 12, 11, "MONOCHROME2"
        data.PixelData = values.astype(np.int64).astype("<u2").tobytes()
        if syntax.is_encapsulated:
            data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
        for keyword, value in changes.items():
            if value is None:
                delattr(data, keyword)
            elif isinstance(value, tuple):  # a value representation and a value
                data.add_new(keyword, *value)
            else:
                setattr(data, keyword, value)
        data.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return write


SQUARE = np.arange(25).reshape(5, 5) * 100 + 500
SHOWN = {"WindowCenter": 2048, "WindowWidth": 4096}


@pytest.mark.parametrize(
    ("elements", "seen"),
    [
        pytest.param(
            {
                "ShutterShape": "RECTANGULAR",
                **{f"Shutter{side}": edge for side, edge in zip(SIDES, (2, 4, 1, 3), strict=True)},
            },
            [[0, 1, 1, 1, 0]] * 3 + [[0] * 5] * 2,
            id="rectangle",
        ),
        pytest.param(
            {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [3, 3], "RadiusOfCircularShutter": 1},
            [[0] * 5, [0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0] * 5],
            id="circle",
        ),
        pytest.param(
            {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 1, 1, 3, 5, 3, 5, 1]},
            [[1, 1, 1, 0, 0]] * 5,
            id="polygon",
        ),
        pytest.param({"ShutterShape": ""}, [[1] * 5] * 5, id="none"),
        pytest.param({"ShutterPresentationValue": 0}, [[1] * 5] * 5, id="no shape"),
    ],
)
@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
def test_what_a_shutter_covers_is_black(dicom, elements, seen, polarity):
    plain = read_image(dicom(SQUARE, PhotometricInterpretation=polarity, **SHOWN))
    shut = read_image(dicom(SQUARE, PhotometricInterpretation=polarity, **SHOWN, **elements))
    np.testing.assert_array_equal(shut, plain * np.array(seen, np.uint8))


def test_a_shutter_does_not_count_in_the_range_of_an_image_without_window(dicom):
    elements = {
        "ShutterShape": "RECTANGULAR",
        **dict(zip((f"Shutter{side}" for side in SIDES), (2, 4, 1, 5), strict=True)),
    }
    assert read_image(dicom(RAMP[:, :5] * 0 + np.array([4000, 0, 100, 200, 4000]), **elements)).tolist() == [
        [0, 0, 128, 255, 0]
    ]


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"ShutterShape": "BITMAP"}, "display shutter of unknown shape BITMAP"),
        ({"ShutterShape": "RECTANGULAR"}, "its rectangular display shutter has no position"),
        ({"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [3]}, "its circular display shutter has no position"),
    ],
)
def test_a_shutter_without_meaning_is_refused(dicom, elements, message):
    assert message in refusal(dicom(SQUARE, **elements))


def table(entries, first, depth, data):
    item = pydicom.Dataset()
    item.LUTDescriptor = [entries, first, depth]
    item["LUTDescriptor"].VR = "US" if first >= 0 else "SS"
    item.add_new("LUTData", "US", data)
    return pydicom.Sequence([item])


def linear(low, high, values=RAMP[0]):
    return np.clip((values - low) / (high - low), 0, 1)


def nested(sequence, **elements):
    item, group = pydicom.Dataset(), pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    setattr(group, sequence, pydicom.Sequence([item]))
    return pydicom.Sequence([group])


FRAME_WINDOW = nested("FrameVOILUTSequence", WindowCenter=2000, WindowWidth=1000)
FRAME_SLOPE = nested("PixelValueTransformationSequence", RescaleSlope=-1, RescaleIntercept=4095)
IN_EXTREMES = LEVELS  # no window: from the lowest to the highest
# LINEAR: from center - 0.5 - (width - 1) / 2 to center - 0.5 + (width - 1) / 2
WINDOW = linear(2000 - 0.5 - 499.5, 2000 - 0.5 + 499.5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, IN_EXTREMES, id="nothing"),
        pytest.param({"WindowCenter": 2000, "WindowWidth": 1000}, WINDOW, id="window"),
        pytest.param({"WindowCenter": [2000, 9], "WindowWidth": [1000, 9]}, WINDOW, id="windows"),
        pytest.param({"WindowCenter": [0, 2000], "WindowWidth": [0, 1000]}, WINDOW, id="first without a width"),
        pytest.param({"WindowCenter": ["", 2000], "WindowWidth": [100, 1000]}, WINDOW, id="first without a center"),
        pytest.param({"WindowCenter": [9, 2000], "WindowWidth": ["", 1000]}, WINDOW, id="first of empty width"),
        pytest.param({"SharedFunctionalGroupsSequence": FRAME_WINDOW}, WINDOW, id="window in functional groups"),
        pytest.param({"PerFrameFunctionalGroupsSequence": FRAME_SLOPE}, 1 - LEVELS, id="slope in functional groups"),
        pytest.param(
            {"SharedFunctionalGroupsSequence": FRAME_WINDOW, "WindowCenter": 1500, "WindowWidth": 1000},
            linear(1000, 1999),
            id="window beside functional groups",
        ),
        pytest.param({"WindowCenter": "", "WindowWidth": ""}, IN_EXTREMES, id="empty window"),
        pytest.param({"WindowCenter": "", "WindowWidth": 1000}, IN_EXTREMES, id="empty center"),
        pytest.param({"WindowCenter": 0, "WindowWidth": 0}, IN_EXTREMES, id="window of width 0"),
        pytest.param({"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": ""}, WINDOW, id="empty function"),
        pytest.param(
            {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"},
            linear(1500, 2500),
            id="exact",
        ),
        pytest.param(
            {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"},
            1 / (1 + np.exp(-4 * (RAMP[0] - 2000) / 1000)),
            id="sigmoid",
        ),
        pytest.param({"RescaleSlope": 2, "RescaleIntercept": -100}, IN_EXTREMES, id="slope"),
        pytest.param({"RescaleSlope": -1, "RescaleIntercept": 4095}, 1 - LEVELS, id="negative slope"),
        pytest.param(
            {"RescaleSlope": -1, "RescaleIntercept": 4095, "WindowCenter": 2000, "WindowWidth": 1000},
            WINDOW[::-1],
            id="negative slope and window",
        ),
        pytest.param(
            {"RescaleSlope": "", "RescaleIntercept": -1000, "WindowCenter": 1000, "WindowWidth": 1000},
            WINDOW,
            id="empty slope",
        ),
        pytest.param({"RescaleSlope": 0, "RescaleIntercept": ""}, IN_EXTREMES, id="slope 0"),
        pytest.param(
            {"ModalityLUTSequence": table(4096, 0, 12, list(range(4095, -1, -1)))}, 1 - LEVELS, id="modality table"
        ),
        pytest.param({"ModalityLUTSequence": pydicom.Sequence()}, IN_EXTREMES, id="empty modality table"),
        pytest.param(
            {"VOILUTSequence": table(3, 273, 8, [0, 51, 255]), "WindowCenter": 1, "WindowWidth": 9},
            np.where(RAMP[0] <= 273, 0, 1),
            id="VOI table before a window",
        ),
        pytest.param({"VOILUTSequence": pydicom.Sequence()}, IN_EXTREMES, id="empty VOI table"),
        pytest.param({"PhotometricInterpretation": "MONOCHROME1"}, 1 - LEVELS, id="inverse"),
        pytest.param({"PresentationLUTShape": "INVERSE"}, 1 - LEVELS, id="inverse shape"),
        pytest.param(
            {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
            1 - LEVELS,
            id="once inverse",
        ),
        pytest.param({"PresentationLUTShape": "IDENTITY"}, IN_EXTREMES, id="identity"),
        pytest.param({"PresentationLUTShape": ""}, IN_EXTREMES, id="empty shape"),
        pytest.param({"NumberOfFrames": ""}, IN_EXTREMES, id="empty number of frames"),
    ],
)
def test_dicom_is_shown_as_its_header_says(dicom, changes, expected):
    shown = read_image(dicom(**changes))
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[0], np.round(255 * expected))


def test_overlays_in_the_unused_bits_are_not_seen(dicom):
    np.testing.assert_array_equal(read_image(dicom(RAMP | 0xF000))[0], np.round(255 * LEVELS))


def test_a_declared_overlay_in_the_unused_bits_is_not_seen(dicom):
    with_plane = RAMP | (np.arange(RAMP.size) % 2 << 12)
    path = dicom(with_plane)
    assert "more than the 12 bits" in refusal(path)
    data = pydicom.dcmread(path)
    data.add_new(0x60000102, "US", 12)
    data.save_as(path)
    np.testing.assert_array_equal(read_image(path)[0], np.round(255 * LEVELS))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_values_of_more_bits_than_stored_are_refused(dicom, syntax):
    assert "more than the 12 bits that its header says are stored" in refusal(dicom(RAMP * 16, syntax=syntax))


def test_a_sign_that_fills_the_unused_bits_is_no_value(dicom):
    shown = read_image(dicom(RAMP - 2048, PixelRepresentation=1))
    np.testing.assert_array_equal(shown[0], np.round(255 * LEVELS))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_table_may_begin_below_zero(dicom, syntax):
    tables = {"VOILUTSequence": table(4096, -1024, 12, list(range(4096)))}
    shown = read_image(dicom(syntax=syntax, RescaleIntercept=-1024, RescaleSlope=1, **tables))
    np.testing.assert_array_equal(shown[0], np.round(255 * RAMP[0] / 4095))


def test_stored_bits_may_be_the_highest(dicom):
    np.testing.assert_array_equal(read_image(dicom((RAMP << 4) | 0xF, HighBit=15))[0], np.round(255 * LEVELS))


PADDED = np.array([[4000, 4000, 100, 200, 300, 3000]])


@pytest.mark.parametrize(
    ("values", "changes", "expected"),
    [
        pytest.param(PADDED[:, :5], {"PixelPaddingValue": 4000}, [0, 0, 0, 128, 255], id="value"),
        pytest.param(
            PADDED[:, :5],
            {"PixelPaddingValue": 4000, "PhotometricInterpretation": "MONOCHROME1"},
            [0, 0, 255, 128, 0],
            id="black in an inverse image",
        ),
        pytest.param(
            PADDED, {"PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 3000}, [0, 0, 0, 128, 255, 0], id="range"
        ),
        pytest.param(
            np.array([[-2000, 0, 50, 100]]),
            {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15, "PixelPaddingValue": ("US", 63536)},
            [0, 0, 128, 255],
            id="written with the wrong sign",
        ),
        pytest.param(PADDED[:, :2], {"PixelPaddingValue": 4000}, [0, 0], id="nothing else"),
        pytest.param(PADDED[:, 1:5], {"PixelPaddingValue": ("US", None)}, [255, 0, 7, 13], id="empty"),
        pytest.param(PADDED[:, 1:5], {"PixelPaddingRangeLimit": ("US", 4000)}, [255, 0, 7, 13], id="limit alone"),
        pytest.param(np.array([[0, 100, 200]]), {"PixelPaddingValue": 0}, [0, 0, 255], id="0"),
    ],
)
def test_padding_is_black_and_not_among_the_extremes(dicom, values, changes, expected):
    np.testing.assert_array_equal(read_image(dicom(values, **changes)), [expected])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            (({name: None}, f"its header has no {name}"))
            for name in ("Rows", "PhotometricInterpretation", "BitsStored")
        ),
        ({"PixelRepresentation": None}, "its header has no PixelRepresentation"),
        ({"BitsAllocated": 0}, "its header has no BitsAllocated"),
        ({"NumberOfFrames": 2}, "it is MONOCHROME2 of 2 frames"),
        ({"PhotometricInterpretation": "RGB"}, "it is RGB of 1 frames"),
        ({"WindowCenter": "1", "WindowWidth": "2", "VOILUTFunction": "CUBIC"}, "CUBIC"),
        ({"PixelData": None}, "cannot be read"),
    ],
)
def test_a_dicom_file_without_a_meaning_is_refused_in_words(dicom, changes, message):
    said = refusal(dicom(**changes))
    assert message in said and "object" not in said and "NoneType" not in said


def test_a_missing_decoder_is_named(dicom):
    from pydicom.pixels import get_decoder

    path = dicom(syntax=JPEGLosslessSV1)
    if get_decoder(JPEGLosslessSV1).is_available:
        pytest.skip("a decoder is installed")
    assert "pip install pylibjpeg pylibjpeg-libjpeg" in refusal(path)


def test_the_content_says_what_kind_of_file_it_is(dicom, tmp_path):
    for name in ("IM0001", "b.png"):
        np.testing.assert_array_equal(read_image(dicom(name=name))[0], np.round(255 * LEVELS))
    Image.fromarray(GRAY).save(tmp_path / "c.dcm", "PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "c.dcm"), GRAY)


def test_every_dataset_reads_a_given_file_of_either_kind(dicom, tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "00000001_000.png")
    for dataset in (Dataset(), Phantom(images=60, size=64)):
        np.testing.assert_array_equal(dataset.read("00000001_000.png", str(tmp_path / "00000001_000.png")), GRAY)
        np.testing.assert_array_equal(dataset.read("a.dcm", str(dicom()))[0], np.round(255 * LEVELS))
