"""Images that stay on disk: their views, crops by index, what is found broken, and ImageNet in both of its forms."""

import io
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharpkeras.data import batches as streams
from sharpkeras.data import load, transforms
from sharpkeras.data import tfds as tfds_module
from sharpkeras.data.encoded_images import EncodedImages
from sharpkeras.data.prefetch import ahead
from sharpkeras.errors import DataError, ResourceError, RunError, UsageError

BILINEAR = Image.Resampling.BILINEAR
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(40, 30), (30, 41), (33, 33), (90, 20), (16, 55), (16, 16)]


def noise(width, height, seed=0, mode="RGB"):
    bands = {"RGB": 3, "CMYK": 4, "L": 1}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, bands), np.uint8)
    return Image.fromarray(pixels[..., 0] if bands == 1 else pixels, mode)


def write(root, counts, suffix=".png", **options):
    """Class folders of noise in SIZES, or in the sizes given."""
    sizes = options.pop("sizes", SIZES)
    number = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for k in range(count):
            noise(*sizes[number % len(sizes)], seed=number).save(root / name / f"{k:02}{suffix}", **options)
            number += 1
    return root


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train", {"n01": 7, "n02": 6})
    write(tmp_path / "val", {"n01": 2, "n02": 2})
    return tmp_path


def on_disk(folder, split="train", **options):
    return load(f"folder:{folder}", split, **{"on_disk": True, "image_size": 16, **options})


def generators(indices, seed=0, epoch=0):
    return streams.crop_generators(indices, seed, epoch)


# ---- views


def torchvision_evaluation(image, resize_size, image_size):
    """Resize(resize_size), CenterCrop(image_size) as torchvision 0.20 has them for Pillow images."""
    width, height = image.size
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = resize_size, int(resize_size * long / short)
    new_width, new_height = (new_short, new_long) if width <= height else (new_long, new_short)
    image = image.resize((new_width, new_height), BILINEAR)
    top, left = int(round((new_height - image_size) / 2.0)), int(round((new_width - image_size) / 2.0))
    return image.crop((left, top, left + image_size, top + image_size))


def torchvision_box(width, height, generator, scale=(0.08, 1.0), ratio=(3.0 / 4.0, 4.0 / 3.0)):
    """RandomResizedCrop.get_params as torchvision 0.20 has it: (i, j, h, w)."""
    for _ in range(10):
        target_area = height * width * generator.uniform(scale[0], scale[1])
        aspect_ratio = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w = int(round(math.sqrt(target_area * aspect_ratio)))
        h = int(round(math.sqrt(target_area / aspect_ratio)))
        if 0 < w <= width and 0 < h <= height:
            i = generator.integers(0, height - h + 1)
            j = generator.integers(0, width - w + 1)
            return i, j, h, w
    in_ratio = float(width) / float(height)
    if in_ratio < min(ratio):
        w, h = width, int(round(width / min(ratio)))
    elif in_ratio > max(ratio):
        h, w = height, int(round(height * max(ratio)))
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [*SIZES, (256, 341), (500, 375), (17, 16)])
@pytest.mark.parametrize("resize_size, image_size", [(18, 16), (16, 16), (19, 16), (256, 224)])
def test_the_evaluation_view_is_torchvisions(size, resize_size, image_size):
    image = noise(*size)
    found = transforms.fit(image, image_size, resize_size)
    assert found.size == (image_size, image_size)
    np.testing.assert_array_equal(found, torchvision_evaluation(image, resize_size, image_size))


@pytest.mark.parametrize("size", [*SIZES, (500, 375), (375, 500), (200, 10), (10, 200), (1, 9), (9, 1), (1, 1)])
def test_the_training_view_is_torchvisions(size):
    image = noise(*size)
    for seed in range(20):
        i, j, h, w = torchvision_box(*size, np.random.default_rng(seed))
        expected = image.crop((j, i, j + w, i + h)).resize((16, 12), BILINEAR)
        np.testing.assert_array_equal(
            transforms.random_resized_crop(image, (12, 16), np.random.default_rng(seed)), np.asarray(expected)
        )


