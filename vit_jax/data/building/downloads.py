"""TFDS's downloads, but existing files are used and unreachable servers fail at once."""

import os
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlparse

import requests
import tensorflow_datasets as tfds
from etils import epath

from vit_jax.console.progress import say
from vit_jax.errors import DataError, InputMissingError

TIMEOUT = 10  # seconds in which a server must answer
ELSEWHERE = "download it elsewhere and pass its folder as --downloads=DIR"


class Downloads(tfds.download.DownloadManager):
    """TFDS's download manager, but it uses existing files and fails at once without a server.

    TFDS itself uses an existing file only if its name is recorded, and retries a server for
    minutes.

    Args:
      files: The user's folder of files.
      accept_checksums: Whether to accept files whose checksums differ from TFDS's records.
      **kwargs: Arguments of TFDS's download manager.
    """

    def __init__(self, files: epath.Path, accept_checksums: bool, **kwargs: Any) -> None:
        super().__init__(manual_dir=files, **kwargs)
        self._files = files
        self._accept_checksums = accept_checksums
        self._servers: set[str] = set()

    def _download(self, resource: Any) -> Any:
        url = urlparse(resource.url)
        path = self._files / os.path.basename(url.path)
        if path.is_file():
            info = tfds.core.download.checksums.compute_url_info(path)
            self._register_or_validate_checksums(resource.url, info, path)
            return tfds.core.lazy_imports_utils.promise.Promise.resolve(path)
        if url.netloc not in self._servers:
            check_server(resource.url)
            self._servers.add(url.netloc)
        return super()._download(resource)

    def _register_or_validate_checksums(self, url: str, url_info: Any, path: epath.Path) -> None:
        recorded = self._url_infos.get(url)
        if recorded is not None and recorded != url_info:
            digests = f"{url_info.checksum}, TFDS recorded {recorded.checksum}"
            source = path if path.parent == self._files else url
            if not self._accept_checksums:
                problem = f"{source}: its sha256 is {digests}"
                raise DataError(f"{problem}; pass --accept_checksums to accept it")
            say(f"accepted {source}: sha256 {digests}")
            self._url_infos[url] = url_info
        super()._register_or_validate_checksums(url=url, url_info=url_info, path=path)

    def _log_skip_download(self, **_: Any) -> None:
        """Do nothing: TFDS would add these bytes to a count of MiB."""


def check_server(url: str) -> None:
    """Request a file from its server once, without reading it.

    Raises:
      InputMissingError: The server cannot be reached, or answers with an error.
    """
    try:
        if url.startswith("http"):
            with requests.get(url, stream=True, timeout=TIMEOUT) as response:
                status = response.status_code
            if status >= 400:
                raise InputMissingError(f"{url}: HTTP status {status}; {ELSEWHERE}")
        elif url.startswith("ftp"):
            urllib.request.urlopen(url, timeout=TIMEOUT).close()  # noqa: S310 - ftp alone
    except OSError as error:  # requests raises subclasses of it
        reasons = [cause for cause in causes_of(error) if isinstance(cause, OSError)]
        reason = reasons[-1].strerror or type(reasons[-1]).__name__
        raise InputMissingError(f"{url}: cannot be reached ({reason}); {ELSEWHERE}") from error


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of that, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
