"""Class folders: layouts, and files that are not what they should be (rows 44 to 51 of docs/bad_input.md)."""

import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from sharpkeras.data import load
from sharpkeras.data.folder import NO_TEST_FOLDER
from sharpkeras.data.folder_layout import LAYOUT
from sharpkeras.data.transforms import random_resized_crop
from sharpkeras.errors import DataError, ResourceError


def save(path, value=100, size=(4, 4), mode="RGB", **options):
    """One image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    color = value if mode in ("1", "L", "P", "I;16") else (value,) * len(Image.new(mode, (1, 1)).getbands())
    Image.new(mode, size, color).save(path, **options)


def make(root, counts, suffix=".png"):
    """Class folders with `counts[name]` images each, of rising brightness."""
    value = 0
    for name, count in counts.items():
        for k in range(count):
            save(root / name / f"{k:03}{suffix}", value % 256)
            value += 1
    return root


def read(root, split="train", **options):
    return load(f"folder:{root}", split, **options)


def values(dataset):
    return dataset.images[:, 0, 0, 0].tolist()


def noted(dataset):
    """Its notes, but for the one that all folders of these tests without a test folder have."""
    return tuple(note for note in dataset.notes if not note.startswith(NO_TEST_FOLDER))


@pytest.fixture
def two_classes(tmp_path):
    return make(tmp_path / "data", {"cat": 5, "dog": 5})


# ---- layouts


def test_a_split_by_index_is_noted(tmp_path):
    for offset, split in enumerate(("one/train", "two/train", "two/test")):
        for name in ("a", "b"):
            for number in range(6):
                path = tmp_path / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4), (number, offset, ord(name))).save(path)
    assert NO_TEST_FOLDER in load(f"folder:{tmp_path / 'one'}", "test").notes
    assert load(f"folder:{tmp_path / 'two'}", "test").notes == ()


@pytest.mark.parametrize("held_out", ["test", "validation", "val"])
def test_train_and_held_out_folders(tmp_path, held_out):
    make(tmp_path / "train", {"b": 3, "a": 2})
    make(tmp_path / held_out, {"a": 1, "b": 1})
    train, test = read(tmp_path), read(tmp_path, "test")
    assert train.class_names == ("a", "b") and train.labels.tolist() == [0, 0, 1, 1, 1]
    assert values(train) == [3, 4, 0, 1, 2] and values(test) == [0, 1]
    assert train.images.shape == (5, 4, 4, 3) and train.labels.dtype == np.int64
    assert train.flip and train.name == f"folder:{tmp_path}"


@pytest.mark.parametrize("below", ["", "train"])
def test_every_fifth_of_a_class_is_held_out(tmp_path, below):
    make(tmp_path / below, {"a": 6, "b": 6})
    assert values(read(tmp_path)) == [0, 1, 2, 3, 5, 6, 7, 8, 9, 11]
    assert values(read(tmp_path, "test")) == [4, 10]


@pytest.mark.parametrize("number, held_out", [(1, []), (2, [1]), (3, [2]), (4, [3]), (5, [4]), (9, [4]), (10, [4, 9])])
def test_what_is_held_out_of_a_class_depends_on_no_other_class(tmp_path, number, held_out):
    make(tmp_path, {"a": number, "b": 7, "c": number})
    train, test = read(tmp_path), read(tmp_path, "test")
    assert [int(value) for value in values(test) if value < number] == held_out
    assert np.bincount(test.labels).tolist() == ([len(held_out), 1, len(held_out)] if held_out else [0, 1])
    assert sorted(values(train) + values(test)) == list(range(2 * number + 7))


def test_equal_multiples_of_five_are_cut_as_they_were_before_it_was_by_class(tmp_path):
    make(tmp_path, {"a": 10, "b": 5, "c": 15})
    assert values(read(tmp_path, "test")) == list(range(4, 30, 5))


def test_statistics_are_those_of_the_training_split(tmp_path):
    make(tmp_path, {"a": 6, "b": 6})
    train = read(tmp_path)
    np.testing.assert_allclose(train.mean, [np.mean(values(train)) / 255] * 3)
    np.testing.assert_allclose(train.std, [np.std(values(train)) / 255] * 3)
    assert read(tmp_path, "test").mean == train.mean
    assert read(tmp_path, "test", statistics=((0.5,), (0.2,))).images.shape == (2, 4, 4, 1)


def test_only_the_asked_split_is_read(tmp_path):
    make(tmp_path / "train", {"a": 2, "b": 2})
    make(tmp_path / "test", {"a": 1, "b": 1})
    (tmp_path / "test" / "a" / "000.png").write_bytes(b"broken")
    assert len(read(tmp_path).images) == 4
    with pytest.raises(DataError):
        read(tmp_path, "test")


def test_limit_reads_only_what_it_takes(two_classes):
    (two_classes / "cat" / "003.png").write_bytes(b"broken")
    train = read(two_classes, limit=4)
    assert np.bincount(train.labels).tolist() == [2, 2] and values(train) == [0, 1, 5, 6]


def test_images_in_deeper_folders_belong_to_the_class(two_classes):
    save(two_classes / "cat" / "more" / "even" / "x.png", 200)
    assert 200 in values(read(two_classes))


def test_size_is_the_short_side_and_the_centre(tmp_path):
    for k in range(3):  # of which one is held out
        save(tmp_path / "a" / f"{k}.png", 10, size=(6, 6))
    striped = np.zeros((4, 8, 3), np.uint8)
    striped[:, 2:6] = 255
    (tmp_path / "b").mkdir()
    Image.fromarray(striped).save(tmp_path / "b" / "0.png")
    assert (read(tmp_path, image_size=4).images[-1] == 255).all()
    assert read(tmp_path, image_size=2).images.shape == (3, 2, 2, 3)
    assert noted(read(tmp_path, image_size=6)) == ("resized 1 image to 6 x 6",)
    wide = read(tmp_path, image_size=2, resize_size=4).images[-1]  # cut from the middle of 4 x 8
    assert wide.shape == (2, 2, 3) and (wide == 255).all()
    with pytest.raises(DataError, match="2 different sizes") as caught:
        read(tmp_path)
    assert "6 x 6 (2), 4 x 8 (1)" in str(caught.value) and "`image_size`" in str(caught.value)


def test_test_images_of_another_size(tmp_path):
    make(tmp_path / "train", {"a": 2, "b": 2})
    save(tmp_path / "test" / "a" / "0.png", size=(5, 5))
    save(tmp_path / "test" / "b" / "0.png", size=(5, 5))
    with pytest.raises(DataError, match="`image_size`"):
        read(tmp_path, "test")


# ---- folders that do not fit (rows 44 to 46)


@pytest.mark.parametrize("content", [[], ["x.jpg"], [".git/x"]])
@pytest.mark.parametrize("below", ["", "train"])
def test_no_class_folders_draws_the_layout(tmp_path, below, content):
    (tmp_path / below).mkdir(exist_ok=True)
    for name in content:
        (tmp_path / below / name).parent.mkdir(exist_ok=True)
        (tmp_path / below / name).write_bytes(b"x")
    with pytest.raises(DataError, match="no class folders") as caught:
        read(tmp_path)
    assert LAYOUT in str(caught.value)


def test_missing_folder_and_file_for_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for name in ("missing", "file"):
        with pytest.raises(DataError, match="no such folder") as caught:
            read(tmp_path / name)
        assert caught.value.next_step == LAYOUT and "`dataset=folder:PATH`" in LAYOUT
        assert caught.value.seen is None


def test_a_relative_path_is_one_from_the_working_directory(tmp_path, monkeypatch):
    """`train RUN` reads the folder of its search, which may have been typed elsewhere."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no such folder") as caught:
        read("missing")
    assert caught.value.seen == f"no folder of that name in {tmp_path}"


