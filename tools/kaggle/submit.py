"""A run's submission.csv to Kaggle, once, and its scores back; submitted.json of the run is the ledger.

Its "files" are, the newest last: sha256, competition, message, sent (UTC), ref (kaggle's number), status (sending,
pending, complete, error), public and private score. "sending" is written before a byte is sent, so that a command which
was cut off looks at Kaggle's own list before it sends anything.
"""

import hashlib
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from src.checkpointing.run_folder import RunFolder
from src.config.load import load_config, load_saved_config
from src.errors import UserError, listing
from src.files import load_json, save_json
from src.locks import hold
from src.terminal import warn
from tools.kaggle.host import call, connect, find_competition, is_silence, name_of, refusals, refuse_code, status_of

_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between two questions, the first and the most
_PATIENCE = 12  # questions in a row without an answer, five minutes


def submit(run, message, given, seconds, is_again, changes=()):
    """Send a run's submission and enter its scores; where it was sent before, go on waiting for them.

    message: None: the run's name; given: Kaggle's name of the competition, None: the ledger's, or the run's; seconds:
    how long to wait, None: until it is scored; changes: key=value words for the run's competition.
    """
    folder = RunFolder(run)
    config = load_saved_config(folder.path, changes)
    name = _find_name(folder, config.competition.name, given and name_of(given))
    digest = _check_unchanged(folder)
    with hold(folder.path.parent / ".locks" / "kaggle.lock", "another command sends a submission; waiting"):
        found = [one for one in _load_sent(folder.path.parent, name) if one[1]["sha256"] == digest]
        owner, entry = found[-1] if found and not is_again else (folder, None)
        advice = "infer again with other settings, or add again=true"
        if owner.path.resolve() != folder.path.resolve():
            where = f"{owner.path} has the same file, {_describe(entry)}"
            raise UserError(f"{folder.submission}: {where}; {advice}")
        if entry and entry["status"] in ("complete", "error"):
            raise UserError(f"{folder.submission}: was {_describe(entry)} before; {advice}")
        api = connect()
        if entry and entry["status"] == "sending":
            _look_for(api, folder, entry)
        if entry is None or entry["status"] == "sending":
            _check_values(folder, config.competition)
            if name != config.competition.name:
                _check_other(folder, config.competition.name, name)
            entry = _send(api, folder, name, digest, message or folder.path.name, entry)
    print(f"{folder.submission}: {_describe(entry)}; https://www.kaggle.com/competitions/{name}/submissions")
    if _wait(api, folder, entry, seconds):
        _enter(folder, entry)


def enter_missing(output_dir):
    """Ask Kaggle once for each score that a ledger lacks, and enter those that are there now."""
    open_ones = [(folder, one) for folder, one in _load_sent(output_dir) if _is_open(one)]
    print(f"{output_dir}: {len(open_ones)} submissions lack a score")
    api = connect() if open_ones else None
    for folder, entry in open_ones:
        before = dict(entry)
        _wait(api, folder, entry, 0)
        if entry != before and entry["status"] == "complete":
            _enter(folder, entry)


def _is_open(entry):
    return entry.get("ref") and entry["status"] != "error" and None in (entry.get("public"), entry.get("private"))


def _load_sent(output_dir, name=None):
    """Return [(RunFolder, ledger entry)] of the runs in a folder, of one competition of Kaggle or of all."""
    found = []
    for path in sorted(Path(output_dir).glob("*/submitted.json")):
        entries = load_json(path).get("files", [])
        found += [(RunFolder(path.parent), one) for one in entries if name in (None, one["competition"])]
    return found


def _save(folder, entry):
    """Write an entry, which `sent` identifies, into the ledger of its run; one without status is taken out."""
    with hold(folder.path.parent / ".locks" / "submitted.lock", f"{folder.submitted}: is being written; waiting"):
        content = load_json(folder.submitted) if folder.submitted.is_file() else {}
        files = [one for one in content.get("files", []) if one["sent"] != entry["sent"]]
        save_json(folder.submitted, content | {"files": [*files, entry] if entry.get("status") else files})


def _describe(entry):
    scores = [f"{key} {entry[key]}" for key in ("public", "private") if entry.get(key) is not None]
    number = f" as number {entry['ref']}" if entry.get("ref") else ""
    said = entry.get("error") or ", ".join(scores) or entry["status"]
    return f"sent {entry['sent'][:16].replace('T', ' ')} UTC{number} ({said})"


