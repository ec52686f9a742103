"""Files elsewhere, by URL, through fsspec, whose only door this is; docs/scale.md says what is known of them.

Credentials are in the environment and the file systems' own files, never in a setting. A connection belongs to the
process that opened it, as a forked one cannot use its parent's.
"""

import atexit
import functools
import os
import re
import time
import zlib

from src.errors import UserError, first_line, listing

MAX_BYTES, CONNECTIONS = 1_000_000_000, 32  # of a file; files that are fetched at once, as docs/scale.md reckons
HTTP = ("http://", "https://")  # which lists no folder
# Not those of fsspec that run programs (git), fill templates (reference) or lead back to the disk (file, dir).
PROTOCOLS = ("http", "https", "s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "oss", "hdfs", "webhdfs", "sftp", "ftp")
PROTOCOLS += ("memory",)  # of this process, for tests
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://([^/]*)")
_TRIES, _PAUSE = 5, 0.5  # requests for a file; seconds before the second, twice as many before each further one
_SECONDS = {"total": 600, "sock_connect": 15, "sock_read": 30}  # of a request by http
_VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "mtime", "LastModified", "last_modified", "updated", "created")
FETCHING, _LISTED = {}, {}  # (process, URL) -> its bytes once they are here; folder -> {name: (bytes, version)}


class Unreachable(UserError):
    """A file could not be had this time, which says nothing about it."""


def is_url(path):
    """Whether a path begins as a URL does."""
    return "://" in path and _URL.match(path) is not None


def check_url(where, url):
    """Refuse a URL of another protocol, or one that may hold a secret, which config.yaml and trackers would keep."""
    protocol, place = _URL.match(url).groups()
    is_http = url.startswith(HTTP)
    if protocol not in PROTOCOLS:
        raise UserError(f"{where}: {protocol}:// is not read; write one of {listing(PROTOCOLS, 20)}")
    if ("@" in place and (is_http or ":" in place)) or set("?#") & set(url):
        advice = """put it into ~/.netrc or FSSPEC_HTTPS='{"params": {"NAME": "VALUE"}}', as docs/scale.md says"""
        raise UserError(f"{where}: holds a name, password or query, which config.yaml would keep; {advice}")
    if re.search("[{}*]|::", place.replace("[::", "")) or (is_http and not place):
        raise UserError(f"{where}: names no server; write it out, as https://host/train/{{id}}.jpg")


def list_folder(url):
    """Return (files, folders), two sets of names, empty where there is no such folder; not of http."""

    def read(fs):
        try:
            return fs.ls(url, detail=True)
        except FileNotFoundError:
            return []
        finally:
            fs.invalidate_cache()  # which takes 1 KB a file, and would be old the next time

    named = [(one["name"].rstrip("/").rpartition("/")[2], one) for one in _try(url, read)]
    folders = {name for name, one in named if one["type"] == "directory"}
    version = lambda one: zlib.crc32(repr([one.get(key) for key in _VERSIONS]).encode())  # noqa: E731
    _LISTED[url] = {name: (one["size"], version(one)) for name, one in named if name not in folders}
    return set(_LISTED[url]), folders


def stat_file(url):
    """Return (bytes, a number that another version would change), -1 where no listing of its folder has said them."""
    folder, _, name = url.rpartition("/")
    return _LISTED.get(folder, {}).get(name, (-1, -1))


def request(urls):
    """Begin to fetch files for which `read_file` will ask soon."""
    for url in filter(is_url, urls):
        if (os.getpid(), url) not in FETCHING:
            FETCHING[os.getpid(), url] = _threads(os.getpid()).apply_async(_read, (url,))


def read_file(url):
    """Return the bytes of a file of at most 1 GB; a UserError: there is none, or Unreachable."""
    fetching = FETCHING.pop((os.getpid(), url), None)
    return fetching.get() if fetching else _read(url)


def _read(url):
    data = _try(url, lambda fs: _read_http(fs, url) if url.startswith(HTTP) else fs.cat_file(url, 0, MAX_BYTES + 1))
    if data is None or len(data) > MAX_BYTES:
        raise UserError(f"{url}: is over {MAX_BYTES // 10**9} GB; scale it down beforehand")
    return data


def _read_http(fs, url):
    """Return a file's bytes by one request, None of a larger one; aiohttp raises where a body ends too early."""
    from aiohttp import ClientTimeout
    from fsspec.asyn import sync

    async def read():
        session, data = await fs.set_session(), bytearray()
        async with session.get(fs.encode_url(url), timeout=ClientTimeout(**_SECONDS), **fs.kwargs) as response:
            response.raise_for_status()
            if response.status != 200:
                raise OSError(f"answer {response.status}, which holds no whole file")
            async for chunk in response.content.iter_any():
                data += chunk
                if max(len(data), response.content_length or 0) > MAX_BYTES:
                    return None
        if data[:99].lstrip().lower().startswith((b"<!doctype html", b"<html")):  # which says nothing about the file
            raise OSError("a web page came in its place, as of a login or a limit")
        return bytes(data)

    return sync(fs.loop, read)


def _try(url, function):
    """Return function(file system), tried again where the network or the server may be to blame."""
    for number in range(_TRIES):
        time.sleep(_PAUSE * 2 ** (number - 1) if number else 0)
        try:
            return function(_connect(os.getpid(), *_URL.match(url).groups()))
        except ImportError as error:
            library = (getattr(error.__cause__, "name", None) or error.name or "fsspec").partition(".")[0]
            raise UserError(f"{url}: needs a library that is not installed; pip install {library}") from None
        except Exception as error:  # each file system raises its own
            status, name = getattr(error, "status", None) or 0, type(error).__name__
            is_missing = isinstance(error, FileNotFoundError) or status in (404, 410)
            reason = f"{status} {getattr(error, 'message', '')}".strip() if status else f"{name} {first_line(error)}"
            reason = "no such file" if is_missing else "no answer in time" if "Timeout" in name else reason[:300]
            is_secret = isinstance(error, PermissionError) or status in (401, 403) or "Credential" in name
            is_final = is_missing or is_secret or (400 <= status < 500 and status not in (408, 425, 429))
            if is_final or isinstance(error, ValueError):
                advice = "give credentials as docs/scale.md says" if is_secret else "check root, pattern and id"
                raise UserError(f"{url}: cannot be read ({reason}); {advice}") from None
    raise Unreachable(f"{url}: cannot be read in {_TRIES} tries ({reason}); repeat the command, which resumes")


@functools.cache
def _connect(process, protocol, place):
    """Return the file system of a URL's server or bucket, in one process."""
    import fsspec

    if f"{protocol}://" not in HTTP:
        return fsspec.core.url_to_fs(f"{protocol}://{place}")[0]
    given = {**fsspec.config.conf.get("http", {}), **fsspec.config.conf.get("https", {})}.get("client_kwargs", {})
    return fsspec.filesystem(protocol, client_kwargs={"trust_env": True} | given)  # proxies and ~/.netrc


@functools.cache
def _threads(process):
    from multiprocessing.pool import ThreadPool  # whose threads do not keep a program from ending

    pool = ThreadPool(CONNECTIONS)
    atexit.register(pool.terminate)
    return pool
