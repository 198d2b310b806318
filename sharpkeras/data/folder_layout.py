"""Layout of an image folder: which of its folders are splits, which are classes, and what is left out."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sharpkeras.data.decoding import count
from sharpkeras.errors import DataError, printable

LAYOUT = """arrange the images as class folders, in one of these ways, for `dataset=folder:PATH`
    PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (or validation/, or val/)
    PATH/train/CLASS/*.jpg, or PATH/CLASS/*.jpg: every fifth image of a class is held out for the test"""
# What people call the folders of a split, in any case, with a number, or with one of these words behind.
SPLITS = {
    "train": {"train", "training", "trn", "tr"},
    "test": {"test", "testing", "tst", "te", "eval", "evaluation", "holdout", "heldout"},
    "validation": {"validation", "validate", "valid", "val", "dev", "development"},
}
WORDS_BEHIND = re.compile(r"(set|sets|split|splits|data|dataset|images|image|imgs|folder)$")
HELD_OUT = ("test", "validation")  # the kind of folder that the test images come from: the first that is there
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp")
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}  # besides all names with a leading dot
LINKS_OUT = "links that lead out of the folder (`follow_symlinks` follows them)"
NAMED = 5  # of the files that a note names


class Splits(NamedTuple):
    """The folders of the two splits, `test` None where it is cut from the training's, and notes on the choice."""

    train: str | os.PathLike[str]
    test: str | None
    notes: tuple[str, ...] = ()


class Ignored:
    """Paths of a folder that are left out, by reason; relative to the folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = root
        self._paths: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, why: str, path: str | os.PathLike[str]) -> None:
        """Note that a path is left out, and why."""
        self._paths[why].append(text(os.path.relpath(path, self.root)))

    def of(self, why: str) -> list[str]:
        """The paths that were left out for one reason, sorted."""
        return sorted(self._paths.get(why, ()))

    def lines(self) -> list[str]:
        """A line for each reason, with the number and the first names."""
        return [
            f"ignored {why}: {len(paths):,} ({names(sorted(paths), NAMED)})"
            for why, paths in sorted(self._paths.items())
        ]


# ---- names ----


def text(name: str) -> str:
    """A name of the file system as text that every file and stream can hold: bytes that are no UTF-8 as `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def same(name: str) -> str:
    """A form (NFC) that is equal for names that read the same: Unicode writes é as one character or as two."""
    return unicodedata.normalize("NFC", name)


def alike(name: str) -> str:
    """A form that is equal for names that differ in case and blanks alone."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def split_of(name: str) -> str | None:
    """The key of SPLITS that the name of a folder stands for, None where it is no split's."""
    if not name.isascii():
        return None
    plain = re.sub(r"[\W_]+", "", name.casefold()).strip("0123456789")
    plain = WORDS_BEHIND.sub("", plain)
    return next((kind for kind, known in SPLITS.items() if plain in known), None)


def names(some: Sequence[str], limit: int = 10) -> str:
    """The first names of a list, without control characters."""
    more = f" and {len(some) - limit:,} more" if len(some) > limit else ""
    return (", ".join(printable(name, 60) for name in some[:limit]) or "none") + more


# ---- splits ----


def find_splits(root: Path, follow_symlinks: bool, ignored: Ignored, held_out: Sequence[str] = HELD_OUT) -> Splits:
    """The Splits of a folder, which are its folders with the names of SPLITS, or else the folder itself.

    Args:
        root: the folder.
        follow_symlinks: whether links that lead out of it are followed.
        ignored: Ignored, which takes what lies beside the splits.
        held_out: the keys of SPLITS that the test images may come from, in order of preference.

    Raises:
        DataError: no training folder, two for one split, or folders that could be splits and could be classes.
    """
    aside = Ignored(root)
    found = entries(root, root, follow_symlinks, aside)
    _refuse_splits_elsewhere(root, aside.of(LINKS_OUT))
    folders = sorted(name for name, path in found.items() if os.path.isdir(path))
    kinds = {name: split_of(name) for name in folders if split_of(name)}
    others = [name for name in folders if name not in kinds]
    with_classes = [name for name in kinds if _folders_in(found[name], root, follow_symlinks)]
    if not kinds:
        _refuse_unknown_splits(root, others, found, follow_symlinks)
        return Splits(root, None)
    if others and not with_classes and not _are_splits(map(split_of, folders)):
        return Splits(root, None, (f"{names(list(kinds))}: taken as a class, since no class folders lie in it",))
    train = _only(root, "train", [name for name in kinds if kinds[name] == "train"])
    if train is None:
        raise DataError(f"{names(list(kinds))}/ without train/", where=printable(str(root)), next_step=LAYOUT)
    _refuse_classes_beside(root, train, [name for name in others if _holds_images(found[name])])
    test = _held_out(root, kinds, with_classes, held_out)
    notes = []
    unused = [name for name in kinds if name not in (train, test)]
    if unused:
        notes.append(f"not used: the images in {names(unused)}")
    if test is not None and kinds[test] != "test":
        notes.append(f"the test images are those in {names([test])}")
    entries(root, root, follow_symlinks, ignored)  # once more, for what is left out
    for name in sorted(found.keys() - kinds.keys()):
        ignored.add(f"what lies beside {names([train])}", found[name])
    return Splits(found[train], test and found[test], tuple(notes))


def _held_out(
    root: str | os.PathLike[str], kinds: Mapping[str, str | None], with_classes: Sequence[str], held_out: Sequence[str]
) -> str | None:
    """The folder of the test images; one without class folders only where there is no other."""
    for able in (with_classes, list(kinds)):
        for kind in held_out:
            name = _only(root, kind, [name for name in able if kinds[name] == kind])
            if name is not None:
                return name
    return None


def _only(root: str | os.PathLike[str], kind: str, some: Sequence[str]) -> str | None:
    """The one name of a list, None of an empty one."""
    if len(some) > 1:
        raise DataError(
            f"{len(some)} folders have a name of the split {kind}: {names(some)}",
            where=printable(str(root)),
            allowed="one of them",
            next_step="put their images together, or move all but one out of the folder",
        )
    return some[0] if some else None


def _refuse_splits_elsewhere(root: str | os.PathLike[str], links: Iterable[str]) -> None:
    """Raise DataError where links that are not followed have the name of a split: without it another one is made."""
    splits = [name for name in links if split_of(name)]
    if splits:
        raise DataError(
            f"links that lead out of the folder stand for its splits: {names(splits)}",
            where=printable(str(root)),
            allowed="folders",
            next_step=("move the images into the folder", "follow links with `follow_symlinks`"),
        )


def _refuse_classes_beside(root: str | os.PathLike[str], train: str, beside: Sequence[str]) -> None:
    if beside:
        raise DataError(
            f"folders of images lie beside {names([train])}/: {names(beside)}",
            where=printable(str(root)),
            allowed="class folders inside of the folders of the splits alone",
            next_step=f"move them into {names([train])}/ if they are classes, else out of the folder; or {LAYOUT}",
        )


def _refuse_unknown_splits(
    root: str | os.PathLike[str], folders: Sequence[str], found: Mapping[str, str], follow_symlinks: bool
) -> None:
    """Raise DataError for seg_train and seg_test: all folders begin or end in a split's name, and hold folders."""
    words = [re.findall(r"[a-z]+", name.casefold()) for name in folders]
    ends = [{*of_name[:1], *of_name[-1:]} for of_name in words]
    splits = [next(filter(None, map(split_of, sorted(of_name))), None) for of_name in ends]
    if "train" in splits and all(splits) and all(_folders_in(found[name], root, follow_symlinks) for name in folders):
        raise DataError(
            f"the folders seem to be splits and no classes: {names(folders)}",
            where=printable(str(root)),
            allowed="train/ and test/",
            next_step=f"rename them; or {LAYOUT}",
        )


def refuse_nested_splits(folder: str | os.PathLike[str], inner: Mapping[str, Sequence[str]]) -> None:
    """Raise DataError where class folders hold the folders of splits.

    Args:
        folder: the one of the class folders.
        inner: class name → names of the folders in it.
    """
    nested = [name for name, folders in inner.items() if folders and _are_splits(map(split_of, folders))]
    if nested:
        alone = f"`dataset=folder:{printable(str(Path(folder, nested[0])), 1000)}`; or " if len(inner) == 1 else ""
        raise DataError(
            f"folders of splits lie in the class folders: {names(nested)}",
            where=printable(str(folder)),
            allowed="the splits first, in them the classes",
            next_step=f"{alone}{LAYOUT}",
        )


def _are_splits(kinds: Iterable[str | None]) -> bool:
    """Whether folders of these kinds, None for no split, are splits: all of them, or a training beside another one."""
    kinds = set(kinds)
    return None not in kinds or {"train"} < kinds - {None}


# ---- classes and files ----


def class_folders(
    folder: str | os.PathLike[str], root: str | os.PathLike[str], follow_symlinks: bool, ignored: Ignored
) -> dict[str, str]:
    """Class name → path, sorted by the name on the disk.

    Raises:
        DataError: no class folders, two of one name, or all with names of splits.
    """
    found = entries(folder, root, follow_symlinks, ignored)
    classes = {name: path for name, path in sorted(found.items()) if os.path.isdir(path)}
    if not classes:
        raise DataError(
            "no class folders",
            where=printable(str(folder)),
            seen="; ".join([count(len(found), "file"), *ignored.lines()]),
            next_step=LAYOUT,
        )
    if all(map(split_of, classes)):
        raise DataError(
            f"all class folders have the names of splits: {names(list(classes))}",
            where=printable(str(folder)),
            next_step=f"`dataset=folder:{printable(str(folder), 1000)}` if they are splits, else rename them",
        )
    for name in found.keys() - classes.keys():
        ignored.add("files beside the class folders", found[name])
    _refuse_equal(folder, [text(name) for name in classes])
    return {text(name): path for name, path in classes.items()}


def _refuse_equal(folder: str | os.PathLike[str], classes: Iterable[str]) -> None:
    """Raise DataError where two class names are the same to a reader."""
    first: dict[str, str] = {}
    for name in classes:
        other = first.setdefault(same(name), name)
        if other is not name:
            raise DataError(
                f"two class folders have the same name in two forms: {ascii(other)} and {ascii(name)}",
                where=printable(str(folder)),
                allowed="one folder for each class",
                next_step="put their images into one folder",
            )


def require_same_classes(
    folder: str | os.PathLike[str], classes: Iterable[str], other: str | os.PathLike[str], other_classes: Iterable[str]
) -> None:
    """Raise DataError, with the difference both ways, unless two splits have the same classes."""
    here, there = ({same(name): name for name in found} for found in (classes, other_classes))
    only_here, only_there = sorted(here.keys() - there), sorted(there.keys() - here)
    if only_here or only_there:
        near = {alike(name): name for name in only_there}
        pairs = [f"{name} and {near[alike(name)]}" for name in only_here if alike(name) in near]
        one, another = (names([Path(split).name]) for split in (folder, other))
        raise DataError(
            f"the classes of {one}/ and {another}/ differ\n"
            f"    only in {one}/: {names(only_here)}\n"
            f"    only in {another}/: {names(only_there)}",
            where=printable(str(Path(folder).parent)),
            seen=f"names that differ in case or blanks alone: {names(pairs)}" if pairs else None,
            allowed="the same class folders in both",
        )


def files_below(
    class_folder: str | os.PathLike[str],
    above: Sequence[str | os.PathLike[str]],
    follow_symlinks: bool,
    ignored: Ignored,
) -> tuple[list[str], list[str]]:
    """All regular files of a class, however deep, sorted by path, and the names of the folders in it.

    Args:
        above: the folders around it, root first.
    """
    files, inner = [], None
    pending = [(class_folder, tuple(map(_identity, above)))]
    while pending:
        folder, ancestors = pending.pop()
        identity = _identity(folder)
        if identity in ancestors:
            ignored.add("links that form a loop", folder)
            continue
        folders = {}
        for name, path in entries(folder, above[0], follow_symlinks, ignored).items():
            if os.path.isdir(path):
                folders[name] = path
            elif os.path.isfile(path):
                files.append(path)
            else:  # opening a pipe would wait for ever
                ignored.add("pipes, devices and broken links", path)
        pending.extend((path, (*ancestors, identity)) for path in folders.values())
        inner = sorted(folders) if inner is None else inner
    return sorted(files), inner or []


def entries(
    folder: str | os.PathLike[str], root: str | os.PathLike[str], follow_symlinks: bool, ignored: Ignored
) -> dict[str, str]:
    """Name → path of all in a folder that may be used; the rest goes to `ignored`."""
    found = {}
    with os.scandir(folder) as scanned:
        for entry in scanned:
            if entry.name.startswith(".") or entry.name.casefold() in SYSTEM_FILES:
                ignored.add("hidden and system files", entry.path)
            elif entry.is_symlink() and not follow_symlinks and not _leads_into(entry.path, root):
                ignored.add(LINKS_OUT, entry.path)
            else:
                found[entry.name] = entry.path
    return found


def _leads_into(link: str, root: str | os.PathLike[str]) -> bool:
    return Path(os.path.realpath(link)).is_relative_to(root)


def _folders_in(folder: str | os.PathLike[str], root: str | os.PathLike[str], follow_symlinks: bool) -> bool:
    """Whether there are folders in a folder that may be used."""
    return any(map(os.path.isdir, entries(folder, root, follow_symlinks, Ignored(root)).values()))


def _holds_images(folder: str | os.PathLike[str]) -> bool:
    """Whether there are files in a folder that are called as images are."""
    with os.scandir(folder) as scanned:
        return any(entry.name.lower().endswith(IMAGE_ENDINGS) and entry.is_file() for entry in scanned)


def _identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    """What a folder is under any name."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino
