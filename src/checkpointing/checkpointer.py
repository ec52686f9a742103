"""Saves and resumes one fold: written by a thread beside the training, in an order that no kill can break."""

import errno
import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import torch
from accelerate.utils import broadcast_object_list, gather_object

from src.checkpointing import serialization
from src.checkpointing.progress import EpochProgress, Progress, read_rng_state
from src.checkpointing.serialization import copy_to_cpu
from src.competition.predictions import save_predictions
from src.errors import Stopped, UserError
from src.files import delete_unfinished, save_json, save_table


class Checkpointer:
    """Saves one fold's files; all processes call it, and the main one writes.

    Args:
        folder: run_folder.FoldFolder.
        learner: training.learner.Learner.
        interrupts: interrupts.Interrupts.
        keep: states that stay.
    """

    def __init__(self, folder, learner, interrupts, keep):
        self.folder, self._learner, self._interrupts, self._keep = folder, learner, interrupts, keep
        self._accelerator = learner.accelerator
        self._writer, self._saving = ThreadPoolExecutor(1), None

    def resume(self):
        """Load the newest undamaged state into the learner; return (Progress, EpochProgress): how far the fold is.

        Raises:
            UserError: another version wrote the state, or it was saved mid-epoch with another number of processes; or
                the weights that count so far are damaged.
        """
        path, state = None, None
        if self._accelerator.is_main_process:
            delete_unfinished(self.folder.path)
            path, state = serialization.load_newest_state(self.folder)
        [path] = broadcast_object_list([path])
        if path is None:
            return Progress(), EpochProgress()
        state = state or serialization.load_state(path)
        try:
            self._learner.load_state_dict(state["learner"])
            progress, epoch_progress = Progress(**state["progress"]), self._load_epoch(path, state["epoch_progress"])
        except torch.OutOfMemoryError:
            raise
        except (KeyError, ValueError, RuntimeError, TypeError):  # whatever an object raises on another one's state
            raise UserError(f"{path}: written by another version; delete it to train the fold from its start") from None
        if progress.epoch and self._accelerator.is_main_process:
            serialization.read_weights(self.folder.weights(self._learner.config.train.select))
        return progress, epoch_progress

    def after_step(self, progress, epoch_progress):
        """Save in mid-epoch when it is time to.

        Raises:
            Stopped: the run has to end; its state is saved.
        """
        num_batches = len(self._learner.train_loader)
        is_last = epoch_progress.num_batches == num_batches
        ahead = self._learner.estimate_validation(progress.epoch, epoch_progress.seconds) if is_last else 0.0
        is_due, reason = self._interrupts.check(self._accelerator, is_last, ahead)
        if is_due or reason:
            self._save_mid_epoch(progress, epoch_progress)
        if reason:
            self._stop(reason, f"{epoch_progress.num_batches} of {num_batches} batches of epoch {progress.epoch + 1}")

    def after_validation_batch(self, progress, epoch_progress):
        """Stop in the middle of a validation, as `after_step` does; several processes stop together after it."""
        if self._accelerator.num_processes == 1 and (reason := self._interrupts.stop_reason()):
            self._save_mid_epoch(progress, epoch_progress)
            self._stop(reason, f"all batches of epoch {progress.epoch + 1}")

    def before_averaging(self, progress):
        """Stop where averaging, which takes no longer than an epoch, does not fit into the time budget.

        Raises:
            Stopped: for that, or a signal.
        """
        seconds = progress.seconds / progress.epoch
        if reason := self._interrupts.check(self._accelerator, is_last=True, ahead=seconds)[1]:
            self._stop(reason, f"epoch {progress.epoch}")

    def save(self, progress, probs, is_best):
        """Save a fold that has finished an epoch, while the next one trains.

        Args:
            probs: (N, K) validation predictions of this epoch.
            is_best: whether it is the best so far; with train.select=best, the weights that count are then these.
        """
        if num_best := self._learner.average.num_best:
            self._save_epoch_weights(progress, num_best)
        if self._accelerator.is_main_process:
            self.wait()  # one state at a time is in memory
            counts = is_best or self._learner.config.train.select == "last"
            weights = copy_to_cpu(self._learner.scored_network.state_dict()) if counts else None
            self._saving = self._writer.submit(self._write_epoch, progress.epoch, self._state(progress), weights, probs)

    def save_selected(self, weights, probs):
        """Save the weights that count, on the CPU, and their validation predictions (N, K)."""
        self._write(serialization.save_weights, self.folder.weights(self._learner.config.train.select), weights)
        self._write(save_predictions, self.folder.val, self._learner.val_table, probs)

    def finish(self, progress):
        """Save what a finished fold needs: meta.json, which says that it is finished; its states are deleted."""
        self.wait()
        if self._accelerator.is_main_process:
            numbers = {name: value for name, value in vars(progress).items() if name != "log"}
            last = progress.log[-1]
            numbers |= {"last_score": last["val_score"], "target_names": list(self._learner.val_table.target_names)}
            self._write(save_json, self.folder.meta, {"fold": self.folder.number, **numbers})
            self.folder.delete_states()

    def wait(self):
        """Wait until all is written; an error of the writing is raised here."""
        if self._saving is not None:
            self._saving.result()

    def _state(self, progress, epoch_progress=None):
        state = {"learner": self._learner.state_dict(), "progress": vars(progress), "epoch_progress": epoch_progress}
        return copy_to_cpu(state)

    def _load_epoch(self, path, saved):
        if saved is None:
            return EpochProgress()
        processes = saved["processes"]
        if len(processes) != self._accelerator.num_processes:
            raise UserError(f"{path}: saved mid-epoch with {len(processes)} processes; resume with {len(processes)}")
        own = processes[self._accelerator.process_index]
        losses = list(own["losses"].to(self._accelerator.device))
        return EpochProgress(saved["num_batches"], saved["seconds"], losses, own["rng_state"])

    def _save_mid_epoch(self, progress, epoch_progress):
        losses = torch.stack(epoch_progress.losses).float()
        rng_state = read_rng_state(self._accelerator.device, self._learner.generator)
        processes = gather_object([copy_to_cpu({"losses": losses, "rng_state": rng_state})])
        num_batches = epoch_progress.num_batches
        saved = {"num_batches": num_batches, "seconds": epoch_progress.seconds, "processes": processes}
        if self._accelerator.is_main_process:
            self.wait()
            self._saving = self._writer.submit(
                self._write_state, progress.epoch, num_batches, self._state(progress, saved)
            )

    def _save_epoch_weights(self, progress, num_best):
        """Keep the weights of the best epochs so far, which may include this one, and of no others."""
        if not self._accelerator.is_main_process:
            return
        best = progress.best_epochs(num_best, self._learner.metric)
        if progress.epoch in best:
            weights = copy_to_cpu(self._learner.network.state_dict())
            self._write(serialization.save_weights, self.folder.epoch_weights(progress.epoch), weights)
        for path in self.folder.path.glob("epoch*.safetensors"):
            if int(path.stem.removeprefix("epoch")) not in best:
                path.unlink()

    def _stop(self, reason, where):
        self.wait()
        self._accelerator.wait_for_everyone()
        raise Stopped(
            f"fold {self.folder.number}: stopped by {reason[0]} after {where}; saved, {self._interrupts.again} resumes",
            reason[1],
        )

    def _write_epoch(self, epoch, state, weights, probs):
        """Write an epoch's files, the state last: a kill before it repeats the epoch."""
        if weights is not None:
            self.save_selected(weights, probs)
        self._write(save_table, self.folder.log, pd.DataFrame(state["progress"]["log"]))
        self._write_state(epoch, 0, state)

    def _write_state(self, epoch, num_batches, state):
        began = time.perf_counter()
        self._write(serialization.save_state, self.folder, epoch, num_batches, state, self._keep)
        self._interrupts.saved(time.perf_counter() - began)

    def _write(self, save, *arguments):
        """Call a function that writes a file; on a full disk once more, after deleting all states but the newest."""
        try:
            save(*arguments)
        except OSError as error:
            older = self.folder.states()[:-1]
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not older:
                raise
            for path in older:
                path.unlink()
            save(*arguments)