def test_held_out_without_train(tmp_path):
    make(tmp_path / "test", {"a": 2, "b": 2})
    with pytest.raises(DataError, match="test/ without train/"):
        read(tmp_path)


def test_empty_class(two_classes):
    (two_classes / "bird").mkdir()
    (two_classes / "bird" / ".hidden.png").write_bytes(b"x")
    with pytest.raises(DataError, match="no images in 1 class folder: bird"):
        read(two_classes)


def test_hidden_and_system_files_are_ignored(two_classes):
    save(two_classes / ".ipynb_checkpoints" / "x.png")
    (two_classes / "cat" / "Thumbs.db").write_bytes(b"x")
    (two_classes / "README.txt").write_bytes(b"x")
    train = read(two_classes)
    assert train.class_names == ("cat", "dog") and len(train.images) == 8
    assert noted(train) == (
        "ignored files beside the class folders: 1 (README.txt)",
        "ignored hidden and system files: 2 (.ipynb_checkpoints, cat/Thumbs.db)",
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_class_names_differ(tmp_path, split):
    make(tmp_path / "train", {"a": 1, "b": 1, "\x1b[31mred": 1})
    make(tmp_path / "test", {"a": 1, "c": 1})
    with pytest.raises(DataError) as caught:
        read(tmp_path, split)
    message = str(caught.value)
    assert "only in train/: \\x1b[31mred, b" in message and "only in test/: c" in message and "\x1b" not in message


def test_too_few_for_a_test_split(tmp_path):
    make(tmp_path, {"a": 1, "b": 1})
    assert read(tmp_path).notes == (f"{NO_TEST_FOLDER}, but none of the one image of a, b",)
    with pytest.raises(DataError, match="no images for the test split"):
        read(tmp_path, "test")


# ---- files that are no images (rows 47 and 48)


def png(width, height, bit_depth, rows):
    """An RGB PNG file, whatever its rows hold."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bit_depth, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def with_test_folder(root, counts):
    make(root / "test", dict.fromkeys(counts, 1))
    return make(root / "train", counts)


def write_broken(folder):
    """One file of each kind that row 47 names; returns name → what the message has to say."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(folder / "truncated.jpg")
    whole = (folder / "truncated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "page.jpg").write_bytes(b"\n<!DOCTYPE html><title>404</title>")
    (folder / "empty.jpg").write_bytes(b"")
    noise.save(folder / "gif.jpg", format="GIF")
    noise.save(folder / "webp.png", format="WEBP")
    (folder / "bomb.png").write_bytes(png(60_000, 60_000, 8, b""))
    (folder / "large.png").write_bytes(png(9_000, 8_000, 8, b""))
    return {
        "truncated.jpg": "truncated",
        "page.jpg": "HTML",
        "empty.jpg": "empty file",
        "gif.jpg": "a GIF image",
        "webp.png": "a WebP image",
        "bomb.png": "cap of 64,000,000",
        "large.png": "9000 x 8000 pixels, more than the cap of 64,000,000",
    }


def test_all_broken_files_are_named_at_once(tmp_path):
    with_test_folder(tmp_path, {"cat": 3, "dog": 3})
    expected = write_broken(tmp_path / "train" / "dog")
    with pytest.raises(DataError, match="7 of 13 files cannot be read") as caught:
        read(tmp_path)
    lines = str(caught.value).splitlines()
    for name, problem in expected.items():
        assert any(f"train/dog/{name}: " in line and problem in line for line in lines), name
    assert "`skip_bad_images`" in lines[-1]


def test_broken_files_can_be_skipped(tmp_path):
    with_test_folder(tmp_path, {"cat": 3, "dog": 3})
    expected = write_broken(tmp_path / "train" / "dog")
    train = read(tmp_path, skip_bad_images=True)
    assert values(train) == [0, 1, 2, 3, 4, 5] and train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert "skipped 7 files that could not be read" in train.notes
    assert sorted(train.skipped_files) == sorted(f"train/dog/{name}" for name in expected)


def test_the_first_file_may_be_broken(two_classes):
    (two_classes / "cat" / "000.png").write_bytes(png(7, 7, 8, b""))
    assert values(read(two_classes, skip_bad_images=True)) == [1, 2, 3, 5, 6, 7, 8]


def test_twenty_broken_files_are_named(tmp_path):
    with_test_folder(tmp_path, {"cat": 3, "dog": 3})
    for k in range(25):
        (tmp_path / "train" / "cat" / f"bad{k:02}.jpg").write_bytes(b"text")
    with pytest.raises(DataError, match="25 of 31") as caught:
        read(tmp_path)
    assert str(caught.value).count("bad") == 20 + 1 and "and 5 more" in str(caught.value)  # skip_bad_images


def test_skipping_may_not_empty_a_class(tmp_path):
    with_test_folder(tmp_path, {"cat": 3, "dog": 1})
    (tmp_path / "train" / "dog" / "000.png").write_bytes(b"text")
    with pytest.raises(DataError, match="no images in 1 class folder: dog"):
        read(tmp_path, skip_bad_images=True)


def test_all_files_broken(tmp_path):
    for path in with_test_folder(tmp_path, {"a": 1, "b": 1}).glob("*/*"):
        path.write_bytes(b"text")
    with pytest.raises(DataError, match="2 of 2 files cannot be read") as caught:
        read(tmp_path, skip_bad_images=True)
    assert "`skip_bad_images`" not in str(caught.value)


def test_content_decides_and_not_the_extension(tmp_path):
    save(tmp_path / "a" / "jpeg.png", format="JPEG")
    save(tmp_path / "a" / "bmp", format="BMP")
    save(tmp_path / "b" / "png.gif.txt", format="PNG")
    assert values(read(tmp_path)) == values(read(tmp_path, "test")) * 2 == [100, 100]


def test_images_that_do_not_fit_into_memory(two_classes, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 10)
    with pytest.raises(ResourceError, match="8 images of 4 x 4 pixels"):
        read(two_classes)


# ---- kinds of pixels (row 49)


def test_conversions_are_defined_and_counted(tmp_path):
    with_test_folder(tmp_path, {"a": 1, "b": 1})
    save(tmp_path / "train" / "a" / "000.png", 100)
    save(tmp_path / "train" / "a" / "1.png", 101, mode="L")
    save(tmp_path / "train" / "a" / "2.png", 102 * 256 + 7, mode="I;16")
    save(tmp_path / "train" / "a" / "3.png", 1, mode="1")
    save(tmp_path / "train" / "b" / "000.png", 103, mode="RGBA")
    save(tmp_path / "train" / "b" / "1.png", 104, mode="LA")
    save(tmp_path / "train" / "b" / "2.jpg", 255, mode="CMYK")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 105, 105, 105])
    palette.save(tmp_path / "train" / "b" / "3.png", transparency=b"\0\1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train = read(tmp_path)
    assert values(train) == [100, 101, 102, 255, 103, 104, 0, 105]
    assert train.images.shape[-1] == 3 and train.images.strides[-1] == 1
    kinds = ["16-bit grayscale", "CMYK", "bilevel", "grayscale", "palette", "transparent grayscale", "transparent"]
    assert sorted(train.notes) == sorted(f"converted 1 {kind} image to RGB" for kind in kinds)


def test_16_bit_rgb_is_counted(tmp_path):
    rows = b"".join(b"\0" + struct.pack(">HHH", 50 * 256 + 9, 60 * 256, 70 * 256) * 4 for _ in range(4))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(png(4, 4, 16, rows))
    train = read(tmp_path)
    assert train.images[0, 0, 0].tolist() == [50, 60, 70]
    assert noted(train) == ("converted 2 16-bit RGB images to RGB",)


def test_only_grayscale_has_one_channel_unless_asked(tmp_path):
    for k, name in enumerate("ab"):
        save(tmp_path / name / "0.png", 10 * (k + 1), mode="L")
    gray = read(tmp_path)
    assert gray.images.shape == (2, 4, 4, 1) and gray.images.flags["C_CONTIGUOUS"] and noted(gray) == ()
    assert len(gray.mean) == 1
    color = read(tmp_path, channels=3)
    assert color.images.shape[-1] == 3 and noted(color) == ("converted 2 grayscale images to RGB",)


def test_the_test_split_has_the_channels_of_the_training_split(tmp_path):
    for name in "ab":
        save(tmp_path / "train" / name / "0.png", 10)
        save(tmp_path / "test" / name / "0.png", 20, mode="L")
    assert read(tmp_path, "test").images.shape == (2, 4, 4, 3)


def test_color_can_become_grayscale(two_classes):
    train = read(two_classes, channels=1)
    assert train.images.shape == (8, 4, 4, 1) and noted(train) == ("converted 8 RGB images to grayscale",)


# ---- EXIF orientation

# What the number says: where the first row and the first column of the file lie in the upright image.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


def save_turned(path, orientation, size=(6, 9), big_endian=False, seed=0, **options):
    """A photograph with an EXIF orientation; returns its pixels as they lie in the file."""
    stored = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    exif = Image.Exif()
    exif.endian = ">" if big_endian else "<"
    exif[0x010F], exif[0x0112] = "maker", orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stored).save(path, exif=exif.tobytes(), **options)
    return stored


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photographs_come_upright(tmp_path, orientation, big_endian, on_disk):
    stored = [
        save_turned(tmp_path / name / "0.png", orientation, big_endian=big_endian, seed=seed)
        for seed, name in enumerate("ab")
    ]
    train = read(tmp_path, on_disk=on_disk)
    np.testing.assert_array_equal(train.images[:], [UPRIGHT[orientation](pixels) for pixels in stored])
    turned = () if orientation == 1 else ("turned 2 images upright, as EXIF says",)
    assert noted(train) == turned
    with Image.open(tmp_path / "a" / "0.png") as image:  # Pillow's own way says the same
        np.testing.assert_array_equal(train.images[0], ImageOps.exif_transpose(image))


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_turned_photograph_is_resized_and_cropped_upright(tmp_path, on_disk):
    for name in "ab":
        save_turned(tmp_path / name / "0.jpg", 6, size=(20, 50))
    with Image.open(tmp_path / "a" / "0.jpg") as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    train = read(tmp_path, image_size=8, resize_size=10, on_disk=on_disk)
    np.testing.assert_array_equal(train.images[0], upright.resize((10, 25), 2).crop((1, 8, 9, 16)))
    if on_disk:
        crop = train.images.random_crops([0], [np.random.default_rng(3)])[0]
        np.testing.assert_array_equal(crop, random_resized_crop(upright, (8, 8), np.random.default_rng(3)))


