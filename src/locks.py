"""One process at a time: file locks, which end with the process that holds them.

A run's locks are in <output_dir>/.locks/<run>, so that deleting the run deletes none: one for opening it and one for
each fold, so that several processes may train different folds of one run.
"""

from contextlib import ExitStack, contextmanager

from filelock import FileLock, Timeout

from src.errors import UserError, listing


@contextmanager
def hold(path, waiting):
    """Hold the lock of a file inside the block, after whoever holds it now.

    Args:
        path: pathlib.Path of the lock; its folder is made.
        waiting: what is printed where another process has to be waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(waiting, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def opening(run_folder):
    """Return the context in which one process alone opens a run."""
    return hold(_path_of(run_folder, "open"), f"{run_folder}: another process is opening this run; waiting")


@contextmanager
def hold_folds(run_folder, folds, is_overwritten):
    """Hold the locks of some folds of a run inside the block; yield whether other processes train its other folds.

    Args:
        folds: their numbers.
        is_overwritten: the run is to be deleted, so that no other process may train any of it.

    Raises:
        UserError: another process trains one of them.
    """
    with ExitStack() as held:
        busy = []
        for path in sorted((run_folder.parent / ".locks" / run_folder.name).glob("fold*.lock")):
            if _is_held(path):
                busy.append(int(path.stem.removeprefix("fold")))
        if refused := busy if is_overwritten else sorted(set(busy) & set(folds)):
            number = "fold" if len(refused) == 1 else "folds"
            raise UserError(
                f"{run_folder}: another process trains {number} {listing(refused)}; wait until it ends or choose "
                "name=ANOTHER"
            )
        for fold in folds:
            held.enter_context(hold(_path_of(run_folder, f"fold{fold}"), ""))
        yield bool(busy)


def hold_output(folder):
    """Return the context in which one process alone writes predictions into a folder (a pathlib.Path)."""
    return hold(folder / ".infer.lock", f"{folder}: another process writes predictions there; waiting")


def _path_of(run_folder, name):
    return run_folder.parent / ".locks" / run_folder.name / f"{name}.lock"


def _is_held(path):
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