def test_crops_cover_the_range_of_areas_ratios_and_places():
    width, height = 500, 375
    boxes = np.array([transforms.random_box(width, height, np.random.default_rng(seed)) for seed in range(4000)])
    left, top, right, bottom = boxes.T
    areas = (right - left) * (bottom - top) / (width * height)
    ratios = (right - left) / (bottom - top)
    assert 0.079 < areas.min() < 0.085 and 0.97 < areas.max() <= 1.001
    assert 0.74 < ratios.min() < 0.76 and 1.32 < ratios.max() < 1.34
    assert left.min() == 0 and top.min() == 0 and right.max() == width and bottom.max() == height
    small = areas < 0.3  # never too large for any ratio, so that nothing is drawn again
    assert abs(np.mean(np.log(ratios[small]))) < 0.02 and abs(np.mean(areas[small]) - 0.19) < 0.01


def test_where_no_crop_fits_the_centre_is_taken():
    assert transforms.random_box(200, 10, np.random.default_rng(0)) == (93, 0, 106, 10)
    assert transforms.random_box(9, 300, np.random.default_rng(0)) == (0, 144, 9, 156)


def test_real_photographs():
    source = os.environ.get("SHARPKERAS_IMAGENET_DIR")
    if not source:
        pytest.skip("SHARPKERAS_IMAGENET_DIR is not set")
    train = load(f"folder:{source}", "train", on_disk=True, image_size=224, resize_size=256, limit=24)
    crops = train.images.random_crops(range(24), generators(range(24)))
    for index, path in enumerate(train.images._names):
        with Image.open(Path(source) / path) as image:
            image = image.convert("RGB")
        np.testing.assert_array_equal(train.images[index], torchvision_evaluation(image, 256, 224))
        i, j, h, w = torchvision_box(*image.size, generators([index])[0])
        np.testing.assert_array_equal(crops[index], image.crop((j, i, j + w, i + h)).resize((224, 224), BILINEAR))


# ---- images on disk are like an array


def test_images_on_disk_are_those_in_memory(folder):
    Image.fromarray(np.full((20, 20), 300, np.uint16)).save(folder / "train" / "n01" / "16-bit.png")
    noise(30, 20, mode="CMYK").save(folder / "train" / "n01" / "cmyk.jpg")
    noise(30, 20, mode="L").save(folder / "train" / "n02" / "gray.png")
    noise(30, 20).convert("P").save(folder / "train" / "n02" / "palette.png")
    for settings in ({}, {"resize_size": 19}, {"channels": 1}, {"limit": 5, "resize_size": 18}):
        stays, memory = on_disk(folder, **settings), on_disk(folder, on_disk=False, **settings)
        assert isinstance(stays.images, EncodedImages) and isinstance(memory.images, np.ndarray)
        assert stays.images.shape == memory.images.shape and stays.images.dtype == memory.images.dtype
        np.testing.assert_array_equal(stays.images[:], memory.images)
        np.testing.assert_array_equal(stays.labels, memory.labels)
        assert (stays.notes, stays.class_names) == (memory.notes, memory.class_names)
        assert (stays.mean, stays.std) == (memory.mean, memory.std)


def test_indices(folder):
    images = on_disk(folder).images
    whole = images[:]
    assert len(images) == 13 and whole.shape == images.shape == (13, 16, 16, 3) and whole.dtype == np.uint8
    for key in (slice(2, 9, 3), [4, 4, -1], np.array([0]), np.arange(13) % 2 == 0, np.array([], int), 3, -2):
        np.testing.assert_array_equal(images[key], whole[key])
    with pytest.raises(IndexError):
        images[13]


