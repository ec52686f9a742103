"""What a fold leaves in its folder, and when: written beside the training, in an order that no kill can break.

state_<epoch>_<batches>.pt while it trains; best.safetensors and val.csv of the best epoch so far, log.csv of all; when
it is done last.safetensors and meta.json, which says that it is, and no state.
"""

import errno
import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import torch
from accelerate.utils import broadcast_object_list, gather_object

from src.checkpointing import serialization as checkpoint
from src.checkpointing.progress import Progress
from src.checkpointing.rng_state import read_random_state
from src.checkpointing.serialization import copy_to_cpu
from src.competition.predictions import save_predictions
from src.errors import Stopped, UserError
from src.files import delete_unfinished, save_json, save_table
from src.training.engine import EpochPart


class Keeper:
    """Keeps one fold's files; all its processes call it, and the main one writes.

    Args:
        folder: pathlib.Path of the fold.
        parts: parts.FoldParts.
        watch: stopping.Watch.
        keep_states: states that stay.
    """

    def __init__(self, folder, fold, parts, accelerator, watch, keep_states):
        self._folder, self._fold, self._parts, self._keep = folder, fold, parts, keep_states
        self._accelerator, self._watch = accelerator, watch
        self._writer, self._saving = ThreadPoolExecutor(1), None

    def resume(self):
        """Put the newest state that is whole into the parts; return (Progress, EpochPart): where the fold stands.

        Raises:
            UserError: the state is another version's, or stands in an epoch's midst with other processes than now; or
                the best weights so far are damaged.
        """
        path, state = None, None
        if self._accelerator.is_main_process:
            delete_unfinished(self._folder)
            path, state = checkpoint.load_newest_state(self._folder)
        [path] = broadcast_object_list([path])
        if path is None:
            return Progress(), EpochPart()
        state = state or checkpoint.load_state(path)
        try:
            progress = self._parts.restore(state)
            part = self._restore_part(path, state["part"])
        except torch.OutOfMemoryError:
            raise
        except (KeyError, ValueError, RuntimeError, TypeError):  # what each object says of another's state
            raise UserError(f"{path}: written by another version; delete it to train the fold from its start") from None
        if progress.best_epoch and self._accelerator.is_main_process:
            checkpoint.check_weights(self._folder / "best.safetensors")
        return progress, part

    def after_step(self, progress, part, generator, seconds_ahead):
        """Save the fold in an epoch's midst when it is time to.

        Args:
            progress: Progress before this epoch.
            part: EpochPart of this epoch.
            generator: torch.Generator of the mixing.
            seconds_ahead: that what follows the epoch's last step will take.

        Raises:
            Stopped: the run is to end; what is there is saved.
        """
        num_batches = len(self._parts.train_loader)
        is_last = part.num_batches == num_batches
        is_due, ending = self._watch.look(self._accelerator, is_last, seconds_ahead if is_last else 0.0)
        if is_due or ending:
            self._save_part(progress, part, generator)
        if ending:
            self._stop(ending, f"{part.num_batches} of {num_batches} batches of epoch ", progress.epoch + 1)

    def after_validation_batch(self, progress, part, generator):
        """End in the midst of a validation, as `after_step` does; several processes end after it, all together."""
        if self._accelerator.num_processes == 1 and (ending := self._watch.ending()):
            self._save_part(progress, part, generator)
            self._stop(ending, "all batches of epoch ", progress.epoch + 1)

    def before_averaging(self, progress):
        """End the run where averaging, which takes no longer than an epoch, does not fit into the time budget.

        Raises:
            Stopped: by that, or by a signal.
        """
        seconds = progress.seconds / progress.epoch
        if ending := self._watch.look(self._accelerator, is_last=True, ahead=seconds)[1]:
            self._stop(ending, "epoch ", progress.epoch)

    def save_epoch(self, progress, best):
        """Save a fold that has done an epoch, while the next one trains.

        Args:
            best: (weights, validation probs) of an epoch that is the best so far; None: it is not.
        """
        if self._accelerator.is_main_process:
            self.wait()  # one state at a time is in memory
            state, best = copy_to_cpu((self._parts.state(progress) | {"part": None}, best))
            self._saving = self._writer.submit(self._write_epoch, progress.epoch, state, best)

    def save_best(self, weights, probs):
        """Keep the fold's best weights, on the CPU, and their validation predictions."""
        self._write(checkpoint.save_weights, self._folder / "best.safetensors", weights)
        self._write(save_predictions, self._folder / "val.csv", self._parts.val_table, probs)

    def save_epoch_weights(self, best, epoch):
        """Keep the weights of the best epochs so far, among them perhaps this one, and of no others."""
        if epoch in best and self._accelerator.is_main_process:
            weights = copy_to_cpu(self._parts.network.state_dict())
            self._write(checkpoint.save_weights, self.epoch_weights(epoch), weights)
        for path in self._folder.glob("epoch*.safetensors") if self._accelerator.is_main_process else ():
            if int(path.stem.removeprefix("epoch")) not in best:
                path.unlink()

    def epoch_weights(self, epoch):
        """Return the path of the weights that `save_epoch_weights` kept of an epoch."""
        return self._folder / f"epoch{epoch}.safetensors"

    def save_end(self, progress):
        """Keep what is needed of a finished fold; meta.json says that it is finished, the states have served."""
        self.wait()
        weights = copy_to_cpu(self._parts.scored.state_dict())
        self._write(checkpoint.save_weights, self._folder / "last.safetensors", weights)
        numbers = {name: value for name, value in vars(progress).items() if name != "log"}
        names = list(self._parts.train_table.target_names)
        self._write(save_json, self._folder / "meta.json", {"fold": self._fold, **numbers, "target_names": names})
        delete_served(self._folder)

    def wait(self):
        """Wait until all that was to be saved is saved; an error of the writing is raised here."""
        if self._saving is not None:
            self._saving.result()

    def _restore_part(self, path, kept):
        if kept is None:
            return EpochPart()
        processes = kept["processes"]
        if len(processes) != self._accelerator.num_processes:
            raise UserError(f"{path}: is from an epoch's midst on {len(processes)} processes; go on with as many")
        mine = processes[self._accelerator.process_index]
        losses = list(mine["losses"].to(self._accelerator.device))
        return EpochPart(kept["num_batches"], kept["seconds"], losses, mine["random_state"])

    def _save_part(self, progress, part, generator):
        device = self._accelerator.device
        losses = torch.stack(part.losses).float()
        mine = copy_to_cpu({"losses": losses, "random_state": read_random_state(device, generator)})
        kept = {"num_batches": part.num_batches, "seconds": part.seconds, "processes": gather_object([mine])}
        if self._accelerator.is_main_process:
            self.wait()
            state = copy_to_cpu(self._parts.state(progress) | {"part": kept})
            self._saving = self._writer.submit(self._write_state, progress.epoch, part.num_batches, state)

    def _stop(self, ending, where, epoch):
        self.wait()
        self._accelerator.wait_for_everyone()
        reason, status = ending
        raise Stopped(
            f"fold {self._fold}: stopped by {reason} after {where}{epoch}; all is saved, "
            f"{self._watch.again} goes on there",
            status,
        )

    def _write_epoch(self, epoch, state, best):
        """Write an epoch; the state comes last, so that a kill before it repeats the epoch."""
        if best is not None:
            self.save_best(*best)
        self._write(save_table, self._folder / "log.csv", pd.DataFrame(state["progress"]["log"]))
        self._write_state(epoch, 0, state)

    def _write_state(self, epoch, num_batches, state):
        began = time.perf_counter()
        self._write(checkpoint.save_state, self._folder, epoch, num_batches, state, self._keep)
        self._watch.saved(time.perf_counter() - began)

    def _write(self, save, *arguments):
        """Call a function that writes a file; on a full disk once more, when older states have made room."""
        try:
            save(*arguments)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not checkpoint.make_room(self._folder):
                raise
            save(*arguments)


def is_done(folder):
    """Whether a fold's folder holds a finished fold."""
    return (folder / "meta.json").is_file()


def delete_served(folder):
    """Delete what a finished fold needs no longer; a kill may have left it."""
    for path in (*checkpoint.list_states(folder), *folder.glob("epoch*.safetensors")):
        path.unlink(missing_ok=True)
