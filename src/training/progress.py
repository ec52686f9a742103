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

    def is_over(self, epochs, patience):
        """Whether all epochs are done, or `patience` epochs (None: any number) passed without a better one."""
        return self.epoch >= epochs or (patience is not None and self.epoch - self.best_epoch >= patience)
