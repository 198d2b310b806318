"""Class folders of image files: what belongs to which split and class, read into memory or left on disk."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sharpkeras.data.dataset import LoadedSplit, Options, limited
from sharpkeras.data.decoding import count, read_images
from sharpkeras.data.encoded_images import read_headers
from sharpkeras.data.folder_layout import (
    HELD_OUT,
    LAYOUT,
    NAMED,
    Ignored,
    Splits,
    alike,
    class_folders,
    files_below,
    find_splits,
    names,
    refuse_nested_splits,
    require_same_classes,
    same,
    split_of,
    text,
)
from sharpkeras.errors import DataError, printable

IMAGENET_LAYOUT = """unpack ImageNet as class folders, one for each WordNet id, for `dataset=imagenet:DIR`
    DIR/train/n01440764/*.JPEG from ILSVRC2012_img_train.tar
    DIR/val/n01440764/*.JPEG from ILSVRC2012_img_val.tar (or validation/, or test/)
    or use other class folders: `dataset=folder:DIR`"""
IMAGENET_HELD_OUT = ("validation", "test")  # the official test images, which have no labels, may lie beside
NO_TEST_FOLDER = "no folder for the test: every fifth image of each class is held out for it"
LARGEST_COMPARED = 64 * 2**20  # bytes of a file that is looked for among the training images


def read_folder(
    path: str | os.PathLike[str], split: str, options: Options, held_out: Sequence[str] = HELD_OUT, upright: bool = True
) -> LoadedSplit:
    """The images of one split of a folder of class folders, decoded, or with `options.on_disk` left there.

    Args:
        path: a folder in one of the forms of LAYOUT.
        split: "train" or "test". Without a folder for the test, images of each class are held out for it.
        options: `dataset.Options`.
        held_out: kinds of folder for the test, see `folder_layout.find_splits`.
        upright: whether images that EXIF says are turned come upright.

    Returns:
        A LoadedSplit: uint8 (N, H, W, C), int64 (N,), class names, notes, and the files that were skipped.

    Raises:
        DataError: no such folder or layout, one that can be read in two ways, an empty class, class names that differ
            between the splits, files that are no images, images of several sizes, or no images left.
        ResourceError: the images do not fit into the memory.
    """
    root = _root(path, LAYOUT)
    ignored = Ignored(root)
    splits = find_splits(root, options.follow_symlinks, ignored, held_out)
    files, class_names, notes, training = _files_of_classes(root, splits, split, options, ignored)
    labels = np.repeat(np.arange(len(files)), [len(of_class) for of_class in files])
    files = [file for of_class in files for file in of_class]
    notes = [*ignored.lines(), *splits.notes, *notes, *_note_of_repeated(root, files, training)]
    chosen, limit_note = limited(labels, options.limit, class_names)
    if limit_note:
        files, labels = [files[index] for index in chosen], labels[chosen]
    read = read_headers if options.on_disk else read_images
    images, kept, conversions = read(
        files,
        root,
        image_size=options.image_size,
        resize_size=options.resize_size,
        channels=options.channels,
        skip_bad_images=options.skip_bad_images,
        upright=upright,
    )
    notes.extend(limit_note)
    skipped = tuple(text(os.path.relpath(files[i], root)) for i in sorted(set(range(len(files))) - set(kept.tolist())))
    if skipped:
        notes.append(f"skipped {count(len(skipped), 'file')} that could not be read")
        _refuse_empty([class_names[label] for label in sorted(set(labels.tolist()) - set(labels[kept].tolist()))], root)
    return LoadedSplit(images, labels[kept], class_names, (*notes, *conversions), skipped)


def read_imagenet(path: str | os.PathLike[str], split: str, options: Options) -> LoadedSplit:
    """ImageNet from class folders, in the form of IMAGENET_LAYOUT; as `read_folder`, but nothing is held out by index.

    Raises:
        DataError: as `read_folder`, and without a folder for the test.
    """
    root = _root(path, IMAGENET_LAYOUT)
    found = sorted(root.iterdir())
    kinds = {split_of(path.name) for path in found if path.is_dir()}
    if "train" not in kinds or not kinds & set(IMAGENET_HELD_OUT):
        raise DataError(
            "no class folders of ImageNet",
            where=printable(str(root)),
            seen=f"{len(found):,} entries: {names([path.name for path in found])}",
            allowed="train/ and val/",
            next_step=IMAGENET_LAYOUT,
        )
    return read_folder(path, split, options, IMAGENET_HELD_OUT, upright=False)


def _root(path: str | os.PathLike[str], layout: str) -> Path:
    """The folder of a spec; raises DataError where there is none."""
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(
            "no such folder",
            where=printable(str(root)),
            seen=None if root.is_absolute() else f"no folder of that name in {printable(os.getcwd())}",
            allowed="a folder of class folders",
            next_step=layout,
        )
    return root.resolve()


def _files_of_classes(
    root: Path, splits: Splits, split: str, options: Options, ignored: Ignored
) -> tuple[list[list[str]], tuple[str, ...], list[str], list[str]]:
    """The files of a split as a list for each class; class names and notes; the files of the training as one list.

    The training folder says how the classes are called and in which order they come. Its files are looked for where
    test images are compared with them, and else none: a search never looks at the other split.
    """
    follow, compared = options.follow_symlinks, split == "test" and not options.on_disk
    folder, other = splits.train, splits.test
    if split == "test" and other is not None:
        folder, other = other, folder
    classes, training = class_folders(folder, root, follow, ignored), []
    if other is not None:
        others = class_folders(other, root, follow, Ignored(root))
        require_same_classes(folder, classes, other, others)
        if split == "test":
            paths = {same(name): path for name, path in classes.items()}
            classes = {name: paths[same(name)] for name in others}
        if compared:
            training = [files_below(path, (root, other), follow, Ignored(root))[0] for path in others.values()]
    found = [files_below(path, (root, folder), follow, ignored) for path in classes.values()]
    files, inner = [files for files, _ in found], dict(zip(classes, [folders for _, folders in found]))
    refuse_nested_splits(folder, inner)
    _refuse_empty([name for name, of_class in zip(classes, files) if not of_class], folder, ignored)
    notes = _notes_on_classes(classes, files, inner)
    if splits.test is None:
        notes.append(_note_of_cut(classes, files))
        parts = {part: [_cut(of_class, part == "test") for of_class in files] for part in ("train", "test")}
        files, training = parts[split], parts["train"] if compared else []
        if not any(files):
            raise DataError(
                f"no images for the {split} split",
                where=printable(str(root)),
                seen=f"one image for each of {count(len(classes), 'class', 'classes')}",
                next_step="add images, or a test folder beside train",
            )
    return files, tuple(classes), notes, [file for of_class in training for file in of_class]


def _cut(files: Sequence[str], test: bool) -> list[str]:
    """The files of a class for the test, or those for the training.

    For the test is every fifth, of two to four the last, and of one none: each class has images to be trained on, and
    the test has no class too few where that can be.
    """
    chosen = np.arange(len(files)) % 5 == 4
    if 1 < len(files) < 5:
        chosen[-1] = True
    return [file for file, held_out in zip(files, chosen) if held_out == test]


def _note_of_cut(classes: dict[str, str], files: list[list[str]]) -> str:
    alone = [name for name, of_class in zip(classes, files) if len(of_class) == 1]
    return f"{NO_TEST_FOLDER}, but none of the one image of {names(alone, NAMED)}" if alone else NO_TEST_FOLDER


def _notes_on_classes(classes: dict[str, str], files: list[list[str]], inner: dict[str, list[str]]) -> list[str]:
    """Lines on what looks as if it was not meant so."""
    notes, by_name = [], defaultdict(list)
    for name in classes:
        by_name[alike(name)].append(name)
    for group in by_name.values():
        if len(group) > 1:
            notes.append(f"classes whose names differ in case or blanks alone: {names(group)}")
    folders = next(iter(inner.values()))
    direct = any(os.path.dirname(file) == path for path, of_class in zip(classes.values(), files) for file in of_class)
    if len(classes) > 1 and len(folders) > 1 and not direct and all(other == folders for other in inner.values()):
        notes.append(f"all classes hold the same folders, whose images are taken together: {names(folders)}")
    return notes


def _note_of_repeated(root: Path, files: Sequence[str], training: Sequence[str]) -> list[str]:
    """A line on test images that are training images, byte for byte; nothing where there are none."""
    sizes = {file: os.path.getsize(file) for file in (*files, *training)}
    common = {sizes[file] for file in files} & {sizes[file] for file in training}  # hardly one, of large photographs
    contents = {_content(file) for file in training if sizes[file] in common} - {None}
    repeated = [file for file in files if sizes[file] in common and _content(file) in contents]
    if not repeated:
        return []
    some = names([text(os.path.relpath(file, root)) for file in repeated], NAMED)
    return [f"{count(len(repeated), 'test image')} of {len(files):,} are training images too, byte for byte: {some}"]


def _content(file: str) -> bytes | None:
    """What equal files have in common; None of one that is too large to be looked at, or cannot be read."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(LARGEST_COMPARED + 1)
    except OSError:
        return None
    return hashlib.sha256(head).digest() if len(head) <= LARGEST_COMPARED else None


def _refuse_empty(empty: Sequence[str], folder: str | os.PathLike[str], ignored: Ignored | None = None) -> None:
    """Raise DataError when there are names of classes without images."""
    if empty:
        raise DataError(
            f"no images in {count(len(empty), 'class folder')}: {names(empty)}",
            where=printable(str(folder)),
            seen="; ".join(ignored.lines()) if ignored and ignored.lines() else None,
            next_step="add images, or remove the folder",
        )
