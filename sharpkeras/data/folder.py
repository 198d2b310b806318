"""Class folders of image files: which files belong to a split, and to which class."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from sharpkeras.data.files import read_headers
from sharpkeras.data.images import count, read_images
from sharpkeras.data.sources import Source, limited
from sharpkeras.errors import DataError, printable

LAYOUT = """arrange the images as class folders, in one of these ways, for --dataset folder:PATH
    PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (or validation/, or val/)
    PATH/train/CLASS/*.jpg, or PATH/CLASS/*.jpg: every fifth image is held out for the test"""
HELD_OUT_FOLDERS = ("test", "validation", "val")  # the first that exists
IMAGENET_LAYOUT = """unpack ImageNet as class folders, one for each WordNet id, for --dataset imagenet:DIR
    DIR/train/n01440764/*.JPEG from ILSVRC2012_img_train.tar
    DIR/val/n01440764/*.JPEG from ILSVRC2012_img_val.tar (or validation/, or test/)
    or use other class folders: --dataset folder:DIR"""
IMAGENET_HELD_OUT = ("val", "validation", "test")  # the official test images, which have no labels, may lie beside
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}  # besides all names with a leading dot
LINKS_OUT = "links that lead out of the folder (--follow-symlinks follows them)"
NO_TEST_FOLDER = "no folder for the test: every fifth image is held out for it"


def read_folder(path, split, options, held_out_folders=HELD_OUT_FOLDERS):
    """The images of one split of a folder of class folders, decoded, or with `options.on_disk` left there.

    Args:
        path: a folder in one of the forms of LAYOUT.
        split: "train" or "test". Without a folder for the test, every fifth file of the sorted list (index % 5 == 4)
            is held out for it.
        options: sources.Options.
        held_out_folders: names of the folder for the test; the first that exists.

    Returns:
        A Source: uint8 (N, H, W, C), int64 (N,), class names, notes, and the files that were skipped.

    Raises:
        DataError: no such folder or layout, an empty class, class names that differ between the splits, files that
            are no images, images of several sizes, or no images left.
        ResourceError: the images do not fit into the memory.
    """
    root = _root(path, LAYOUT)
    ignored = Counter()
    parts = _split_folders(root, held_out_folders)
    files, labels, class_names = _labelled_files(root, parts, split, options.follow_symlinks, ignored)
    notes = _lines(ignored)
    if parts[1] is None:
        notes.append(NO_TEST_FOLDER)
    chosen, limit_note = limited(labels, options.limit)
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
    )
    notes.extend(limit_note)
    skipped = tuple(os.path.relpath(files[i], root) for i in sorted(set(range(len(files))) - set(kept.tolist())))
    if skipped:
        notes.append(f"skipped {count(len(skipped), 'file')} that could not be read")
        _refuse_empty([class_names[label] for label in sorted(set(labels.tolist()) - set(labels[kept].tolist()))], root)
    return Source(images, labels[kept], class_names, (*notes, *conversions), skipped)


def read_imagenet(path, split, options):
    """ImageNet from class folders, in the form of IMAGENET_LAYOUT; as `read_folder`, but nothing is held out by index.

    Raises:
        DataError: as `read_folder`, and without a folder for the test.
    """
    root = _root(path, IMAGENET_LAYOUT)
    if not (root / "train").is_dir() or not any((root / name).is_dir() for name in IMAGENET_HELD_OUT):
        found = sorted(path.name for path in root.iterdir())
        raise DataError(
            "no class folders of ImageNet",
            where=printable(str(root)),
            seen=f"{len(found):,} entries: {_names(found)}",
            allowed="train/ and val/",
            next_step=IMAGENET_LAYOUT,
        )
    return read_folder(path, split, options, IMAGENET_HELD_OUT)


def _root(path, layout):
    """The folder of a spec; raises DataError where there is none."""
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(
            "no such folder", where=printable(str(root)), allowed="a folder of class folders", next_step=layout
        )
    return root.resolve()


def _labelled_files(root, parts, split, follow_symlinks, ignored):
    """The files of a split in their fixed order, their labels and the class names."""
    train, held_out = parts
    folder = train if split == "train" or held_out is None else held_out
    classes = _class_folders(folder, root, follow_symlinks, ignored)
    if held_out is not None:
        other = held_out if folder == train else train
        _require_same_names(folder, classes, other, _class_folders(other, root, follow_symlinks, Counter()))
    files_of = [_files_below(path, (root, folder), follow_symlinks, ignored) for path in classes.values()]
    _refuse_empty([name for name, files in zip(classes, files_of) if not files], folder, ignored)
    files = [path for files in files_of for path in files]
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in files_of])
    if held_out is None:
        taken = np.flatnonzero((np.arange(len(files)) % 5 == 4) == (split == "test"))
        if len(taken) == 0:
            raise DataError(
                f"no images for the {split} split",
                where=printable(str(root)),
                seen=f"{count(len(files), 'image')}, of which every fifth is held out for the test",
                next_step="add images, or a test folder beside train",
            )
        files, labels = [files[i] for i in taken], labels[taken]
    return files, labels, tuple(classes)


def _split_folders(root, held_out_folders):
    """The training folder, and the held-out one or None where the split is made by index."""
    held_out = [root / name for name in held_out_folders if (root / name).is_dir()]
    if (root / "train").is_dir():
        return root / "train", held_out[0] if held_out else None
    if held_out:
        raise DataError(f"{held_out[0].name}/ without train/", where=printable(str(root)), next_step=LAYOUT)
    return root, None


def _class_folders(folder, root, follow_symlinks, ignored):
    """Class name → path, sorted by name."""
    names = _entries(folder, root, follow_symlinks, ignored)
    classes = {name: path for name, path in sorted(names.items()) if os.path.isdir(path)}
    if not classes:
        raise DataError(
            "no class folders",
            where=printable(str(folder)),
            seen="; ".join([count(len(names), "file"), *_lines(ignored)]),
            next_step=LAYOUT,
        )
    if len(classes) < len(names):
        ignored["files beside the class folders"] += len(names) - len(classes)
    return classes


def _files_below(class_folder, above, follow_symlinks, ignored):
    """All regular files of a class, however deep, sorted by path; `above` holds the folders around it, root first."""
    files = []
    pending = [(class_folder, tuple(map(_identity, above)))]
    while pending:
        folder, ancestors = pending.pop()
        identity = _identity(folder)
        if identity in ancestors:
            ignored["links that form a loop"] += 1
            continue
        for path in _entries(folder, above[0], follow_symlinks, ignored).values():
            if os.path.isdir(path):
                pending.append((path, (*ancestors, identity)))
            elif os.path.isfile(path):
                files.append(path)
            else:  # opening a pipe would wait for ever
                ignored["pipes, devices and broken links"] += 1
    return sorted(files)


def _entries(folder, root, follow_symlinks, ignored):
    """Name → path of all in a folder that may be used; the rest is counted in `ignored`."""
    entries = {}
    for entry in os.scandir(folder):
        if entry.name.startswith(".") or entry.name.casefold() in SYSTEM_FILES:
            ignored["hidden and system files"] += 1
        elif entry.is_symlink() and not follow_symlinks and not Path(os.path.realpath(entry.path)).is_relative_to(root):
            ignored[LINKS_OUT] += 1
        else:
            entries[entry.name] = entry.path
    return entries


def _identity(folder):
    """What a folder is under any name."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _require_same_names(folder, classes, other, other_classes):
    """Raises DataError, with the difference both ways, unless both splits have the same classes."""
    only_here, only_there = sorted(classes.keys() - other_classes), sorted(other_classes.keys() - classes)
    if only_here or only_there:
        raise DataError(
            f"the classes of {folder.name}/ and {other.name}/ differ\n"
            f"    only in {folder.name}/: {_names(only_here)}\n"
            f"    only in {other.name}/: {_names(only_there)}",
            where=printable(str(folder.parent)),
            allowed="the same class folders in both",
        )


def _refuse_empty(names, folder, ignored=None):
    """Raises DataError when there are names of classes without images."""
    if names:
        raise DataError(
            f"no images in {count(len(names), 'class folder')}: {_names(names)}",
            where=printable(str(folder)),
            seen="; ".join(_lines(ignored)) if ignored else None,
            next_step="add images, or remove the folder",
        )


def _lines(ignored):
    return [f"ignored {what}: {number:,}" for what, number in sorted(ignored.items())]


def _names(names, limit=10):
    """The first names of a list, without control characters."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return (", ".join(printable(name, 60) for name in names[:limit]) or "none") + more
