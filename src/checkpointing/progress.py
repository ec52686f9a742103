"""How far a fold is: epochs, batches and random numbers, as plain containers that a state saves."""

from dataclasses import dataclass, field

import torch


@dataclass
class Progress:
    """Epochs done, which is the best, and the log; `vars(progress)` are plain containers."""

    epoch: int = 0  # epochs done
    best_epoch: int = 0  # counted from 1; 0: none yet
    best_score: float | None = None
    best_loss: float | None = None  # validation loss at best_epoch; decides between equal scores
    seconds: float = 0.0
    log: list = field(default_factory=list)  # one dict per epoch: epoch, ..., val_loss, val_score, seconds
    averaged_epochs: list = field(default_factory=list)  # of train.average=soup, where the mean counts

    def add(self, scores, seconds, metric, **numbers):
        """Count and log an epoch, scores: (score, validation loss); return whether it is the best so far.

        Of fold=all both are None, and the last epoch is the best.
        """
        score, loss = scores
        self.epoch += 1
        self.seconds += seconds
        is_best = self.best_epoch == 0 or score is None or is_better(scores, (self.best_score, self.best_loss), metric)
        if is_best:
            self.best_epoch, self.best_score, self.best_loss = self.epoch, score, loss
        total = round(self.seconds, 2)
        self.log.append({"epoch": self.epoch, **numbers, "val_loss": loss, "val_score": score, "seconds": total})
        return is_best

    def best_epochs(self, count, metric):
        """Return the numbers of the `count` best epochs, counted from 1, the best first; ties as in `add`."""
        sign = -1 if metric.greater_is_better else 1
        log = self.log if count else ()  # which may lack scores
        ranked = sorted(log, key=lambda row: (sign * row["val_score"], row["val_loss"], row["epoch"]))
        return [row["epoch"] for row in ranked[:count]]

    def stops_early(self, patience, metric, min_delta=0.0, on="score"):
        """Return whether none of the last `patience` epochs (None: never) was better by `min_delta` than those before.

        Reference: Prechelt, Early Stopping - But When?, 1998, the third class of criteria.
        """
        sign = 1 if on == "score" and metric.greater_is_better else -1
        best, best_epoch = None, 0
        for row in self.log if patience is not None else ():
            value = sign * row[f"val_{on}"]
            if best is None or value > best + min_delta:
                best, best_epoch = value, row["epoch"]
        return patience is not None and self.epoch - best_epoch >= patience


def is_better(scores, others, metric):
    """Return whether (score, loss) beats another; of equal scores the lower loss wins."""
    return metric.is_better(scores[0], others[0]) or (scores[0] == others[0] and scores[1] < others[1])


@dataclass
class EpochProgress:
    """How far an epoch of training is."""

    num_batches: int = 0  # done
    seconds: float = 0.0  # that they took
    losses: list = field(default_factory=list)  # scalar tensors, one per batch
    rng_state: dict = field(default_factory=dict)  # of `read_rng_state`; {}: as it is
    lr_sum: float = 0.0  # of the batches' learning rates, the first group's
    gradient_norms: dict = field(default_factory=dict)  # {stage: norm} at the last step


def read_rng_state(device, generator):
    """Return torch's random state, {name: uint8 tensor}: on the CPU, on the device, and of the learner's generator."""
    state = {"cpu": torch.get_rng_state(), "generator": generator.get_state()}
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state(*_place(device))
    return state


def write_rng_state(state, device, generator):
    """Restore what `read_rng_state` returned; what the state lacks stays as it is."""
    torch.set_rng_state(state["cpu"])
    generator.set_state(state["generator"])
    if device.type != "cpu" and "device" in state:
        torch.get_device_module(device).set_rng_state(state["device"], *_place(device))


def _place(device):
    return (device,) if device.type == "cuda" else ()  # without it cuda takes the first; mps has but one
