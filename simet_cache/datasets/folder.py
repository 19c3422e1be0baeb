"""A folder of images, searched to the bottom, as a torch dataset.

The list of files is the dataset's identity, so it must be the same on every machine: it does not depend on the order
in which the system lists a folder, and links neither repeat a folder nor trap the search.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, SupportsIndex

from PIL import Image
from torch.utils.data import Dataset

from simet_cache.datasets import passed_over
from simet_cache.datasets.bit_depth import UndecidedError
from simet_cache.datasets.images import MAX_PIXELS, check_header, read_image
from simet_cache.datasets.passed_over import Notes
from simet_cache.datasets.suffixes import IMAGE_SUFFIXES
from simet_cache.datasets.survey import Survey, survey
from simet_cache.errors import DatasetError, ImageReadError
from simet_cache.retrying import errno_can_pass

_HIDDEN = ("__MACOSX", "Thumbs.db")  # left behind by desktops; so are names with a leading dot
_THREADS = 8  # that wait for files of a file server; one alone reads headers as fast from memory
_BATCH = 64


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
    return sorted(_walk(os.fspath(root), Notes()))


def has_images(root: Path) -> bool:
    """Whether any image file lies below a folder, by the rules of `image_files`; stops at the first.

    Raises:
        DatasetError: A folder cannot be listed.
    """
    return next(_walk(os.fspath(root), Notes()), None) is not None


def _walk(root: str, notes: Notes) -> Iterator[str]:
    """The real tree first, then round by round what links lead to, in the order of their paths."""
    seen: set[tuple[int, int]] = set()
    starts = [""]
    while starts:
        links: list[str] = []
        for start in sorted(starts):
            yield from _walk_real(root, start, seen, links, notes)
        starts = links


def _walk_real(root: str, start: str, seen: set[tuple[int, int]], links: list[str], notes: Notes) -> Iterator[str]:
    """Files below ``root/start`` without following links to folders, which are added to ``links``."""
    folders = [start]
    while folders:
        folder = folders.pop()
        prefix = f"{folder}/" if folder else ""
        path = os.path.join(root, folder) if folder else root
        if not _is_new(path, seen):
            notes.add(passed_over.LISTED, folder)
            continue
        for entry in _entries(path):
            name = entry.name
            if name.startswith(".") or name in _HIDDEN:
                notes.add(passed_over.HIDDEN, prefix + name)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(prefix + name)
            elif entry.is_symlink() and _leads_to_folder(entry):
                links.append(prefix + name)
            elif (suffix := _suffix(name)) not in IMAGE_SUFFIXES:
                notes.add(passed_over.OTHER, prefix + name, suffix=suffix)
            elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
                yield prefix + name
            else:
                notes.add(passed_over.NO_FILE, prefix + name)


def _suffix(name: str) -> str:
    _, dot, end = name.rpartition(".")
    return dot + end.lower() if dot else ""


def _is_new(folder: str, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder has not been ``seen``, under whatever name; from now on it has."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _unlistable(folder, error) from error
    known = (status.st_dev, status.st_ino) in seen
    seen.add((status.st_dev, status.st_ino))
    return not known


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
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
        max_pixels: Images of more cannot be read.
        bit_depth: How many bits the values of images have that are stored with more than 8: 8, 12 or 16. None until
            one of them is read, and then what the largest value of all of them says.
        passed_over: What lies below ``root`` and does not count, by reason.

    Raises:
        DatasetError: ``root`` is no folder or holds no image; or classes are wanted and an image lies in none.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        transform: Callable[[Image.Image], Any] | None = None,
        classes: bool = False,
        max_pixels: int = MAX_PIXELS,
        bit_depth: int | None = None,
    ) -> None:
        notes = Notes()
        self.root = _existing_folder(Path(root))
        self.files = sorted(_walk(os.fspath(self.root), notes))
        self.transform = transform
        self.classes: list[str] = []
        self.targets: list[int] = []
        self.max_pixels = max_pixels
        self.bit_depth = bit_depth
        if not self.files:
            found = ", ".join(map(str, notes.all()))
            raise DatasetError(
                f"no image in {self.root}: expected files such as .png, .jpg or .webp in it or below it, found"
                f" {found or 'none'}. Check the path, unpack archives first, give files of images their suffix, and"
                " convert other formats, such as HEIC, to PNG."
            )
        if classes:
            self.classes, self.targets = _classify(self.root, self.files)
            for name in sorted(_folders_in(self.root) - {*self.classes}):
                notes.add(passed_over.NO_CLASS, name)
        self.passed_over = notes.all()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: SupportsIndex) -> Any:
        """Read one image.

        Raises:
            IndexError: There is no such image.
            ImageReadError: Its file cannot be read.
            DatasetError: It has more than 8 bits for each pixel, and nobody knows how many of them count.
        """
        try:
            image: Any = self._read(index)
        except UndecidedError:
            depth = self.survey(range(len(self))).bit_depth("auto", name=str(self.root))
            if depth is None:  # it has just become so
                raise
            self.bit_depth = depth.bits
            image = self._read(index)
        if self.transform is not None:
            image = self.transform(image)
        return (image, self.targets[index]) if self.targets else image

    def _read(self, index: SupportsIndex) -> Image.Image:
        path = os.path.join(self.root, self.files[index])
        return read_image(path, max_pixels=self.max_pixels, bit_depth=self.bit_depth)

    def survey(self, indices: Sequence[int]) -> Survey:
        """What the files of some images look like, by their heads."""
        return survey([os.path.join(self.root, self.files[index]) for index in indices], max_pixels=self.max_pixels)

    def bad_headers(self, indices: Sequence[int]) -> list[ImageReadError]:
        """The images among some that cannot be read, as far as their first bytes tell; in the order of ``indices``.

        What comes and goes, like a file server that does not answer, says nothing about an image, and is left out.
        """

        def bad(batch: Sequence[int]) -> list[ImageReadError]:
            return [error for index in batch if (error := self._bad_header(index)) is not None]

        batches = [indices[at : at + _BATCH] for at in range(0, len(indices), _BATCH)]
        pool = ThreadPoolExecutor(_THREADS)
        try:
            return [error for errors in pool.map(bad, batches) for error in errors]
        finally:  # also where somebody presses Ctrl-C
            pool.shutdown(cancel_futures=True)

    def _bad_header(self, index: int) -> ImageReadError | None:
        try:
            check_header(os.path.join(self.root, self.files[index]), max_pixels=self.max_pixels)
        except ImageReadError as error:
            return None if errno_can_pass(error.errno) else error
        return None


def _folders_in(root: Path) -> set[str]:
    return {
        entry.name
        for entry in _entries(os.fspath(root))
        if not entry.name.startswith(".") and entry.name not in _HIDDEN and _is_folder(entry)
    }


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and _leads_to_folder(entry))


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
