"""A battery of folders as people have them: what becomes of each, or what is said about it (BAD_INPUT rows 44 to 51).

A row is a tree and what is expected of it. In a tree stand, behind the path of a folder, how many images it holds, and
behind that of a file, what it holds: bytes, an image, or a function that makes it.
"""

import io
import json
import os
import struct
import unicodedata
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from support.command_line import SEARCH, sharpkeras

from sharpkeras.data import load
from sharpkeras.data.folder_layout import split_of
from sharpkeras.errors import DataError

CUT = "every fifth image of each class"  # the note of a folder without one for the test
ORIENTATION = 0x0112
BYTES = os.fsdecode(b"\xff\xfe")
CAFE, DECOMPOSED_CAFE = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
LONG = "n" * 200


class Reads(NamedTuple):
    """A folder that can be used: its classes, images of each for either split, and a part of each of its notes."""

    classes: list
    train: list
    test: list
    notes: tuple = ()
    options: dict = {}


class Refused(NamedTuple):
    """A folder that can not: words of the message."""

    words: tuple
    options: dict = {}


def pixels(size=(8, 8), mode="RGB", seed=0):
    shape = (*size, {"RGB": 3, "RGBA": 4, "CMYK": 4, "L": 1, "LA": 2}[mode])
    noise = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return Image.fromarray(noise[..., 0] if mode == "L" else noise, mode)


def coded(image, kind="PNG", **options):
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation, size=(8, 8), kind="JPEG"):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return coded(pixels(size), kind, exif=exif)


