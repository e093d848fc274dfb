"""Local paths, and URLs of object stores that answer as paths do."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import IO, Any

from gptjax import errors

_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}
# What tells one version of an object from the next, by the names that stores use.
_VERSIONS = ("etag", "ETag", "generation", "mtime", "LastModified", "created")


class Remote:
    """A URL such as `gs://bucket/a.txt`, with the part of pathlib's methods used here.

    Whatever a store's library raises comes as one line that names the URL.
    """

    def __init__(self, url: str):
        import fsspec

        self._url = url.rstrip("/")
        with _told(self._url):
            try:
                self._system, self._path = fsspec.core.url_to_fs(self._url)
            except ImportError as error:
                scheme = url.split("://")[0]
                extra = _EXTRAS.get(scheme)
                how = str(error)
                if extra is not None:
                    how = f'{scheme}:// needs: pip install "gptjax[{extra}]"'
                raise errors.UserError(f"{url}: {how}") from error

    def __str__(self) -> str:
        return self._url

    def __truediv__(self, name: str) -> "Remote":
        return Remote(f"{self._url}/{name}")

    @property
    def name(self) -> str:
        return pathlib.PurePosixPath(self._url).name

    @property
    def suffix(self) -> str:
        return pathlib.PurePosixPath(self._url).suffix

    def exists(self) -> bool:
        with _told(self._url):
            # Stores are not asked twice for a listing; others may have written since.
            self._system.invalidate_cache()
            return self._system.exists(self._path)

    def is_dir(self) -> bool:
        with _told(self._url):
            return self._system.isdir(self._path)

    def rglob(self, pattern: str) -> Iterator["Remote"]:
        """All files below; of patterns it knows `*` alone."""
        assert pattern == "*"
        with _told(self._url):
            found = self._system.find(self._path)
        for path in found:
            yield self / path[len(self._path) :].lstrip("/")

    def relative_to(self, folder: "Remote") -> pathlib.PurePosixPath:
        return pathlib.PurePosixPath(self._url[len(folder._url) + 1 :])

    def open(self, mode: str = "rb") -> IO[bytes]:
        with _told(self._url):
            return self._system.open(self._path, mode)

    def read_text(self, encoding: str = "utf-8") -> str:
        with _told(self._url):
            return self._system.cat_file(self._path).decode(encoding)

    def download(self, to: pathlib.Path) -> None:
        with _told(self._url):
            self._system.get_file(self._path, str(to))

    def upload(self, file: pathlib.Path) -> None:
        with _told(self._url):
            self._system.makedirs(self._path.rpartition("/")[0], exist_ok=True)
            self._system.put_file(str(file), self._path)

    def info(self) -> dict[str, Any]:
        with _told(self._url):
            return self._system.info(self._path)


Path = pathlib.Path | Remote


def path(text: str) -> Path:
    """What a path or URL names; `~` and `file://` are understood.

    Raises:
      UserError: a URL whose kind is unknown, or needs a library that is not there.
    """
    if text.startswith("file://"):
        return pathlib.Path(text.removeprefix("file://"))
    return Remote(text) if "://" in text else pathlib.Path(text).expanduser()


def stat(file: Path) -> tuple[list[Any], int]:
    """What tells a file's content from others, JSON-able, and its bytes."""
    if isinstance(file, Remote):
        info = file.info()
        version = next((str(info[k]) for k in _VERSIONS if info.get(k)), None)
        return [str(file), info["size"], version], info["size"]
    found = file.stat()
    return [str(file.resolve()), found.st_size, found.st_mtime_ns], found.st_size


@contextlib.contextmanager
def reading(file: Path) -> Iterator[IO[bytes]]:
    """A file that is read while this is entered; the store's failures told."""
    told = _told(str(file)) if isinstance(file, Remote) else contextlib.nullcontext()
    with told, file.open("rb") as stream:
        yield stream


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    try:
        yield
    except errors.UserError:
        raise
    # The libraries of stores have exceptions of their own, with no common base.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = "not there"
        raise errors.UserError(f"{url}: {reason}") from error