def test_only_what_is_turned_has_another_fingerprint(tmp_path):
    stored = save_turned(tmp_path / "data" / "a" / "0.png", 1)
    save_turned(tmp_path / "data" / "b" / "0.png", 1, seed=1)
    spec = f"folder:{tmp_path / 'data'}"
    before = {on_disk: load(spec, "train", on_disk=on_disk).fingerprint for on_disk in (False, True)}
    size = (tmp_path / "data" / "a" / "0.png").stat().st_size
    save_turned(tmp_path / "data" / "a" / "0.png", 3)
    assert (tmp_path / "data" / "a" / "0.png").stat().st_size == size and stored.shape == (6, 9, 3)
    for on_disk, fingerprint in before.items():
        assert load(spec, "train", on_disk=on_disk).fingerprint != fingerprint


def test_imagenet_lies_as_it_is_stored(tmp_path):
    stored = [save_turned(tmp_path / split / "n01" / "0.png", 3, size=(8, 8)) for split in ("train", "val")]
    save_turned(tmp_path / "train" / "n02" / "0.png", 1, size=(8, 8))
    save_turned(tmp_path / "val" / "n02" / "0.png", 1, size=(8, 8))
    train = load(f"imagenet:{tmp_path}", "train", image_size=8, resize_size=8)
    np.testing.assert_array_equal(train.images[0], stored[0])
    assert "left 1 image as stored, though EXIF says that they are turned: the paper's way" in train.notes


