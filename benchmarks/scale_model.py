"""A model of data parallelism over several processes, not a measurement: python -m benchmarks.scale_model.

It prints the tables of docs/scale.md, "A model, not a measurement", from the formulas below.

Reference: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009, section 3
(the ring); Amdahl, Validity of the single processor approach to achieving large scale computing capabilities, 1967.
"""

import math

PARAMETERS = {  # of timm's networks with 1,000 classes
    "mobilenetv2_100": 3_504_872, "resnet50": 25_557_032, "convnext_base": 88_591_464,
    "vit_large_patch16_224": 304_326_632,
}  # fmt: skip
LINKS = {  # name: (bytes a second in one direction, nominal; seconds a message takes beside)
    "1 Gbit/s": (0.125e9, 50e-6), "10 Gbit/s": (1.25e9, 50e-6), "25 Gbit/s": (3.125e9, 50e-6),
    "100 Gbit/s": (12.5e9, 20e-6), "PCIe 4.0 x16": (31.5e9, 10e-6), "NVLink 3": (300e9, 10e-6),
}  # fmt: skip
BYTES = 4  # of a gradient: DDP sends fp32
OVERLAP = 0.5  # share of the backward pass, two thirds of a step, that hides communication


def all_reduce_seconds(num_bytes, num_processes, bandwidth, latency):
    """Return the seconds of a ring all-reduce: 2 (n - 1) messages of num_bytes / n, one after another."""
    messages = 2 * (num_processes - 1)
    return messages * (num_bytes / num_processes / bandwidth + latency)


def step_seconds(compute, communicate, overlap=OVERLAP):
    """Return the seconds of a step: what the backward pass does not hide of the communication adds to it."""
    return compute + max(0.0, communicate - overlap * 2 / 3 * compute)


def least_compute(communicate, efficiency=0.9, overlap=OVERLAP):
    """Return the compute seconds a step must have to be so efficient: compute / step_seconds = efficiency."""
    return communicate / (1 / efficiency - 1 + overlap * 2 / 3)


def folds_speedup(num_folds, num_processes):
    """Return how much faster n processes are that each train one of the folds at a time."""
    return num_folds / math.ceil(num_folds / num_processes)


def amdahl_speedup(serial, num_processes):
    """Return the limit where a share of the time, `serial`, is that of one process."""
    return 1 / (serial + (1 - serial) / num_processes)


def format_seconds(seconds):
    """Return seconds in milliseconds, two digits."""
    value = float(f"{1000 * seconds:.2g}")
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def communication_table(num_processes=8):
    """Return the all-reduce of each network over each link, and the least step it needs, in ms, as Markdown."""
    lines = ["| network | gradients, MB | " + " | ".join(LINKS) + " |", "|---|---|" + "---|" * len(LINKS)]
    for name, count in PARAMETERS.items():
        seconds = [all_reduce_seconds(BYTES * count, num_processes, *link) for link in LINKS.values()]
        cells = [f"{format_seconds(one)} / {format_seconds(least_compute(one))}" for one in seconds]
        lines.append(f"| {name} | {BYTES * count / 1e6:,.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speedup_table(network="resnet50", compute=0.1, counts=(2, 4, 8, 16)):
    """Return how much faster n processes are with the batch of one, over each link, beside folds, as Markdown."""
    names, num_bytes = [*LINKS, "five folds in parallel"], BYTES * PARAMETERS[network]
    lines = ["| processes | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for count in counts:
        seconds = [
            step_seconds(compute / count, all_reduce_seconds(num_bytes, count, *link)) for link in LINKS.values()
        ]
        speedups = [*(compute / one for one in seconds), folds_speedup(5, count)]
        lines.append(f"| {count} | " + " | ".join(f"{one:.1f}" for one in speedups) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(communication_table(), speedup_table(), sep="\n\n")
