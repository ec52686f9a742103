"""Saves and resumes one fold: written by a thread beside the training, in an order that no kill can break."""

import errno
import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import torch
from accelerate.utils import broadcast_object_list, gather_object

from src.checkpointing import serialization
from src.checkpointing.progress import EpochProgress, Progress, read_rng_state
from src.competition.predictions import save_predictions
from src.errors import Stopped, UserError
from src.files import delete_unfinished, save_json, save_table

_EPOCH_NUMBERS = ("num_batches", "seconds", "lr_sum", "gradient_norms")  # of EpochProgress, the same for all processes


class Checkpointer:
    """Saves a fold's files, of which `keep` states stay; all processes call it, and the main one writes."""

    def __init__(self, folder, learner, interrupts, keep):
        self.folder, self._learner, self._interrupts, self._keep = folder, learner, interrupts, keep
        self._accelerator = learner.accelerator
        self._writer, self._saving = ThreadPoolExecutor(1), None

    def resume(self):
        """Load the newest undamaged state into the learner; return (Progress, EpochProgress): how far the fold is."""
        path, state, accelerator = None, None, self._accelerator
        if accelerator.is_main_process:
            delete_unfinished(self.folder.path)
            path, state = serialization.load_newest_state(self.folder)
        [path] = broadcast_object_list([path])
        if path is None:
            return Progress(), EpochProgress()
        if all(gather_object([path.is_file()])):
            state = state or serialization.load_state(path)
        else:  # another host does not see the run's folder
            [state] = broadcast_object_list([state])
        try:
            self._learner.load_state_dict(state["learner"])
            progress, epoch_progress, saved = Progress(**state["progress"]), EpochProgress(), state["epoch_progress"]
            if saved is not None:
                if (num := len(saved["processes"])) != accelerator.num_processes:
                    raise UserError(f"{path}: saved mid-epoch with {num} processes; resume with {num}")
                own = saved["processes"][accelerator.process_index]
                losses = list(own["losses"].to(accelerator.device))
                done = {name: saved[name] for name in _EPOCH_NUMBERS}
                epoch_progress = EpochProgress(**done, losses=losses, rng_state=own["rng_state"])
        except torch.OutOfMemoryError:
            raise
        except (KeyError, ValueError, RuntimeError, TypeError):  # whatever an object raises on another one's state
            raise UserError(f"{path}: written by another version; delete it to train the fold from its start") from None
        if progress.epoch and accelerator.is_main_process:
            serialization.read_weights(self.folder.weights(self._learner.config.train.select))
        return progress, epoch_progress

    def after_step(self, progress, epoch_progress):
        """Save in mid-epoch when it is time to; raise Stopped, with all saved, where the run has to end."""
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
        """Raise Stopped where averaging, which takes no longer than an epoch, does not fit into the time budget."""
        if reason := self._interrupts.check(self._accelerator, True, progress.seconds / progress.epoch)[1]:
            self._stop(reason, f"epoch {progress.epoch}")

    def save(self, progress, probs, is_best):
        """Save a fold that has finished an epoch, while the next trains; probs (N, K), if any, are its validation's."""
        if not self._accelerator.is_main_process:
            return
        learner = self._learner
        best_epochs = progress.best_epochs(learner.average.num_best, learner.metric)  # whose weights stay until the end
        if progress.epoch in best_epochs:
            weights = serialization.copy_to_cpu(learner.network.state_dict())
            self._write(serialization.save_weights, self.folder.epoch_weights(progress.epoch), weights)
        for path in {*self.folder.path.glob("epoch*.safetensors")} - {*map(self.folder.epoch_weights, best_epochs)}:
            path.unlink()
        counts = is_best or learner.config.train.select == "last"
        self._start_writing(progress, None, learner.scored_network.state_dict() if counts else None, probs)

    def save_selected(self, weights, probs):
        """Save the weights that count, on the CPU, and their validation predictions (N, K), if any."""
        self._write(serialization.save_weights, self.folder.weights(self._learner.config.train.select), weights)
        if probs is not None:
            self._write(save_predictions, self.folder.val, self._learner.val_table, probs)

    def finish(self, progress):
        """Save what a finished fold needs: meta.json, which says that it is finished; its states are deleted."""
        self.wait()
        if self._accelerator.is_main_process:
            meta = {"fold": self.folder.number, **vars(progress), "last_score": progress.log[-1]["val_score"]}
            meta["target_names"] = list(self._learner.val_table.target_names)
            del meta["log"]
            self._write(save_json, self.folder.meta, meta)
            self.folder.delete_states()

    def wait(self):
        """Wait until all is written; an error of the writing is raised here."""
        if self._saving is not None:
            self._saving.result()

    def _save_mid_epoch(self, progress, epoch_progress):
        rng_state = read_rng_state(self._accelerator.device, self._learner.generator)
        own = {"losses": torch.stack(epoch_progress.losses).float(), "rng_state": rng_state}
        saved = {name: getattr(epoch_progress, name) for name in _EPOCH_NUMBERS}
        saved["processes"] = gather_object([serialization.copy_to_cpu(own)])
        if self._accelerator.is_main_process:
            self._start_writing(progress, saved)

    def _stop(self, reason, where):
        self.wait()
        self._accelerator.wait_for_everyone()
        stopped = f"fold {self.folder.number}: stopped by {reason[0]} after {where}"
        raise Stopped(f"{stopped}; saved, {self._interrupts.again} resumes", reason[1])

    def _start_writing(self, progress, epoch_progress, weights=None, probs=None):
        self.wait()  # one state at a time is in memory
        state = {"learner": self._learner.state_dict(), "progress": vars(progress), "epoch_progress": epoch_progress}
        self._saving = self._writer.submit(self._write_files, *serialization.copy_to_cpu((state, weights)), probs)

    def _write_files(self, state, weights, probs):
        """Write a finished epoch's files, and the state last: a kill before it repeats the epoch."""
        progress, epoch_progress = state["progress"], state["epoch_progress"]
        if weights is not None:
            self.save_selected(weights, probs)
        if epoch_progress is None:
            self._write(save_table, self.folder.log, pd.DataFrame(progress["log"]))
        began, num_batches = time.perf_counter(), epoch_progress["num_batches"] if epoch_progress else 0
        self._write(serialization.save_state, self.folder, progress["epoch"], num_batches, state, self._keep)
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