def test_only_what_is_asked_for_is_decoded():
    opened = []

    def open_image(index):
        opened.append(int(index))
        return noise(20, 20, seed=index)

    images = EncodedImages(
        open_image, list(map(str, range(100))), [0] * 100, (16, 16), 3, lambda x: transforms.fit(x, 16)
    )
    assert images.shape == (100, 16, 16, 3) and opened == []
    assert images[7:9].shape == (2, 16, 16, 3) and sorted(opened) == [7, 8]
    opened.clear()
    batches = streams.batches(images, np.zeros(100), np.arange(100), 4, 0, 0, random_crops=True)
    first = [next(batches)[0] for _ in range(2)]
    batches.close()
    assert first[0].shape == (4, 16, 16, 3) and 8 <= len(opened) <= 16  # two batches, and two ahead
    before = len(opened)
    assert len(set(opened)) == before


@pytest.mark.parametrize("size", [(12, 12), (12, 8)])
def test_images_of_one_size_need_no_size(tmp_path, size):
    write(tmp_path / "train", {"a": 2, "b": 2}, sizes=[size])
    write(tmp_path / "test", {"a": 1, "b": 1}, sizes=[size])
    train = on_disk(tmp_path, image_size=None)
    assert train.images.shape == (4, size[1], size[0], 3)
    np.testing.assert_array_equal(train.images[1], noise(*size, seed=1))
    assert train.images.random_crops([0], generators([0])).shape == (1, size[1], size[0], 3)


def test_images_of_several_sizes_need_one(folder):
    with pytest.raises(DataError, match="6 different sizes"):
        on_disk(folder, image_size=None)


def test_grayscale_stays_grayscale(tmp_path):
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            noise(20, 18, mode="L").save(tmp_path / split / name / "0.png")
    train = on_disk(tmp_path)
    assert train.images.shape == (2, 16, 16, 1) and train.images[:].shape == (2, 16, 16, 1) and len(train.mean) == 1
    assert train.images.random_crops([0, 1], generators([0, 1])).shape == (2, 16, 16, 1)
    assert on_disk(tmp_path, channels=3).images[:].shape == (2, 16, 16, 3)
    assert on_disk(tmp_path, "test", statistics=(IMAGENET[0], IMAGENET[1])).images.shape == (2, 16, 16, 3)


def test_the_fingerprint_sees_names_sizes_labels_and_classes(folder):
    before = on_disk(folder).fingerprint
    assert before == on_disk(folder).fingerprint and len(before) == 64
    assert before != on_disk(folder, image_size=8).fingerprint
    path = folder / "train" / "n01" / "00.png"
    path.write_bytes(path.read_bytes() + b"\0")
    longer = on_disk(folder).fingerprint
    path.rename(path.with_name("00.renamed"))
    renamed = on_disk(folder).fingerprint
    (folder / "train" / "n02").rename(folder / "train" / "n03")
    (folder / "val" / "n02").rename(folder / "val" / "n03")
    assert len({before, longer, renamed, on_disk(folder).fingerprint}) == 4


def test_statistics_of_many_images_are_those_of_some(folder, monkeypatch):
    from sharpkeras.data import dataset as sources
    from sharpkeras.data import datasets

    monkeypatch.setattr(datasets, "MEASURED", 5)
    train = on_disk(folder)
    assert train.notes[-1] == "mean and deviation are those of 5 of the 13 images"
    assert (train.mean, train.std) == sources.measure(train.images[[0, 3, 6, 9, 12]])
    assert on_disk(folder, "test").mean == train.mean


def test_more_images_than_memory(folder, monkeypatch):
    images = on_disk(folder).images
    monkeypatch.setattr(os, "sysconf", lambda name: 60)
    assert images[:2].shape[0] == 2
    with pytest.raises(ResourceError, match="13 images of 16 x 16 pixels"):
        images[:]


def test_options_that_do_not_fit(folder):
    with pytest.raises(UsageError, match="resize_size"):
        on_disk(folder, resize_size=15)
    with pytest.raises(UsageError, match="resize_size"):
        on_disk(folder, image_size=None, resize_size=15)
    with pytest.raises(UsageError, match="images that stay on disk") as caught:
        load("digits", "train", on_disk=True)
    assert "folder:PATH" in caught.value.allowed and "imagenet[:PATH]" in caught.value.allowed
    assert load("digits", "train", image_size=6, resize_size=7, limit=3).images.shape == (3, 6, 6, 1)


