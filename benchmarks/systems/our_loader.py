"""This project's data path alone: files -> augmented batches, the decode cache included."""

from benchmarks.systems.ours import write_config
from benchmarks.systems.task import run_as_program
from src.data.cache import list_folders, open_cache
from src.data.dataset import ImageDataset, build_loader
from src.device import resolve_device, share_cores
from src.training.learner import build_augmentations
from src.training.run_data import load_checked_table


def run(task, watch):
    """Take all batches of each epoch, and do nothing with them."""
    loader = build_training_loader(write_config(task))
    for epoch in range(task.epochs):
        watch.start_batches()
        for _ in loader.batches(epoch):
            pass
        watch.end_batches()
        watch.end_epoch()
    loader.close()
    return {"num_images": loader.num_images}


def build_training_loader(config):
    """Return the Loader over all rows of the table that `train_run` would train with.

    TO ADAPT when src.data or src.training.learner changes: this is the one place that repeats what train_run does.
    """
    table = load_checked_table(config)
    augmentation, _ = build_augmentations(config, table)
    channels, size = config.competition.channels, augmentation.decode_size
    num_reads, folders = config.train.epochs * len(table), list_folders(config)
    cache = open_cache(table, channels, size, config.competition.root, folders, config.cache, num_reads)
    num_workers = share_cores(resolve_device(config.device), config.train.num_workers)
    dataset = ImageDataset(table, channels, augmentation, size, config.seed, cache)
    return build_loader(dataset, config.train.batch_size, num_workers, shuffle_seed=config.seed)


if __name__ == "__main__":
    run_as_program(run)