# ---- links and special files (row 50), names (row 51)


def test_pipes_are_not_opened(two_classes):
    os.mkfifo(two_classes / "cat" / "pipe.jpg")
    (two_classes / "dog" / "dangling.jpg").symlink_to(two_classes / "nothing")
    train = read(two_classes)
    assert len(train.images) == 8 and noted(train) == (
        "ignored pipes, devices and broken links: 2 (cat/pipe.jpg, dog/dangling.jpg)",
    )


def test_links_out_of_the_folder(two_classes, tmp_path):
    save(tmp_path / "secret" / "x.png", 222)
    (two_classes / "cat" / "link.png").symlink_to(tmp_path / "secret" / "x.png")
    (two_classes / "dog" / "folder").symlink_to(tmp_path / "secret")
    (two_classes / "dog" / "inside.png").symlink_to(two_classes / "dog" / "001.png")
    train = read(two_classes)
    assert 222 not in values(train) and values(train).count(6) == 2
    assert "links that lead out of the folder" in train.notes[0]
    assert train.notes[0].endswith(": 2 (cat/link.png, dog/folder)")
    assert values(read(two_classes, follow_symlinks=True)).count(222) == 2


def test_a_folder_of_outward_links_only_says_so(tmp_path):
    make(tmp_path / "elsewhere", {"a": 2, "b": 2})
    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere" / name)
    with pytest.raises(DataError, match="`follow_symlinks`"):
        read(tmp_path / "data")
    assert len(read(tmp_path / "data", follow_symlinks=True).images) == 2