# ---- broken files


def test_headers_show_what_is_broken_all_at_once(folder):
    bad = folder / "train" / "n02"
    (bad / "empty.jpg").write_bytes(b"")
    (bad / "page.jpg").write_bytes(b"<html>")
    noise(20, 20).save(bad / "gif.jpg", format="GIF")
    Image.new("1", (9000, 8000)).save(bad / "large.png")
    with pytest.raises(DataError, match="4 of 17 files cannot be read") as caught:
        on_disk(folder)
    message = str(caught.value)
    for line in ("empty.jpg: empty file", "page.jpg: HTML", "gif.jpg: a GIF image", "large.png: 9000 x 8000 pixels"):
        assert f"train/n02/{line}" in message
    train = on_disk(folder, skip_bad_images=True)
    assert len(train.images) == len(train.labels) == 13 and len(train.skipped_files) == 4
    assert "skipped 4 files that could not be read" in train.notes
    np.testing.assert_array_equal(train.images[:], on_disk(folder, skip_bad_images=True, on_disk=False).images)


def test_a_file_that_breaks_off_is_named_when_it_is_decoded(folder):
    path = folder / "train" / "n01" / "cut.jpg"
    noise(60, 60).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:2000])
    train = on_disk(folder, statistics=IMAGENET)
    with pytest.raises(DataError, match="train/n01/cut.jpg: an image cannot be decoded"):
        for _ in streams.batches(train.images, train.labels, np.arange(14), 2, 0, 0, random_crops=True):
            pass


def test_a_file_that_vanished_is_named(folder):
    train = on_disk(folder)
    (folder / "train" / "n01" / "00.png").unlink()
    with pytest.raises(DataError, match="n01/00.png"):
        train.images[0]


# ---- batches


def crops_by_example(images, batch_size=4, indices=None, **options):
    """Index of each example → the bytes of its crop, in one epoch of batches; the labels are the indices."""
    indices = np.arange(len(images)) if indices is None else indices
    settings = {"seed": 1, "epoch": 0, "random_crops": True, "drop_remainder": False, **options}
    found = streams.batches(images, np.arange(len(images)), indices, batch_size, **settings)
    return {int(label): crop.tobytes() for crops, labels, _ in found for crop, label in zip(crops, labels)}


def test_a_crop_is_a_function_of_seed_epoch_and_index(folder):
    images = on_disk(folder).images
    whole = crops_by_example(images)
    assert sorted(whole) == list(range(13)) and len(set(whole.values())) == 13
    assert crops_by_example(images, batch_size=3) == whole
    part = crops_by_example(images, batch_size=2, indices=np.array([11, 2, 5]))
    assert part == {i: whole[i] for i in (11, 2, 5)}
    rest = crops_by_example(images, first_batch=2)
    assert len(rest) == 5 and rest.items() <= whole.items()
    for other in ({"seed": 2}, {"epoch": 1}, {"stream": 1}):
        again = crops_by_example(images, **other)
        assert not again.items() & whole.items(), other
    evaluation = {i: image.tobytes() for i, image in enumerate(images[:])}
    assert crops_by_example(images, random_crops=False) == evaluation


def test_equal_images_have_crops_of_their_own():
    images = EncodedImages(
        lambda index: noise(60, 60), list("abcdef"), [0] * 6, (8, 8), 3, lambda x: transforms.fit(x, 8)
    )
    assert len(set(crops_by_example(images).values())) == 6


def test_images_in_memory_come_as_they_are(folder):
    memory = on_disk(folder, on_disk=False).images
    assert crops_by_example(memory) == {i: image.tobytes() for i, image in enumerate(memory)}


