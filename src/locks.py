"""One process at a time: file locks, which end with the process that holds them.

A run's are in <output_dir>/.locks/<run>, so that deleting the run deletes none: one for opening it, one for each fold.
"""

from contextlib import ExitStack, contextmanager

from filelock import FileLock, Timeout

from src.errors import UserError, listing


@contextmanager
def hold(path, waiting):
    """Hold the lock of a file inside the block; where another process holds it now, print `waiting` and wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        print(waiting, flush=True)
        held = lock.acquire()
    with held:
        yield


def opening(run_folder):
    """Return the context in which one process alone opens a run."""
    return hold(_folder_of(run_folder) / "open.lock", f"{run_folder}: another process is opening this run; waiting")


@contextmanager
def hold_folds(run_folder, folds, is_overwritten):
    """Hold the locks of some folds of a run inside the block; yield whether other processes train its other folds.

    Where another process trains one of them, or any of a run that is to be overwritten, it raises a UserError.
    """
    with ExitStack() as held:
        paths = sorted(_folder_of(run_folder).glob("fold*.lock"))
        busy = [path.stem.removeprefix("fold") for path in paths if _is_held(path)]
        if refused := busy if is_overwritten else sorted(set(busy) & {str(fold) for fold in folds}):
            found = f"another process trains {'fold' if len(refused) == 1 else 'folds'} {listing(refused)}"
            raise UserError(f"{run_folder}: {found}; wait until it ends or choose name=ANOTHER")
        for fold in folds:
            held.enter_context(hold_fold(run_folder, fold))
        yield bool(busy)


def hold_fold(run_folder, fold):
    """Return the context in which one process alone trains a fold; it waits, as for a lost one that is still saving."""
    waiting = f"{run_folder}: another process trains fold {fold}; waiting"
    return hold(_folder_of(run_folder) / f"fold{fold}.lock", waiting)


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
