"""Where a fold stands: epochs done, the best of them, the log; plain numbers that survive a restart."""

import math
from dataclasses import dataclass, field


@dataclass
class Progress:
    """What a fold knows of itself besides tensors; `vars(progress)` are plain containers."""

    epoch: int = 0  # epochs done
    best_epoch: int = 0  # counted from 1; 0: none yet
    best_score: float = -math.inf
    best_loss: float = math.inf  # validation loss at best_epoch; decides between equal scores
    seconds: float = 0.0
    log: list = field(default_factory=list)  # one dict per epoch
    averaged_epochs: list = field(default_factory=list)  # whose mean weights became the best; []: it is best_epoch

    def add(self, score, val_loss, seconds, **numbers):
        """Count an epoch and keep its numbers as a row of the log; return whether it is the best so far."""
        self.epoch += 1
        self.seconds += seconds
        is_best = (score, -val_loss) > (self.best_score, -self.best_loss)
        if is_best:
            self.best_epoch, self.best_score, self.best_loss = self.epoch, score, val_loss
        self.log.append(
            {
                "epoch": self.epoch,
                **numbers,
                "val_loss": val_loss,
                "val_score": score,
                "seconds": round(self.seconds, 2),
            }
        )
        return is_best

    def is_over(self, epochs, patience=None, min_delta=0.0, on="score"):
        """Whether all epochs are done, or no epoch of the last `patience` was better than those before.

        Args:
            patience: epochs; None: any number.
            min_delta: by how much a value must be better to count.
            on: "score" (higher is better) or "loss" (lower), both of the validation.

        Reference: Prechelt, Early Stopping - But When?, 1998, the third class of criteria.
        """
        best, best_epoch = -math.inf, 0
        for row in self.log:
            value = row["val_score"] if on == "score" else -row["val_loss"]
            if value > best + min_delta:
                best, best_epoch = value, row["epoch"]
        return self.epoch >= epochs or (patience is not None and self.epoch - best_epoch >= patience)

    def best_epochs(self, count):
        """Return the numbers of the `count` best epochs, counted from 1, the best first; ties as in `add`."""
        ranked = sorted(self.log, key=lambda row: (-row["val_score"], row["val_loss"], row["epoch"]))
        return [row["epoch"] for row in ranked[:count]]