def test_the_endless_stream_crops_and_resumes(folder):
    train = on_disk(folder)
    arguments = (train.images, train.labels, np.arange(13), 4, 3)
    stream = streams.endless(*arguments, random_crops=True)
    whole = [next(stream)[0] for _ in range(7)]  # three batches an epoch
    stream.close()
    assert len({batch.tobytes() for batch in whole}) == 7
    resumed = streams.endless(*arguments, random_crops=True, first_step=5)
    np.testing.assert_array_equal(next(resumed)[0], whole[5])
    resumed.close()


def test_evaluation_batches_of_images_on_disk(folder):
    train = on_disk(folder)
    found = list(streams.evaluation_batches(train.images, train.labels, 5))
    assert [valid for _, _, valid in found] == [5, 5, 3] and all(len(images) == 5 for images, _, _ in found)
    np.testing.assert_array_equal(np.concatenate([images[:valid] for images, _, valid in found]), train.images[:])


def test_prefetching_keeps_the_order_and_ends():
    assert list(ahead(iter(range(10)))) == list(range(10)) and list(ahead(iter([]))) == []


def test_an_exception_in_the_thread_comes_at_its_batch():
    def batches():
        yield 1
        yield 2
        raise ValueError("the third is broken")

    found = ahead(batches())
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError, match="the third is broken"):
        next(found)
    assert list(found) == []


def test_closing_early_ends_the_thread():
    made, threads = [], set()

    def batches():
        for number in range(1000):
            threads.add(threading.current_thread())
            made.append(number)
            yield number

    found = ahead(batches())
    assert next(found) == 0
    time.sleep(0.2)  # in which it could make many more
    assert len(made) <= 3
    found.close()
    assert len(made) <= 3 and threads and not any(thread.is_alive() for thread in threads)


# ---- ImageNet from class folders


def test_imagenet_folders_stay_on_disk_at_224(folder):
    train, test = load(f"imagenet:{folder}", "train"), load(f"imagenet:{folder}", "test")
    assert train.images.shape == (13, 224, 224, 3) and test.images.shape == (4, 224, 224, 3)
    assert isinstance(train.images, EncodedImages) and train.class_names == ("n01", "n02") and train.flip
    assert (train.mean, train.std) == (test.mean, test.std) == IMAGENET
    np.testing.assert_array_equal(test.images[1], torchvision_evaluation(noise(*SIZES[1], seed=1), 256, 224))
    small = load(f"imagenet:{folder}", "test", image_size=14)
    np.testing.assert_array_equal(small.images[1], torchvision_evaluation(noise(*SIZES[1], seed=1), 16, 14))
    assert (small.mean, small.std) == IMAGENET
    memory = load(f"imagenet:{folder}", "test", image_size=14, on_disk=False)
    assert isinstance(memory.images, np.ndarray) and memory.mean == IMAGENET[0]
    np.testing.assert_array_equal(memory.images, small.images[:])


def test_the_unlabelled_test_images_may_lie_beside(folder):
    (folder / "test").mkdir()
    noise(20, 20).save(folder / "test" / "ILSVRC2012_test_00000001.JPEG", format="JPEG")
    assert len(load(f"imagenet:{folder}", "test").images) == 4
    (folder / "val").rename(folder / "validation")
    assert len(load(f"imagenet:{folder}", "test").images) == 4


def test_imagenet_holds_nothing_out_by_index(folder):
    shutil.rmtree(folder / "val")
    for split in ("train", "test"):
        with pytest.raises(DataError, match="no class folders of ImageNet") as caught:
            load(f"imagenet:{folder}", split)
        assert "ILSVRC2012_img_val.tar" in caught.value.next_step and "train" in caught.value.seen


def test_missing_imagenet_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder") as caught:
        load(f"imagenet:{tmp_path / 'nothing'}", "train")
    assert "`dataset=imagenet:DIR`" in caught.value.next_step


# ---- ImageNet by TensorFlow Datasets


