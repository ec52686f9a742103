"""The official kaggle package: its client with the user's key, calls that may be left, and its refusals in one line."""

import contextlib
import errno
import io
import re
import threading
from json import JSONDecodeError
from pathlib import PurePosixPath

from src.errors import UserError, first_line, nearest

_SETTINGS = "https://www.kaggle.com/settings/api"
_AGAIN = "run the same command again"
_SECONDS = 120  # that an answer may take; the package itself waits for ever


def connect():
    """Return the package's client (kaggle.KaggleApi) with the user's key.

    Raises:
        UserError: the package is missing or old, there is no key, or no connection.
    """
    try:
        api = call(_authenticate)
    except ModuleNotFoundError as error:
        found = "the package" if error.name == "kaggle" else f"{error.name}, which the package needs,"
        raise UserError(f"kaggle: {found} is not installed; pip install {error.name}") from None
    except SystemExit:
        from kagglesdk import get_access_token_from_env

        if (source := get_access_token_from_env()[1]) is not None:
            raise UserError(f"kaggle: the token in {source} is not accepted; make another at {_SETTINGS}") from None
        how = f"make a token at {_SETTINGS} and save it in ~/.kaggle/access_token (or set KAGGLE_API_TOKEN)"
        raise UserError(f"kaggle: no key was found; {how}, or save kaggle.json in ~/.kaggle") from None
    except Exception as error:
        if (found := _describe_silence(error)) is not None:
            raise UserError(found) from None
        advice = "pip install -U kaggle, or set KAGGLE_CONFIG_DIR to a folder that can be written"
        raise UserError(f"kaggle: the package does not start ({first_line(error)}); {advice}") from None
    if not hasattr(api, "get_submission"):
        raise UserError("kaggle: the package is too old; pip install -U kaggle")
    api.already_printed_version_warning = True
    return api


def _authenticate():
    from kaggle import api  # which authenticates; without a key it prints how to get one, and goes on

    if not api.config_values.get("auth_method"):
        api.authenticate()
    return api


def call(function, *arguments, seconds=_SECONDS, watch=None):
    """Return function(*arguments), with nothing printed, from a thread, which Ctrl-C and silence leave behind.

    watch: called with the function that waits for some seconds and tells whether the thread is at work still.

    Raises:
        TimeoutError: no answer within the seconds; and what the function raises.
    """
    found = {}

    def work():
        try:
            found["value"] = function(*arguments)
        except BaseException as error:  # SystemExit, too: the package calls exit()
            found["error"] = error

    def is_working(pause):
        thread.join(pause)
        return thread.is_alive()

    thread = threading.Thread(target=work, daemon=True)
    with contextlib.redirect_stdout(io.StringIO()):
        thread.start()
        if watch is not None:
            watch(is_working)
        if is_working(seconds):
            raise TimeoutError(f"no answer within {seconds} s")
    if "error" in found:
        raise found["error"]
    return found["value"]


def name_of(text):
    """Return a competition's name from a name or a URL."""
    found = re.fullmatch(r"(?:https?://)?(?:www\.)?kaggle\.com/(?:competitions|c)/([\w-]+)(?:[/?#].*)?", text)
    name = found[1] if found else text
    if not re.fullmatch(r"[\w-]+", name):
        raise UserError(f"{text}: no name of a competition; write the last part of its URL")
    return name


def find_competition(api, name):
    """Return (kaggle's ApiCompetition of that name, or None, names of those that a search finds)."""
    found = {}
    with contextlib.suppress(Exception):  # what is asked for is told all the same, with less
        listed = call(lambda: api.competitions_list(search=name.replace("-", " ")).competitions)
        found = {PurePosixPath(one.ref).name: one for one in listed}
    return found.get(name), list(found)


@contextlib.contextmanager
def refusals(api, name):
    """Turn what the package raises about a competition inside the block into one UserError."""
    try:
        yield
    except Exception as error:
        if (found := _describe_silence(error) or _describe_refusal(error, api, name)) is None:
            raise
        raise UserError(found) from None


def status_of(error):
    """Return the HTTP status of an exception, None where there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def is_silence(error):
    """Whether there was no answer, or one that says to ask later, or a page where data should be."""
    import requests
    import urllib3

    kinds = (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError, JSONDecodeError)
    status = status_of(error)
    is_disk = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, kinds) and not is_disk and (status is None or status == 429 or status >= 500)


def _describe_silence(error):
    """Return one line about an answer that did not come; None of other errors."""
    if not is_silence(error):
        return None
    if isinstance(error, JSONDecodeError):
        return f"kaggle: its answer is a page, not data, as while it is maintained; {_AGAIN} in a while"
    if (status := status_of(error)) is None:
        return f"kaggle: no connection ({type(error).__name__}); {_AGAIN} when there is one"
    return f"kaggle: {'too many questions' if status == 429 else 'it has a problem'} ({status}); {_AGAIN} in a while"


def _describe_refusal(error, api, name):
    """Return one line about a refusal by kaggle (HTTP 4xx), with what to do; None of other errors."""
    if (status := status_of(error)) is None:
        return None
    said, page = _said(error), f"https://www.kaggle.com/competitions/{name}"
    if status == 401:
        return f"kaggle: the key is not accepted ({said}); make another at {_SETTINGS}"
    if re.search(r"notebook|kernel|code competition", said, re.IGNORECASE):
        return refuse_code(name, said)
    if re.search(r"limit|maximum|per day|daily|remaining", said, re.IGNORECASE):
        return f"{name}: Kaggle takes no more today ({said}); {_AGAIN} after midnight UTC"
    accept = f"open {page}/rules, accept them, and {_AGAIN}"
    if re.search(r"\brules?\b", said, re.IGNORECASE):
        return f"{name}: its rules are not accepted ({said}); {accept}"
    if status not in (403, 404):
        return f"{name}: Kaggle refuses ({status}: {said}); look at {page}/submissions"
    known, names = find_competition(api, name)
    if known is None:
        found = f"Kaggle knows no such competition, or its rules are not accepted ({said})"
        advice = f"write the last part of its URL (submit: competition=NAME), or {accept}"
        return f"{name}: {found}; {advice}{nearest(name, names)}"
    if not known.user_has_entered:
        return f"{name}: its rules are not accepted ({said}); {accept}"
    return f"{name}: Kaggle refuses ({said}); look at {page}, whether it is open and your account is verified"


def refuse_code(name, said="its page says so"):
    """Return the line about a competition that takes notebooks alone."""
    how = "python -m tools.bundle RUN output=FOLDER makes what its notebook needs"
    return f"{name}: takes notebooks only, no files ({said}); {how}"


def _said(error):
    """Return what the server says, in one line."""
    with contextlib.suppress(Exception):
        if said := error.response.json().get("message"):
            return str(said).strip().rstrip(".")
    return f"{error.response.status_code} {error.response.reason}"
