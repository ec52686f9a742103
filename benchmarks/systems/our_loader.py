"""This project's data path alone: files -> augmented batches, with the cache of decoded images."""

from benchmarks.systems.ours import write_config
from benchmarks.systems.task import run_as_program
from src.competition.tables import load_train_table
from src.data.cache import open_cache
from src.data.dataset import ImageDataset, build_loader
from src.device import resolve_device, share_cores
from src.training.learner import build_transforms


def run(task, timer):
    """Load all batches of each epoch and discard them."""
    loader = build_training_loader(write_config(task))
    for epoch in range(task.epochs):
        timer.start_batches()
        for _ in loader.batches(epoch):
            pass
        timer.end_batches()
        timer.end_epoch()
    loader.close()
    return {"num_images": loader.num_images}


def build_training_loader(config):
    """Return a Loader over all rows of the table, with the cache that `run.prepare_inputs` opens."""
    table = load_train_table(config.competition)
    augmentation, _ = build_transforms(config, table)
    size, num_reads = augmentation.decode_size, config.train.epochs * len(table)
    cache = open_cache(table.paths, config, size, num_reads)
    num_workers, _ = share_cores(resolve_device(config.device), config.train.num_workers)
    caches = {} if cache is None else {size: cache}
    dataset = ImageDataset(table, config.competition, augmentation, config.seed, caches)
    return build_loader(dataset, config.train.batch_size, num_workers, shuffle_seed=config.seed)


if __name__ == "__main__":
    run_as_program(run)
