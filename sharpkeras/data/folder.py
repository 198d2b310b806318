"""Class folders of image files: which files belong to a split, and to which class."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from sharpkeras.data.images import count, read_images
from sharpkeras.data.streams import balanced_subset
from sharpkeras.errors import DataError, printable

LAYOUT = """arrange the images as class folders, in one of these ways:
    PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (or validation/, or val/)
    PATH/train/CLASS/*.jpg, or PATH/CLASS/*.jpg: every fifth image is held out for the test"""
HELD_OUT_FOLDERS = ("test", "validation", "val")  # the first that exists
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}  # besides all names with a leading dot
LINKS_OUT = "links that lead out of the folder (--follow-symlinks follows them)"


NO_TEST_FOLDER = "no folder for the test: every fifth image is held out for it"


def read_folder(
    path, split, *, image_size=None, channels=None, limit=None, skip_bad_images=False, follow_symlinks=False
):
    """The images of one split of a folder of class folders.

    Args:
        path: a folder in one of the forms of LAYOUT.
        split: "train" or "test". Without a folder for the test, every fifth file of the sorted list (index % 5 == 4)
            is held out for it.
        image_size: pixels; the short side is resized to it and the centre cropped. None: all images are of one size.
        channels: 1 or 3; None takes 3 unless every image is grayscale.
        limit: number of images, balanced over the classes; None for all.
        skip_bad_images: whether files that can not be read are left out, and named in the result.
        follow_symlinks: whether links that lead out of `path` are followed.

    Returns:
        `(images, labels, class_names, notes, skipped_files)`: uint8 (N, H, W, C), int64 (N,), and tuples of strings.

    Raises:
        DataError: no such folder or layout, an empty class, class names that differ between the splits, files that
            are no images, images of several sizes, or no images left.
        ResourceError: the images do not fit into the memory.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError("no such folder", where=printable(str(root)), allowed="a folder of class folders")
    root = root.resolve()
    ignored = Counter()
    files, labels, class_names = _labelled_files(root, split, follow_symlinks, ignored)
    notes = _lines(ignored)
    if _split_folders(root)[1] is None:
        notes.append(NO_TEST_FOLDER)
    if limit is not None and limit < len(files):
        notes.append(f"took {limit:,} of {len(files):,} images, balanced over the classes")
        chosen = balanced_subset(labels, limit)
        files, labels = [files[i] for i in chosen], labels[chosen]
    images, kept, conversions = read_images(
        files, root, image_size=image_size, channels=channels, skip_bad_images=skip_bad_images
    )
    skipped = tuple(os.path.relpath(files[i], root) for i in sorted(set(range(len(files))) - set(kept.tolist())))
    if skipped:
        notes.append(f"skipped {count(len(skipped), 'file')} that could not be read")
        _refuse_empty([class_names[label] for label in sorted(set(labels.tolist()) - set(labels[kept].tolist()))], root)
    return images, labels[kept], class_names, (*notes, *conversions), skipped


def _labelled_files(root, split, follow_symlinks, ignored):
    """The files of a split in their fixed order, their labels and the class names."""
    train, held_out = _split_folders(root)
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


def _split_folders(root):
    """The training folder, and the held-out one or None where the split is made by index."""
    held_out = [root / name for name in HELD_OUT_FOLDERS if (root / name).is_dir()]
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