def tiny_builder(data_dir, file_format=None):
    """ImageNet's builder with four images to train on and three to validate."""
    import tensorflow_datasets as tfds

    class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Tiny."""

        name = "imagenet2012"
        VERSION = tfds.core.Version("5.1.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=["n01", "n02"]),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"train": self._generate_examples(range(4)), "validation": self._generate_examples(range(4, 7))}

        def _generate_examples(self, numbers):
            for number in numbers:
                name = f"n0{1 + number // 2 % 2}_{number}.JPEG"
                yield name, {"image": io.BytesIO(jpeg(number)), "label": number // 2 % 2, "file_name": name}

    return Imagenet2012(data_dir=data_dir, file_format=file_format)


def jpeg(number):
    file = io.BytesIO()
    noise(*SIZES[number % len(SIZES)], seed=number).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder of TensorFlow Datasets with ImageNet as array_record, made by `load`; for reading only."""
    tfds = pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        use(patch, tfds, root)
        with pytest.raises(DataError, match="imagenet2012 is not prepared") as caught:
            load("imagenet", "train", download=True)
        message = str(caught.value)
        for part in (*tfds_module.IMAGENET_TARS, "138 GB", f"{root}/downloads/manual", "`download`", "imagenet:DIR"):
            assert part in message
        (root / "downloads" / "manual").mkdir(parents=True)
        for name in tfds_module.IMAGENET_TARS:
            (root / "downloads" / "manual" / name).write_bytes(b"tar")
        with pytest.raises(DataError, match="run again with `download`") as caught:
            load("imagenet", "train")
        assert "138 GB" not in str(caught.value)
        load("imagenet", "train", download=True)
    return root


def use(monkeypatch, tfds, root):
    monkeypatch.setattr(tfds, "builder", lambda name, **options: tiny_builder(root, **options))


@pytest.fixture
def tfds(monkeypatch, prepared):
    import tensorflow_datasets as tfds

    use(monkeypatch, tfds, prepared)
    return tfds


def images_by_name(dataset):
    return {name: (int(label), index) for index, (name, label) in enumerate(zip(dataset.images._names, dataset.labels))}


@pytest.mark.parametrize("split, numbers", [("train", range(4)), ("test", range(4, 7))])
def test_imagenet_of_tensorflow_datasets(tfds, split, numbers):
    dataset = load("imagenet", split)
    assert dataset.images.shape == (len(numbers), 224, 224, 3) and isinstance(dataset.images, EncodedImages)
    assert dataset.class_names == ("n01", "n02") and (dataset.mean, dataset.std) == IMAGENET
    found = images_by_name(dataset)
    for number in numbers:
        label, index = found.pop(f"n0{1 + number // 2 % 2}_{number}.JPEG")
        with Image.open(io.BytesIO(jpeg(number))) as image:
            np.testing.assert_array_equal(dataset.images[index], torchvision_evaluation(image, 256, 224))
        assert label == number // 2 % 2
    assert not found
    assert dataset.images.random_crops([0, 1], generators([0, 1])).shape == (2, 224, 224, 3)


def test_a_limit_on_records(tfds):
    whole, part = load("imagenet", "train", image_size=28), load("imagenet", "train", image_size=28, limit=2)
    assert sorted(part.labels) == [0, 1] and part.fingerprint != whole.fingerprint
    indices = [images_by_name(whole)[name][1] for name in part.images._names]
    assert indices != [0, 1]  # else this test could not see the first two taken
    np.testing.assert_array_equal(part.images[:], whole.images[indices])
    memory = load("imagenet", "train", image_size=28, limit=2, on_disk=False)
    assert isinstance(memory.images, np.ndarray)
    np.testing.assert_array_equal(memory.images, part.images[:])