def _find_name(folder, own, given):
    """Return Kaggle's name of the run's competition; `own`: the one in its settings, given: that of the command."""
    used = set()
    for other, entry in _load_sent(folder.path.parent):
        with suppress(UserError):  # a run whose config.yaml cannot be read says nothing
            if load_saved_config(other.path).competition.name == own:
                used.add(entry["competition"])
    if given is None:
        return sorted(used)[0] if used else name_of(own)
    if used and given not in used:
        found = f"is a run of {own}, of which runs were sent to {listing(sorted(used))}"
        raise UserError(f"{folder.path}: {found}; leave competition={given} out")
    return given


def _check_unchanged(folder):
    """Return the SHA-256 of a run's submission, which must be the one that infer.py or tools.blend has noted."""
    how = f"python infer.py run={folder.path}"
    if folder.made_by.is_file():
        how = f"{load_json(folder.made_by, 'command')['command']} overwrite=true"
    if not folder.submission.is_file():
        raise UserError(f"{folder.submission}: no such file; write it: {how}")
    digest = hashlib.sha256(folder.submission.read_bytes()).hexdigest()
    noted = folder.submission_hash.read_text().split() if folder.submission_hash.is_file() else []
    if not noted:
        raise UserError(f"{folder.submission}: lacks {folder.submission_hash.name} beside it; write both: {how}")
    if noted[0] != digest:
        raise UserError(f"{folder.submission}: was changed since it was written; write it anew: {how}")
    return digest


def _check_values(folder, competition):
    """Check a submission as infer.py does, against the sample as it is now."""
    import numpy as np
    import pandas as pd

    from src.competition.submission import check_submission, load_sample  # here, as pandas takes half a second

    if (sample := load_sample(competition)) is None:
        print(f"{competition.name}: has no sample submission to check the columns and ids against")
        return
    frame = pd.read_csv(folder.submission, dtype=str, keep_default_na=False)
    if sample.index.name is not None:
        frame = frame.set_index(frame.columns[0])  # which counts rows
    one_a_row = [name for name in sample if sample[name].is_unique]
    id_column = competition.id if competition.id in sample else (one_a_row or list(sample))[0]
    for name in frame.columns.drop(id_column, errors="ignore"):
        is_filled = frame[name] != ""
        numbers = pd.to_numeric(frame[name].where(is_filled), errors="coerce")
        if is_filled.any() and numbers[is_filled].notna().all():
            frame[name] = numbers
    limits = (-np.inf, np.inf) if competition.task == "regression" else (0.0, 1.0)
    if id_column not in frame:
        found = f"columns are {listing(frame)}, the sample has {listing(sample)}"
        raise UserError(f"{folder.submission}: {found}; infer again")
    check_submission(frame, sample, id_column, *limits)
    print(f"{folder.submission}: {len(frame)} rows, checked")


def _check_other(folder, own, name):
    """Refuse a submission for a competition whose own file and sample, where they are here, ask for another."""
    from src.competition.paths import locate

    try:
        other = load_config([f"competition={name}"]).competition
        if not Path(locate(other.root, other.sample_submission or "")).is_file():
            return
    except UserError:  # there is no such file
        return
    try:
        _check_values(folder, other)
    except UserError as error:
        why = str(error).partition(";")[0].rpartition(": ")[2]
        found = f"is of {own}, and no submission to {name} ({why})"
        raise UserError(f"{folder.submission}: {found}; name a run of {name}") from None


