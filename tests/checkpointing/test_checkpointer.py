"""What ends a fold between its last epoch and its end; all else of keeping is seen in test_survival.py."""

import pytest

from src.checkpointing.checkpointer import Keeper
from src.checkpointing.interrupts import Watch
from src.checkpointing.progress import Progress
from src.errors import Stopped


@pytest.mark.parametrize(("budget", "is_over"), [(14.5, False), (13.5, True)])
def test_averaging_is_begun_where_an_epoch_and_saving_fit_into_the_time_budget(tmp_path, accelerator, budget, is_over):
    watch = Watch(10, budget, clock=lambda: 100.0)  # saving is thought to take 2 s, twice that is kept
    keeper = Keeper(tmp_path, 1, None, accelerator, watch, 2)
    progress = Progress(epoch=3, seconds=30.0)
    if not is_over:
        keeper.before_averaging(progress)
        return
    line = "fold 1: stopped by the end of time_budget after epoch 3; all is saved, the same command goes on there"
    with pytest.raises(Stopped, match=f"^{line}$"):
        keeper.before_averaging(progress)
