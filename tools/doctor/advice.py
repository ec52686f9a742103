"""The next command: what to type after the doctor."""

import os
import shlex


def advise(findings, words, run=None):
    """Return (sentence, command) of what comes next.

    Errors that a setting answers are answered by it; for others the doctor is asked again.

    Args:
        findings: list of findings.Finding.
        words: of the command line, key=value, without run= and output=.
        run: folder of a run whose augmentation was looked at; None: of none.
    """
    errors = [one for one in findings if one.severity == "error"]
    again = [f"run={run}", *words] if run else words
    if not all(map(_list_usable, errors)):
        those = "the error" if len(errors) == 1 else f"the {len(errors)} errors"
        return f"Correct {those}, then look again:", _join("-m tools.doctor", again)
    if run:
        return "The run has no error; its test predictions:", _join("infer.py", again[:1])
    answers = {key: word for one in findings for key, word in _list_usable(one).items()}
    words = [word for word in words if word.partition("=")[0] not in answers] + list(answers.values())
    how = ", with the settings that answer findings" if answers else ""
    return f"Train{how}; one fold first with fold=0, to see that it learns:", _join("train.py", words)


def _list_usable(finding):
    """Return {key: word} of a finding's settings, without files that could not be written."""
    words = {word.partition("=")[0]: word for word in finding.words}
    return {key: word for key, word in words.items() if key != "folds" or os.path.isfile(word.partition("=")[2])}


def _join(program, words):
    return " ".join(["python", program, *map(shlex.quote, words)])