def test_the_labels_are_read_once(tfds, prepared, monkeypatch):
    first = load("imagenet", "test")
    path = prepared / "imagenet2012" / "5.1.0" / "sharpkeras_validation.npz"
    assert path.is_file()
    read = tfds_module._read_index
    monkeypatch.setattr(tfds_module, "_read_index", lambda source: pytest.fail("read again"))
    assert load("imagenet", "test").fingerprint == first.fingerprint
    monkeypatch.setattr(tfds_module, "_read_index", read)
    path.write_bytes(b"damaged")
    assert load("imagenet", "test").fingerprint == first.fingerprint and path.stat().st_size > 100
    np.savez(path, stamp=[3, 1], labels=[1, 1, 1], names=["x"] * 3, byte_sizes=[1, 1, 1])  # of other records
    assert load("imagenet", "test").fingerprint == first.fingerprint
    path.write_bytes(b"damaged")

    def refuse(path, content):
        raise RunError("cannot be written", seen="read-only file system")

    monkeypatch.setattr(tfds_module.atomic_writes, "write", refuse)
    assert "read-only file system" in load("imagenet", "test").notes[0]


READ = """
import sys
from sharpkeras.data import load
dataset = load("imagenet", "train", image_size=14)
print(dataset.images[:].sum(), dataset.fingerprint)
assert "tensorflow" not in sys.modules
"""


def test_reading_needs_no_tensorflow(tfds, prepared):
    here = load("imagenet", "train", image_size=14)
    environment = {**os.environ, "TFDS_DATA_DIR": str(prepared), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["KERAS_BACKEND"] = "jax"
    done = subprocess.run([sys.executable, "-c", READ], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(here.images[:].sum()), here.fingerprint]


def test_files_without_random_access(tmp_path, prepared, monkeypatch):
    import tensorflow_datasets as tfds

    use(monkeypatch, tfds, tmp_path)
    tiny_builder(tmp_path, "tfrecord").download_and_prepare()
    data_dir = tmp_path / "imagenet2012" / "5.1.0"
    with pytest.raises(DataError, match="without random access") as caught:
        load("imagenet", "train")
    assert f"convert_format --dataset_version_dir={data_dir} --out_file_format=array_record" in str(caught.value)
    assert caught.value.seen == "tfrecord" and "imagenet:DIR" in caught.value.next_step
    # What convert_format leaves: the other files beside, and their format in the description.
    for path in (prepared / "imagenet2012" / "5.1.0").glob("*array_record*"):
        shutil.copy(path, data_dir)
    description = json.loads((data_dir / "dataset_info.json").read_text())
    (data_dir / "dataset_info.json").write_text(json.dumps({**description, "alternativeFileFormats": ["array_record"]}))
    assert len(load("imagenet", "train").images) == 4


# ---- generated images


def test_generated_images_have_the_size_of_the_real():
    for kind, shape, classes in (("digits", (8, 8, 1), 10), ("cifar10", (32, 32, 3), 10)):
        train, test = load(f"generated:{kind}", "train"), load(f"generated:{kind}", "test")
        assert train.images.shape == (64, *shape) and test.images.shape == (32, *shape)
        assert len(train.class_names) == classes == len(np.unique(train.labels))
        streams.check(train, 32)
        assert train.fingerprint == load(f"generated:{kind}", "train").fingerprint != test.fingerprint
    real = load("digits", "train", limit=1)
    assert load("generated:digits", "train").mean == real.mean and not load("generated:digits", "train").flip


def test_generated_imagenet_takes_the_path_of_the_real():
    train, test = load("generated:imagenet", "train"), load("generated:imagenet", "test", limit=10)
    assert train.images.shape == (64, 224, 224, 3) and isinstance(train.images, EncodedImages)
    assert len(train.class_names) == 1000 and (train.mean, train.std) == IMAGENET
    assert len(test.images) == 10 and test.images[[0]].shape == (1, 224, 224, 3)
    streams.check(train, 64)
    sizes = {train.images._open_image(index).size for index in range(64)}
    assert len(sizes) > 50 and {256 <= side <= 320 for size in sizes for side in size} == {True}
    np.testing.assert_array_equal(train.images[5], torchvision_evaluation(train.images._open_image(5), 256, 224))
    small = load("generated:imagenet", "train", image_size=16, resize_size=20)
    crops = [crops_by_example(small.images, indices=np.arange(6)) for _ in range(2)]
    assert crops[0] == crops[1] and len(set(crops[0].values())) == 6
