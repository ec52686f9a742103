"""One process at a time: file locks, which end with the process that holds them.

A run's are in <output_dir>/.locks/<run>, so that deleting the run deletes none: one for opening it, and for each fold
one of the command that trains it and one of the job that its launcher has started, which may outlive the command.
"""

from filelock import FileLock, Timeout

from src.errors import UserError, listing


def hold(path, waiting):
    """Take the lock of a file until the returned context ends; where another process has it, print `waiting` first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(waiting, flush=True)
        return lock.acquire()


def opening(run_folder):
    """Return the context in which one process alone opens a run."""
    return hold(_folder_of(run_folder) / "open.lock", f"{run_folder}: another process is opening this run; waiting")


def check_free(run_folder, folds, is_overwritten):
    """Return whether others train folds of a run; one of these folds, or any to be overwritten, is a UserError."""
    busy = {path.stem.rpartition("fold")[2] for path in _folder_of(run_folder).glob("*fold*.lock") if _is_held(path)}
    if refused := sorted(busy if is_overwritten else busy & {str(fold) for fold in folds}):
        found = f"another process trains {'fold' if len(refused) == 1 else 'folds'} {listing(refused)}"
        raise UserError(f"{run_folder}: {found}; wait until it ends or choose name=ANOTHER")
    return bool(busy)


def hold_fold(run_folder, fold, is_job=False):
    """Return the context in which one command or one job trains a fold; it waits for a lost one that still saves."""
    waiting = f"{run_folder}: another process trains fold {fold}; waiting"
    return hold(_folder_of(run_folder) / f"{'job_' if is_job else ''}fold{fold}.lock", waiting)


def hold_output(folder):
    """Return the context in which one process alone writes predictions into a folder (a pathlib.Path)."""
    return hold(folder / ".infer.lock", f"{folder}: another process writes predictions there; waiting")


def _folder_of(run_folder):
    return run_folder.parent / ".locks" / run_folder.name


def _is_held(path):
    try:
        with FileLock(path).acquire(timeout=0):
            return False
    except Timeout:
        return True