def header(width, height):
    """A PNG file that says it has this size, and has no pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    sizes_and_sums = [(len(data), zlib.crc32(name + data)) for name, data in parts]
    chunks = [struct.pack(f">I4s{size}sI", size, *part, crc) for part, (size, crc) in zip(parts, sizes_and_sums)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def link(target):
    return lambda path: path.symlink_to(target)


def hard_link(path):
    os.link(path.parent / "0.png", path)


def late_exif(path):
    """A PNG whose EXIF data stand behind the pixels."""
    whole, plain = turned(6, kind="PNG"), coded(pixels())
    start = whole.index(b"eXIf") - 4
    chunk = whole[start : start + 12 + int.from_bytes(whole[start : start + 4], "big")]
    path.write_bytes(plain[:-12] + chunk + plain[-12:])


def plant(root, tree):
    """Makes a tree; each image that is only counted is another one."""
    number = 0
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif callable(content):
            content(path)
        else:
            path.mkdir(exist_ok=True, parents=True)
            for index in range(content):
                number += 1
                (path / f"{index}.png").write_bytes(coded(pixels(seed=number)))
    return root


def split(train, test, classes=("a", "b"), counts=(4, 2)):
    """Class folders in the folders of two splits."""
    return {f"{folder}/{name}": number for folder, number in zip((train, test), counts) for name in classes}


AB = {"a": 6, "b": 6}
AB_READ = (["a", "b"], [5, 5], [1, 1])
SPLIT_READ = (["a", "b"], [4, 4], [2, 2])
PAIR = Reads(*SPLIT_READ)

ROWS = {
    # ---- the names of splits ----
    "train and test": (split("train", "test"), PAIR),
    "Training and Testing": (split("Training", "Testing"), PAIR),
    "TRAIN and Test": (split("TRAIN", "Test"), PAIR),
    "training_set and test_set": (split("training_set", "test_set"), PAIR),
    "train2017 and val2017": (
        split("train2017", "val2017"),
        Reads(*SPLIT_READ, ("the test images are those in val2017",)),
    ),
    "Train images and hold-out": (split("Train images", "hold-out"), PAIR),
    "tr and tst": (split("tr", "tst"), PAIR),
    "train and valid": (split("train", "valid"), Reads(*SPLIT_READ, ("the test images are those in valid",))),
    "train and eval": (split("train", "eval"), PAIR),
    "train and dev": (split("train", "dev"), Reads(*SPLIT_READ, ("those in dev",))),
    "train, val and test": (
        split("train", "test") | {"val/a": 1, "val/b": 1},
        Reads(*SPLIT_READ, ("not used: the images in val",)),
    ),
    "train, val and a test without labels": (
        split("train", "val") | {"test": 3},
        Reads(*SPLIT_READ, ("not used: the images in test", "those in val")),
    ),
    "train and a test without labels": (
        {"train/a": 4, "train/b": 4, "test": 3},
        Refused(("no class folders", "test", "3 files")),
    ),
    "only train": ({"train/a": 6, "train/b": 6}, Reads(*AB_READ)),
    "only test": ({"test/a": 2, "test/b": 2}, Refused(("test/ without train/",))),
    "two of train": (split("train", "Training"), Refused(("2 folders", "train", "Training"))),
    "two of test": (
        split("train", "test") | {"testing/a": 1, "testing/b": 1},
        Refused(("2 folders", "test, testing")),
    ),
    "two of validation beside test": (
        split("train", "test") | {"val/a": 1, "dev/a": 1},
        Reads(*SPLIT_READ, ("not used: the images in dev, val",)),
    ),
    "splits by names of their own": (
        split("seg_train", "seg_test"),
        Refused(("seem to be splits", "seg_test, seg_train", "rename")),
    ),
    "splits by unknown names": (
        split("lernen", "pruefen", counts=(5, 5)),
        Reads(["lernen", "pruefen"], [8, 8], [2, 2], ("all classes hold the same folders", CUT)),
    ),
    "splits that hold images": ({"train": 4, "test": 2}, Refused(("no class folders", "4 files"))),
    "splits in a folder": (
        split("set/train", "set/test"),
        Refused(("folders of splits lie in the class folders: set", "folder:", "/set")),
    ),
    "train in a folder": ({"set/train/a": 4, "set/train/b": 4}, Refused(("lie in the class folders: set",))),
    "splits in splits": (split("train/train", "test/test"), Refused(("names of splits: train", "/train"))),
    "splits in classes": (
        {"a/train": 4, "a/test": 2, "b/train": 4, "b/test": 2},
        Refused(("lie in the class folders: a, b",)),
    ),
    "a single class that is called as a split": ({"train": 6}, Refused(("no class folders",))),
    "classes beside splits": (
        split("train", "test") | {"c": 3},
        Refused(("folders of images lie beside train/: c", "move them")),
    ),
    "other folders and files beside splits": (
        split("train", "test") | {"notes/old": 0, "README.md": b"x", "labels.csv": b"x", ".git/objects": 0},
        Reads(
            *SPLIT_READ,
            ("lies beside train: 3 (README.md, labels.csv, notes)", "hidden and system files: 1 (.git)"),
        ),
    ),
    "a class that is called test": (
        {"quiz": 5, "test": 5, "exam": 5},
        Reads(["exam", "quiz", "test"], [4, 4, 4], [1, 1, 1], ("test: taken as a class",)),
    ),
    "a class that is called train": (
        {"bus": 5, "train": 5},
        Reads(["bus", "train"], [4, 4], [1, 1], ("train: taken as a class",)),
    ),
    "languages, tr among them": (
        split("train", "test", ("de", "tr")),
        Reads(["de", "tr"], [4, 4], [2, 2]),
    ),
    "a split elsewhere": (
        {"train": link("../elsewhere"), "test/a": 1},
        Refused(("stand for its splits: train", "`follow_symlinks`")),
    ),
    # ---- classes ----
    "images and no classes": ({".": 4}, Refused(("no class folders", "4 files"))),
    "nothing": ({".": 0}, Refused(("no class folders", "PATH/train/CLASS/*.jpg"))),
    "one class": ({"a": 6}, Reads(["a"], [5], [1])),  # which a search refuses (row 19)
    "an empty class": ({"a": 6, "b": 0}, Refused(("no images in 1 class folder: b",))),
    "classes in folders": (
        {"animals/cat": 5, "animals/dog": 5, "plants/oak": 5},
        Reads(["animals", "plants"], [8, 4], [2, 1]),
    ),
    "hidden and system files": (
        AB | {"a/.ipynb_checkpoints/x.png": b"x", "__MACOSX/a": 2, "b/Thumbs.db": b"x", "b/.DS_Store": b"x"},
        Reads(*AB_READ, ("4 (__MACOSX, a/.ipynb_checkpoints, b/.DS_Store, b/Thumbs.db)",)),
    ),
    "files beside classes": (
        AB | {f"{letter}.txt": b"x" for letter in "cdefghi"},
        Reads(*AB_READ, ("files beside the class folders: 7 (c.txt, d.txt, e.txt, f.txt, g.txt and 2 more)",)),
    ),
    "other classes in test": (
        {"train/a": 2, "train/b": 2, "test/a": 1, "test/c": 1},
        Refused(("only in train/: b", "only in test/: c")),
    ),
    "one class too few in test": ({"train/a": 2, "train/b": 2, "test/a": 1}, Refused(("only in train/: b",))),
    "case variants in train and test": (
        {"train/Cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1},
        Refused(("differ in case or blanks alone: Cat and cat",)),
    ),
    "case variants in one split": (
        {"Cat": 5, "cat": 5},
        Reads(["Cat", "cat"], [4, 4], [1, 1], ("differ in case or blanks alone: Cat, cat",)),
    ),
    "blanks at the ends": (
        {"train/cat ": 2, "train/ dog": 2, "test/cat": 1, "test/dog": 1},
        Refused(("blanks alone:  dog and dog, cat  and cat",)),
    ),
    "two forms of Unicode in train and test": (
        {f"train/{DECOMPOSED_CAFE}": 4, "train/car": 4, "train/cz": 4, f"test/{CAFE}": 2, "test/car": 3, "test/cz": 1},
        Reads([DECOMPOSED_CAFE, "car", "cz"], [4, 4, 4], [2, 3, 1]),
    ),
    "two forms of Unicode in one split": ({CAFE: 2, DECOMPOSED_CAFE: 2}, Refused((r"caf\xe9", r"cafe\u0301", "one"))),
    "names that are no UTF-8": (
        {BYTES: 5, "b": 5},
        Reads(["b", r"\xff\xfe"], [4, 4], [1, 1]),
    ),
    "a name that is no UTF-8 and one that reads so": ({BYTES: 2, r"\xff\xfe": 2}, Refused(("same name in two forms",))),
    "names with blanks, signs and emoji": (
        {"a cat": 5, "-rf": 5, "🦉": 5, "$(x)": 5},
        Reads(["$(x)", "-rf", "a cat", "🦉"], [4] * 4, [1] * 4),
    ),
    "names with control characters": (
        {"\x1b[2Jgone": 5, "line\nbreak": 5},
        Reads(["\x1b[2Jgone", "line\nbreak"], [4, 4], [1, 1]),
    ),
    "control characters in a message": (
        {"train/\x1b[2J": 1, "train/b": 1, "test/a\n": 1, "test/b": 1},
        Refused((r"\x1b[2J", r"a\n")),
    ),
    "a very long name": ({LONG: 5, "b": 5}, Reads(["b", LONG], [4, 4], [1, 1])),
    "numbers as names": ({"1": 5, "2": 5, "10": 5}, Reads(["1", "10", "2"], [4] * 3, [1] * 3)),
    # ---- how many images ----
    "one image in a class": (
        {"a": 1, "b": 1, "c": 9},
        Reads(["a", "b", "c"], [1, 1, 8], [0, 0, 1], ("none of the one image of a, b",)),
    ),
    "one image in each class": ({str(k): 1 for k in range(10)}, Refused(("no images for the test split",))),
    "two images in each of ten classes": (
        {str(k): 2 for k in range(10)},
        Reads(list("0123456789"), [1] * 10, [1] * 10),
    ),
    "four images in two classes": ({"a": 2, "b": 2}, Reads(["a", "b"], [1, 1], [1, 1])),
    "1 to 100": (
        {"train/a": 1, "train/b": 100, "test/a": 1, "test/b": 1},
        Reads(["a", "b"], [1, 100], [1, 1]),
    ),
    "a limit below the number of classes": (
        split("train", "test", "abcdefgh"),
        Reads(
            list("abcdefgh"),
            [1] * 3 + [0] * 5,
            [1] * 3 + [0] * 5,
            ("took 3 of 32 images, of 3 of the 8 classes: there is none of d, e, f, g, h", "took 3 of 16"),
            {"limit": 3},
        ),
    ),
    "a limit that the classes do not fill": (
        {"train/a": 1, "train/b": 100, "test/a": 1, "test/b": 1},
        Reads(["a", "b"], [1, 49], [1, 1], ("took 50 of 101 images, as equal", "1 to 49 of each"), {"limit": 50}),
    ),
    "a limit that they fill": (
        split("train", "test"),
        Reads(["a", "b"], [3, 2], [2, 2], ("took 5 of 8 images, balanced",), {"limit": 5}),
    ),
    "the same image in train and test": (
        split("train", "test") | {"train/a/x.png": coded(pixels(seed=99)), "test/b/y.png": coded(pixels(seed=99))},
        Reads(["a", "b"], [5, 4], [2, 3], ("1 test image of 5 are training images too, byte for byte: test/b/y.png",)),
    ),
    # ---- kinds of files ----
    "endings": (
        AB
        | {"a/0.JPEG": coded(pixels(seed=1), "JPEG"), "a/0.bmp": coded(pixels(seed=2), "BMP"), "a/00": coded(pixels())},
        Reads(["a", "b"], [8, 5], [1, 1]),
    ),
    "a GIF that is called jpg": (AB | {"a/x.jpg": b"GIF89a12"}, Refused(("1 of 11 files", "a/x.jpg: a GIF image"))),
    "a WebP that is called png": (AB | {"a/x.png": coded(pixels(), "WEBP")}, Refused(("a/x.png: a WebP image",))),
    "a page that is called jpg": (AB | {"a/x.jpg": b"<html>"}, Refused(("a/x.jpg: HTML",))),
    "an empty file": (AB | {"a/x.jpg": b""}, Refused(("a/x.jpg: empty file",))),
    "a text among the images": (
        AB | {"a/labels.txt": b"cat"},
        Refused(("a/labels.txt: something else", "`skip_bad_images`")),
    ),
    "half an image": (
        AB | {"a/x.jpg": coded(pixels((64, 64)), "JPEG")[:900]},
        Refused(("a/x.jpg", "truncated"), {"image_size": 8}),
    ),
    "bad images that are skipped": (
        AB | {"a/000.jpg": b"", "b/000.jpg": b"<html>"},
        Reads(["a", "b"], [5, 5], [1, 1], ("skipped 2 files",), {"skip_bad_images": True}),
    ),
    "a header of 60,000 x 60,000": (AB | {"a/00.png": header(60_000, 60_000)}, Refused(("cap of 64,000,000",))),
    "16 bits": (
        AB | {"a/00.png": coded(Image.fromarray(np.full((8, 8), 300, np.uint16)))},
        Reads(["a", "b"], [6, 5], [1, 1], ("converted 1 16-bit grayscale image to RGB",)),
    ),
    "CMYK": (
        AB | {"a/00.jpg": coded(pixels(mode="CMYK"), "JPEG")},
        Reads(["a", "b"], [6, 5], [1, 1], ("converted 1 CMYK image",)),
    ),
    "a palette with transparency": (
        AB | {"a/00.png": coded(pixels().convert("P"), transparency=b"\0\1")},
        Reads(["a", "b"], [6, 5], [1, 1], ("converted 1 palette image",)),
    ),
    "grayscale among colours": (
        AB | {"a/00.png": coded(pixels(mode="L"))},
        Reads(["a", "b"], [6, 5], [1, 1], ("converted 1 grayscale image",)),
    ),
    "transparency": (
        AB | {"a/00.png": coded(pixels(mode="RGBA"))},
        Reads(["a", "b"], [6, 5], [1, 1], ("converted 1 transparent image",)),
    ),
    "an animated PNG": (
        AB | {"a/00.png": coded(pixels(), save_all=True, append_images=[pixels(seed=1)])},
        Reads(["a", "b"], [6, 5], [1, 1]),
    ),
    "turned photographs": (
        AB | {"a/00.jpg": turned(6), "b/00.jpg": turned(3), "b/000.png": turned(8, kind="PNG")},
        Reads(["a", "b"], [6, 7], [1, 1], ("turned 3 images upright, as EXIF says",)),
    ),
    "EXIF without sense": (
        AB | {"a/00.jpg": turned(77), "b/00.jpg": coded(pixels(), "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 40)},
        Reads(["a", "b"], [6, 6], [1, 1]),
    ),
    "EXIF behind the pixels of a PNG": (AB | {"a/00.png": late_exif}, Reads(["a", "b"], [6, 5], [1, 1])),
    # ---- links and special files ----
    "a pipe": (AB | {"a/x.jpg": os.mkfifo}, Reads(*AB_READ, ("pipes, devices and broken links: 1 (a/x.jpg)",))),
    "a pipe as a class": (AB | {"c": os.mkfifo}, Reads(*AB_READ, ("files beside the class folders: 1 (c)",))),
    "a broken link": (AB | {"a/x.jpg": link("nothing")}, Reads(*AB_READ, ("broken links: 1 (a/x.jpg)",))),
    "a loop of links": (AB | {"a/x": link("..")}, Reads(*AB_READ, ("links that form a loop: 1 (a/x)",))),
    "a link out of the folder": (
        AB | {"a/x": link("/")},
        Reads(*AB_READ, ("lead out of the folder (`follow_symlinks` follows them): 1 (a/x)",)),
    ),
    "a link in the folder": (AB | {"a/00.png": link("1.png")}, Reads(["a", "b"], [6, 5], [1, 1])),
    "a hard link in train and test": (
        {"a": 6, "b": 6, "a/00.png": hard_link},
        Reads(["a", "b"], [6, 5], [1, 1]),
    ),
    # ---- sizes ----
    "sizes mixed": (
        AB | {"a/00.png": coded(pixels((9, 8)))},
        Refused(("2 different sizes", "8 x 8 (10), 9 x 8 (1)", "`image_size`")),
    ),
    "sizes mixed, resized": (
        AB | {"a/00.png": coded(pixels((9, 8)))},
        Reads(["a", "b"], [6, 5], [1, 1], ("resized 1 image to 8 x 8",), {"image_size": 8}),
    ),
    "sizes that differ in test": (
        {"train/a": 2, "train/b": 2} | {f"test/{name}/0.png": coded(pixels((9, 9))) for name in "ab"},
        Refused(("train and test differ in size", "`image_size`")),
    ),
    "very narrow images": (
        AB | {"a/00.png": coded(pixels((1, 4000)))},
        Reads(["a", "b"], [6, 5], [1, 1], ("resized 1 image",), {"image_size": 8}),
    ),
    "images so narrow that resizing bursts": (
        AB | {"a/00.png": coded(pixels((1, 60_000)))},
        Refused(("a/00.png", "before the crop", "cap of 64,000,000"), {"image_size": 224, "resize_size": 256}),
    ),
    "one pixel": (
        AB | {"a/00.png": coded(pixels((1, 1)))},
        Reads(["a", "b"], [6, 5], [1, 1], ("resized 1 image",), {"image_size": 8}),
    ),
}


def loaded(root, options):
    return [load(f"folder:{root}", split, **options) for split in ("train", "test")]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", ROWS)
def test_folder(tmp_path, name):
    tree, expected = ROWS[name]
    root = plant(tmp_path / "data", tree)
    if isinstance(expected, Refused):
        with pytest.raises(DataError) as caught:
            loaded(root, expected.options)
        message = str(caught.value)
        assert caught.value.exit_code == 4 and not [word for word in expected.words if word not in message], message
        assert message.isprintable() or all(line.isprintable() for line in message.split("\n"))
        return
    train, test = loaded(root, expected.options)
    assert train.class_names == test.class_names == tuple(expected.classes)
    found = [np.bincount(part.labels, minlength=len(expected.classes)).tolist() for part in (train, test)]
    assert found == [expected.train, expected.test]
    notes = [note for note in (*train.notes, *test.notes) if CUT not in note or "but none" in note]
    wanted = [part for part in expected.notes if part != CUT]
    assert all(any(part in note for note in notes) for part in wanted), notes
    assert all(any(part in note for part in wanted) for note in notes), notes
    json.dumps([train.class_names, train.notes, train.skipped_files], ensure_ascii=False).encode()


def test_the_battery_is_large():
    assert len({repr(tree) for tree, _ in ROWS.values()}) >= 40


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_what_may_not_be_read_is_told(tmp_path):
    plant(tmp_path, AB)
    (tmp_path / "a" / "0.png").chmod(0)
    with pytest.raises(DataError, match=r"a/0.png: .*Permission denied"):
        loaded(tmp_path, {})
    (tmp_path / "a").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        loaded(tmp_path, {})
    (tmp_path / "a").chmod(0o700)


# ---- names of splits ----


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("train", "train Train TRAINING training_set Train-Data trainset train2017 1_train trn tr train_images"),
        ("test", "test Testing TEST-SET tst te holdout held_out Hold-Out eval Evaluation test1"),
        ("validation", "val Valid VALIDATION validation_set dev val2017 development"),
        (None, "cat trains tests attest tést trainer 1 set data images devil value training_camp contest"),
    ],
)
def test_names_of_splits(kind, written):
    assert {name: split_of(name) for name in written.split()} == dict.fromkeys(written.split(), kind)


# ---- by the command line ----

REFUSED = ("two of train", "splits that hold images", "splits in a folder", "classes beside splits")
REFUSED += ("two forms of Unicode in one split", "case variants in train and test", "control characters in a message")


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_folder_leaves_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    tree, expected = ROWS[name]
    plant(tmp_path / "data", tree)
    result = sharpkeras(*SEARCH, "--dataset", "folder:data", "--out", "new")
    assert result.code == 4 and result.out == "" and "Traceback" not in result.err
    assert not [word for word in expected.words if word not in result.err], result.err
    assert not [path for path in Path("new").rglob("*") if path.name != "lock"]


SMALL = ["--batch-size", "4", "--init-channels", "2", "--num-cells", "2", "--epochs", "1"]


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    """A search and a training on a folder whose own name and those of its classes are as bad as can be."""
    place = tmp_path_factory.mktemp("hostile")
    classes = (BYTES, "\x1b[31mred\n", "b")
    folder = place / os.fsdecode(b"d\xe9ta")
    plant(folder, {f"{part}/{name}": 4 for part in ("Training", "Testing") for name in classes})
    plant(place / "others", {f"{part}/{name}": 2 for part in ("train", "test") for name in classes})
    for path in (place / "others").rglob("*.png"):
        path.write_bytes(coded(pixels((10, 12), seed=len(str(path)))))
    spec = f"folder:{folder}"
    space = ["--num-nodes", "1", "--space", "skip_connect,sep_conv_3x3"]
    words = ["--dataset", spec, *SMALL]
    searched = sharpkeras("search", *words, *space, "--out", place / "search")
    assert searched.code == 0, searched.err
    trained = sharpkeras("train", place / "search", *words, "--warmup-epochs", "0", "--out", place / "train")
    assert trained.code == 0, trained.err
    return place, spec


def test_names_of_any_bytes_go_through_all_files(hostile_run):
    place, spec = hostile_run
    for path in [*place.glob("search/*.json"), *place.glob("train/*.json"), *place.glob("*/log.txt")]:
        path.read_bytes().decode()  # UTF-8 with whatever is in it
    facts = json.loads((place / "train" / "data.json").read_text())
    assert facts["class_names"] == ["\x1b[31mred\n", "b", r"\xff\xfe"] and facts["images"] == 12
    assert json.loads((place / "train" / "recipe.json").read_text())["settings"]["dataset"] == spec
    words = ["--dataset", spec, *SMALL, "--warmup-epochs", "0", "--out", place / "train"]
    again = sharpkeras("train", place / "search", *words)
    assert again.code == 0 and "already complete" in again.err


def test_names_of_any_bytes_are_evaluated_and_exported(hostile_run):
    place, spec = hostile_run
    report = sharpkeras("evaluate", place / "train", "--json")
    assert report.code == 0 and report.json["n"] == 12 and report.json["dataset"] == spec, report.err
    exported = sharpkeras("export", place / "train", "--out", place / "model.onnx")
    assert exported.code == 0, exported.err
    assert json.loads((place / "model.json").read_text())["classes"][2] == r"\xff\xfe"
    told = sharpkeras("evaluate", place / "train", "--data", f"{spec}/.")  # another spec, whose name goes into a file's
    assert told.code == 0, told.err


def test_images_of_other_sizes_are_evaluated_in_the_size_of_the_training(hostile_run):
    place, _ = hostile_run
    result = sharpkeras("evaluate", place / "train", "--data", f"folder:{place / 'others'}", "--json")
    assert result.code == 0 and result.json["n"] == 6, result.err
    assert "note: resized 6 images to 8 x 8" in result.err and "--image-size" not in result.err
    assert "resized 6 images to 8 x 8" in result.json["notes"]
