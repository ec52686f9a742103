"""A competition's files: listed, downloaded where the disk has room, unzipped into one folder, adopted and examined.

All that is unfinished lies in <data_dir>/<name>.download, where the same command continues; <data_dir>/<name> is there
only when it is whole.
"""

import errno
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from functools import partial
from pathlib import Path

from src.config.load import load_config
from src.config.settings import REPOSITORY
from src.errors import UserError, first_line
from src.terminal import track
from tools.kaggle.host import call, connect, name_of, refusals

_PAGES, _SHOWN = 5, 8  # of 200 files each, of competitions with 100,000s; lines of the list
_MB, _CHUNK = 1e6, 2**16  # bytes; what the package reads at once, of which a break loses the last


def download(text, data_dir):
    """Bring a competition, a name or URL, into <data_dir>/<name>; return the exit status."""
    name = name_of(text)
    folder = Path(data_dir) / name
    if folder.is_dir() and any(folder.iterdir()):
        print(f"{folder}: is there already")
        if (unfinished := _unfinished(folder)).is_dir() and not (unfinished / "files").exists():
            shutil.rmtree(unfinished)  # a kill has left the archive
    else:
        _fetch(name, folder)
    return _examine(name, folder)


def _fetch(name, folder):
    """Download, check and unzip all files of a competition into a folder that is not there yet."""
    unfinished = _unfinished(folder)
    archive, unpacked = unfinished / f"{name}.zip", unfinished / "files"
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        if not archive.is_file():
            shutil.rmtree(unpacked, ignore_errors=True)  # of another archive, whose files may be as long
            _download(name, archive)
        _unpack(archive, unpacked)
        if folder.is_dir():
            folder.rmdir()  # it is empty
        os.replace(unpacked, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{folder.parent}: the disk is full; {_advise_on_disk()}") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"{error.filename}: {error.strerror}; set data_dir=FOLDER to one to write into") from None
        raise
    shutil.rmtree(unfinished)


def _unfinished(folder):
    return folder.with_name(f"{folder.name}.download")


def _download(name, archive):
    """Write a competition's archive, all or nothing; what an earlier command left of it is continued.

    The package continues a file where the server's ETag and size are those it began with, and else begins anew.
    """
    api, path = connect(), archive.with_name(f"{archive.name}.partial")
    with refusals(api, name):
        num_bytes = _list_files(api, name)
        client, response = call(_ask, api, name)
        size = int(response.headers.get("Content-Length", 0))
        have = min(path.stat().st_size, size) if path.is_file() else 0
        _check_disk(archive.parent, size - have, max(num_bytes, size))
        if have:
            print(f"{path}: {_in_mb(have)} of {_in_mb(size)} are there, continuing")

        def watch(is_working):
            def grown():
                last = have
                while is_working(0.2):
                    now = path.stat().st_size if path.is_file() else 0
                    yield max(now - last, 0) / _MB
                    last = max(now, last)

            for _ in track(grown(), archive.name, size / _MB, have / _MB, count=float, unit="MB"):
                pass

        try:
            begin = partial(api.download_file, quiet=True, resume=True, chunk_size=_CHUNK)
            call(begin, response, str(path), client.http_client(), watch=watch)
        except ValueError as error:  # of a size that is not the announced one
            path.unlink(missing_ok=True)
            raise UserError(f"{archive}: {error}; run the same command again, which begins anew") from None
    if size and path.stat().st_size != size:
        raise UserError(f"{path}: has {path.stat().st_size} bytes of {size}; run the same command again")
    os.replace(path, archive)


def _ask(api, name):
    """Return (kaggle's client, the HTTP response that holds all files of a competition, which is not read yet)."""
    from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

    request = ApiDownloadDataFilesRequest()
    request.competition_name = name
    client = api.build_kaggle_client()
    client.__enter__()  # left open, since the response is read later
    return client, client.competitions.competition_api_client.download_data_files(request)


def _list_files(api, name):
    """Print a competition's files with their sizes; return the bytes of those that are listed."""
    files, token = [], None
    for _ in range(_PAGES):
        page = call(api.competition_list_files, name, token, 200)
        files += page.files
        if not (token := page.next_page_token):
            break
    num_bytes = sum(file.total_bytes for file in files)
    is_more = "more than " if token else ""
    print(f"{name}: {is_more}{len(files)} files, {is_more}{_in_mb(num_bytes)}")
    for file in sorted(files, key=lambda file: -file.total_bytes)[:_SHOWN]:
        print(f"  {_in_mb(file.total_bytes):>12}  {file.name}")
    if len(files) > _SHOWN:
        print(f"  {'':12}  ...")
    return num_bytes


def _unpack(archive, folder):
    """Unzip an archive into a folder, except files that are there in full size; each one's CRC is checked.

    An archive that is damaged is deleted; what came out of it goes before another is downloaded.
    """
    folder.mkdir(exist_ok=True)
    if not zipfile.is_zipfile(archive):
        raise UserError(f"{archive}: is no zip; look at what it is, delete it and run the same command again")
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [one for one in opened.infolist() if not one.is_dir()]
            left = [one for one in members if not _is_there(folder, one)]
            _check_disk(folder, 0, sum(one.file_size for one in left))
            num_done = len(members) - len(left)
            for one in track(left, "unzipping", len(members), num_done, unit="files"):
                opened.extract(one, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        archive.unlink()
        found = f"{archive}: damaged ({first_line(error)}), and deleted"
        raise UserError(f"{found}; run the same command again, which downloads it anew") from None


def _is_there(folder, member):
    path = folder / member.filename
    return path.is_file() and path.stat().st_size == member.file_size


def _check_disk(folder, num_packed, num_unpacked):
    """Refuse what the disk has no room for, in bytes."""
    free = shutil.disk_usage(folder).free
    if free < num_packed + num_unpacked:
        wanted = f"{_in_mb(num_packed)} for the zip and " if num_packed else ""
        found = f"{_in_mb(free)} are free, wanted are {wanted}{_in_mb(num_unpacked)} unzipped"
        raise UserError(f"{folder}: {found}; {_advise_on_disk()}")


def _advise_on_disk():
    return "free some space, or set data_dir=FOLDER on another disk, and run the same command again"


def _in_mb(num_bytes):
    return f"{num_bytes / _MB:,.1f} MB" if num_bytes < 1e10 else f"{num_bytes / 1e9:,.1f} GB"


def _examine(name, folder):
    """Run tools.adopt, where there is no competition file, and tools.doctor, where it has not seen it."""
    file = Path("configs") / "competition" / f"{name}.yaml"
    path = next((base / file for base in (Path(), REPOSITORY) if (base / file).is_file()), None)
    if path is None and (status := _run("tools.adopt", str(folder), f"name={name}")):
        return status
    config, words = load_config([f"competition={name}"]), [f"competition={name}"]
    if Path(config.competition.root).resolve() != folder.resolve():
        words.append(f"competition.root={folder}")
    if path is not None:
        print(f"{path}: is there already")
        if _is_packed(config.competition, folder):
            _run("tools.adopt", str(folder), "unzip=true", f"output=outputs/adopt/{name}.yaml")
    seen, status = Path(config.output_dir) / "doctor" / config.competition.name / "doctor.json", 0
    if seen.is_file() and seen.stat().st_mtime >= (path or file).stat().st_mtime:
        print(f"{seen}: is there already")
    else:
        status = _run("tools.doctor", *words)
    recipe = name if (REPOSITORY / "configs" / "recipe" / f"{name}.yaml").is_file() else "finetune"
    advice = "correct what the doctor found, then " if status else ""
    print(f"next: {advice}python train.py {' '.join(words)} recipe={recipe}")
    return status


def _is_packed(competition, folder):
    """Whether a folder that the competition file reads images from is not there, but in an archive."""
    given = competition.images or competition.train_image or []
    heads = {one.partition("/")[0] for one in ([given] if isinstance(given, str) else given) if "/" in one}
    return any(not set("{*") & set(one) and not (folder / one).exists() for one in heads)


def _run(tool, *words):
    """Run one of the project's tools as a program; return its exit status."""
    print(f"\npython -m {tool} {' '.join(words)}", flush=True)
    return subprocess.run([sys.executable, "-m", tool, *words], check=False).returncode