@pytest.mark.parametrize("name", ["train", "test"])
def test_the_folder_of_a_split_may_not_lead_out_either(tmp_path, name):
    with_test_folder(tmp_path / "data", {"a": 2, "b": 2})
    (tmp_path / "data" / name).rename(tmp_path / "elsewhere")
    (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"stand for its splits: {name}") as caught:
        read(tmp_path / "data")
    assert "`follow_symlinks`" in str(caught.value)
    assert len(read(tmp_path / "data", follow_symlinks=True).images) == 4


@pytest.mark.parametrize("follow_symlinks", [False, True])
def test_loops_end(two_classes, follow_symlinks):
    (two_classes / "cat" / "up").symlink_to(two_classes)
    (two_classes / "cat" / "self").symlink_to(two_classes / "cat")
    (two_classes / "dog" / "itself.png").symlink_to(two_classes / "dog" / "itself.png")
    train = read(two_classes, follow_symlinks=follow_symlinks)
    assert len(train.images) == 8
    assert "ignored links that form a loop: 2 (cat/self, cat/up)" in train.notes


def test_the_folder_itself_may_be_a_link(two_classes, tmp_path):
    (tmp_path / "link").symlink_to(two_classes)
    assert len(read(tmp_path / "link").images) == 8


def test_any_class_name_works(tmp_path):
    names = ["\x1b[2Jgone", "line\nbreak", "naïve café", "-rf"]
    make(tmp_path, dict.fromkeys(names, 2))
    os.makedirs(os.fsencode(tmp_path) + b"/\xff\xfe")
    save(tmp_path / os.fsdecode(b"\xff\xfe") / "0.png")
    train = read(tmp_path)
    assert set(train.class_names) == {*names, r"\xff\xfe"} and len(train.fingerprint) == 64
    (tmp_path / names[0] / "00.png").write_bytes(b"text")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert "\x1b" not in str(caught.value) and "\\x1b[2Jgone/00.png" in str(caught.value)