def _send(api, folder, name, digest, message, entry):
    """Send a submission and return its ledger entry, written before and after; `entry`: one that never arrived."""
    known, _ = find_competition(api, name)
    if known is not None and known.is_kernels_submissions_only:
        raise UserError(refuse_code(name))
    limits = None
    with suppress(Exception):  # the server refuses by itself, after the upload
        limits = call(api.competition_get_submission_limits, name)
    if limits and limits.num_total and not limits.num_allowed_now:  # all are zero before the first one
        if limits.limited_by_total:
            raise UserError(f"{name}: takes no more submissions ({limits.num_total} were sent in all); see its page")
        found = f"takes no more today ({limits.num_today} were sent)"
        raise UserError(f"{name}: {found}; run the same command again after midnight UTC")
    if entry is not None:
        _save(folder, {"sent": entry["sent"]})
    sent = datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = {"sha256": digest, "competition": name, "message": message, "sent": sent, "status": "sending"}
    entry |= {"ref": None, "public": None, "private": None, "bytes": folder.submission.stat().st_size}
    _save(folder, entry)
    print(f"{folder.submission}: sending to {name} ...", flush=True)
    with refusals(api, name):
        try:
            answer = call(api.competition_submit, str(folder.submission), message, name, True, seconds=3600)
        except Exception as error:
            if status_of(error) is not None and not is_silence(error):
                _save(folder, {"sent": sent})  # it was refused; of any other error it may have arrived
            raise
    if answer.message == api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE:
        _save(folder, {"sent": sent})
        raise UserError(f"{folder.submission}: the upload failed; run the same command again")
    if answer.ref:
        entry |= {"ref": answer.ref, "status": "pending"}
        _save(folder, entry)
    else:
        _look_for(api, folder, entry)
    if not entry["ref"]:
        raise UserError(f"{folder.submission}: was sent, but Kaggle has no number for it; run the same command again")
    return entry


def _look_for(api, folder, entry):
    """Find a submission whose answer was lost in Kaggle's list; it is pending then, and stays "sending" if not."""
    taken = {one.get("ref") for _, one in _load_sent(folder.path.parent)}
    with refusals(api, entry["competition"]):
        listed = call(api.competition_submissions, entry["competition"]) or []
    begin = datetime.fromisoformat(entry["sent"]) - timedelta(minutes=10)  # the clocks may differ
    for one in listed:
        when = one.date if one.date is None or one.date.tzinfo else one.date.replace(tzinfo=UTC)
        is_late = when is None or when >= begin
        is_same = one.description == entry["message"] and (one.total_bytes or entry["bytes"]) == entry["bytes"]
        if is_late and is_same and one.ref not in taken:
            entry |= {"ref": one.ref, "status": "pending"}
            _save(folder, entry)
            return


def _wait(api, folder, entry, seconds):
    """Ask until a submission is scored, and write that into the ledger; return whether it is scored."""
    end = None if seconds is None else time.monotonic() + seconds
    pause, num_silent, is_told = _PAUSE, 0, False
    while True:
        found = None
        try:
            found, num_silent = call(_ask, api, entry["ref"]), 0
        except Exception as error:
            is_new = status_of(error) == 404  # not to be read in the first seconds
            if not is_new and not is_silence(error):
                with refusals(api, entry["competition"]):
                    raise
            if num_silent == _PATIENCE:
                found = f"{_describe(entry)}, but Kaggle does not answer ({type(error).__name__})"
                raise UserError(f"{folder.submission}: {found}; the same command asks again") from None
            if not is_new and not is_told:
                warn(f"kaggle: no answer ({type(error).__name__}); asking again")
            num_silent, is_told = num_silent + 1, is_told or not is_new
        if found is not None and found.status.name == "ERROR":
            _save(folder, entry | {"status": "error", "error": found.error_description or "no reason is given"})
            said = (found.error_description or "no reason is given").strip()
            raise UserError(f"{folder.submission}: Kaggle could not score number {entry['ref']}: {said}; correct it")
        if found is not None and found.status.name == "COMPLETE":
            entry |= {"status": "complete", "public": _number(found.public_score)}
            entry |= {"private": _number(found.private_score)}
            _save(folder, entry)
            return True
        if end is not None and time.monotonic() + pause > end:
            print(f"{folder.submission}: not scored yet; the same command goes on waiting")
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _ask(api, ref):
    from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest

    request = ApiGetSubmissionRequest()
    request.ref = ref
    with api.build_kaggle_client() as client:  # api.get_submission prints its retries
        return client.competitions.competition_api_client.get_submission(request)


def _number(text):
    with suppress(TypeError, ValueError):
        return float(text)
    return None


def _enter(folder, entry):
    """Enter an entry's scores with tools.leaderboard, which shows them among all runs'."""
    scores = [f"{key}={entry[key]}" for key in ("public", "private") if entry[key] is not None]
    said = ", ".join(scores).replace("=", " ") or "scored, but no score is shown yet"
    print(f"{folder.submission}: {said}\n", flush=True)
    if scores:
        words = ["-m", "tools.leaderboard", str(folder.path), *scores]
        if subprocess.run([sys.executable, *words], check=False).returncode:
            raise UserError(f"{folder.submitted}: the scores were not entered; enter them: python {' '.join(words)}")
