"""A folder of images, searched to the bottom, as a torch dataset.

The list of files is the dataset's identity, so it must be the same on every machine: it does not depend on the order
in which the system lists a folder, and links neither repeat a folder nor trap the search.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, SupportsIndex

from PIL import Image
from torch.utils.data import Dataset

from simet_cache.datasets.images import read_image, readable_formats
from simet_cache.errors import DatasetError

_HIDDEN = ("__MACOSX", "Thumbs.db")  # left behind by desktops; so are names with a leading dot


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Lower-case suffixes, with the dot, of the formats that this Pillow decodes by itself."""
    formats = {*readable_formats(), "MPO"}  # MPO has no opener of its own: the JPEG one reads it
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def image_files(root: Path) -> list[str]:
    """List all image files below a folder.

    Images are known by their suffix, in any case. Hidden files and folders are left out. Links are followed; each
    real folder is listed once, where it really lies if that is below ``root``, else at the first link to it. A link
    that leads nowhere is listed if it is named like an image, so that reading it fails instead of losing it.

    Returns:
        Paths relative to ``root``, with ``/`` between components, in code point order, without duplicates.

    Raises:
        DatasetError: A folder cannot be listed.
    """
    return sorted(_walk(os.fspath(root)))


def has_images(root: Path) -> bool:
    """Whether any image file lies below a folder, by the rules of `image_files`; stops at the first.

    Raises:
        DatasetError: A folder cannot be listed.
    """
    return next(_walk(os.fspath(root)), None) is not None


def _walk(root: str) -> Iterator[str]:
    """The real tree first, then round by round what links lead to, in the order of their paths."""
    seen: set[tuple[int, int]] = set()
    starts = [""]
    while starts:
        links: list[str] = []
        for start in sorted(starts):
            yield from _walk_real(root, start, seen, links)
        starts = links


def _walk_real(root: str, start: str, seen: set[tuple[int, int]], links: list[str]) -> Iterator[str]:
    """Files below ``root/start`` without following links to folders, which are added to ``links``."""
    suffixes = image_suffixes()
    folders = [start]
    while folders:
        folder = folders.pop()
        prefix = f"{folder}/" if folder else ""
        for entry in _entries(os.path.join(root, folder) if folder else root, seen):
            name = entry.name
            if name.startswith(".") or name in _HIDDEN:
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(prefix + name)
            elif entry.is_symlink() and _leads_to_folder(entry):
                links.append(prefix + name)
            elif _suffix(name) in suffixes and (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
                yield prefix + name


def _suffix(name: str) -> str:
    _, dot, end = name.rpartition(".")
    return dot + end.lower() if dot else ""


def _entries(folder: str, seen: set[tuple[int, int]]) -> Iterator[os.DirEntry[str]]:
    """What a folder holds; nothing if it has been ``seen``."""
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise _unlistable(folder, error) from error


def _leads_to_folder(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # it leads to itself
            return False
        raise _unlistable(link.path, error) from error


def _unlistable(folder: str, error: OSError) -> DatasetError:
    reason = (error.strerror or str(error)).lower()
    return DatasetError(f"cannot list folder {folder}: {reason}. Check that it exists and may be read.")


class FolderDataset(Dataset[Any]):
    """The images below a folder, in the order of `image_files`.

    An item is ``transform(image)``, the image being 8-bit RGB; with ``classes`` it is ``(transform(image), label)``.

    Attributes:
        root: The folder, absolute, without links.
        files: Paths relative to ``root``, one for each image.
        transform: Applied to each image; None leaves it as it is.
        classes: With ``classes=True`` the sorted names of the folders directly below ``root`` that hold images,
            else empty.
        targets: For each file the position of its class in ``classes``, or empty.

    Raises:
        DatasetError: ``root`` is no folder or holds no image; or classes are wanted and an image lies in none.
    """

    def __init__(
        self, root: str | Path, *, transform: Callable[[Image.Image], Any] | None = None, classes: bool = False
    ) -> None:
        self.root = _existing_folder(Path(root))
        self.files = image_files(self.root)
        self.transform = transform
        self.classes: list[str] = []
        self.targets: list[int] = []
        if not self.files:
            raise DatasetError(
                f"no image in {self.root}: expected files such as .png, .jpg or .webp in it or below it, found none"
                " (hidden ones do not count). Check the path, and unpack archives first."
            )
        if classes:
            self.classes, self.targets = _classify(self.root, self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: SupportsIndex) -> Any:
        """Read one image.

        Raises:
            IndexError: There is no such image.
            ImageReadError: Its file cannot be read.
        """
        image: Any = read_image(os.path.join(self.root, self.files[index]))
        if self.transform is not None:
            image = self.transform(image)
        return (image, self.targets[index]) if self.targets else image


def _existing_folder(root: Path) -> Path:
    if os.path.isdir(root):
        return root.resolve()
    found = "something that is no folder" if os.path.lexists(root) else "nothing"
    raise DatasetError(f"expected a folder of images at {root}, found {found}. Check the path, seen from {Path.cwd()}.")


def _classify(root: Path, files: list[str]) -> tuple[list[str], list[int]]:
    """Class names and, for each file, the position of its class: the first component of its path."""
    stray = next((file for file in files if "/" not in file), None)
    if stray is not None:
        raise DatasetError(
            f"expected one folder for each class in {root}, found the image {stray} directly in it."
            " Move it into the folder of its class, or do not ask for classes."
        )
    names = [file.partition("/")[0] for file in files]
    classes = sorted(set(names))
    positions = {name: position for position, name in enumerate(classes)}
    return classes, [positions[name] for name in names]
