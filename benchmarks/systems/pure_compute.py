"""The limit: the steps of our training on pixels in memory, with nothing around them."""

import torch

from benchmarks.systems.ours import write_config
from benchmarks.systems.task import run_as_program
from src.device import autocast, resolve_device, resolve_precision, share_cores
from src.model.losses import build_loss
from src.model.network import build_network
from src.training.optimizer import build_optimizer


def run(task, timer):
    """Train our network on random pixels; the task names the precision and memory format that ours chose."""
    config = write_config(task)
    device, size = resolve_device(config.device), config.image_size
    precision = resolve_precision(config.precision, device)
    share_cores(device, num_workers=0)
    torch.manual_seed(config.seed)
    network = build_network(config, 1).place(device, config.train.channels_last)
    optimizer, loss_function = build_optimizer(config.optimizer, network), build_loss(config)
    num_images = len(task.split()[0])
    images = torch.randint(0, 256, (num_images, *size, 3), dtype=torch.uint8, device=device)
    targets = torch.randint(0, 2, (num_images, 1), device=device).float()
    network.train()
    for _ in range(task.epochs):
        timer.start_batches()
        for pixels, labels in zip(images.split(task.batch_size), targets.split(task.batch_size), strict=True):
            with autocast(device, precision):
                logits = network(**network.normalize({"image": pixels}))
            loss_function(logits, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        timer.end_batches()
        timer.end_epoch()
    return {"num_images": num_images, "precision": precision, "channels_last": config.train.channels_last is not False}


if __name__ == "__main__":
    run_as_program(run)
