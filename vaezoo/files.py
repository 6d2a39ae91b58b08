"""Files that are there whole or not at all."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import tempfile

import filelock

PREFIX = ".writing-"
LOCK = ".lock"  # in a folder, while a process is in a `locked` block of it


@contextlib.contextmanager
def atomic(path):
    """Yields a temporary path beside `path`, which becomes `path` if the block succeeds and vanishes if it fails.

    It may become a file, which replaces a file at `path`, or a folder, which replaces nothing but an empty folder. The
    temporary name ends like `path`, for writers that look at the suffix. Folders that are made for `path` vanish too.
    """
    path = pathlib.Path(path)
    with _made(path.parent):
        folder = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=path.parent))
        try:
            temporary = folder / path.name
            yield temporary
            for written in (temporary, *temporary.rglob("*")):
                if written.is_file():
                    with written.open("rb") as file:
                        os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(directory, *, wait=True):
    """Yields a folder's path, which is made if need be, while no other process is in a `locked` block of that folder.

    The lock is the kernel's, on the hidden file `.lock` in the folder: it ends with the process, however that ends. The
    file vanishes with the block; what a killed process leaves of it is removed by the next block, and locks nobody out.

    Raises:
        BlockingIOError: another process is in such a block, and `wait` is False.
    """
    directory = pathlib.Path(directory)
    with _made(directory):
        lock = filelock.FileLock(directory / LOCK)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except filelock.Timeout:
            raise BlockingIOError(
                f"`directory` must not be one that another process writes to. Received: {directory}"
            ) from None
        try:
            yield directory
        finally:
            with contextlib.suppress(OSError):  # Windows removes it after the release
                (directory / LOCK).unlink()  # before the release: who waits for it sees that it is gone, and retries
            lock.release()


@contextlib.contextmanager
def _made(directory):
    """Makes a folder and its parents; those that were made and are empty at the end vanish."""
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]  # the deepest first
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


def sha256(path):
    """Returns the hexadecimal SHA-256 sum of a file."""
    with pathlib.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(directory):
    """Removes what a killed process left of its `atomic` writes in a folder. Only for a folder with one writer."""
    for leftover in pathlib.Path(directory).glob(f"{PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)
