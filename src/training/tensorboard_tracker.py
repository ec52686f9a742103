"""TensorBoard: event files in the run's folder, one folder of them a fold and one of their mean.

The records are written here and not by a thread, so that a full disk is an error where it can be caught.
"""

import struct
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import text

from src.checkpointing.run_folder import RunFolder
from src.config.load import config_yaml


class TensorBoardTracker:
    """The curves of log.csv over the epochs; at the end the report's figures and worst images."""

    def __init__(self, config):
        self._folder, self._writers = RunFolder(config.run_folder).tensorboard, {}
        lines = config_yaml(config).splitlines()
        self._write("", 0, text("config", "\n".join(f"    {line}" for line in lines)))  # as Markdown leaves them

    def log(self, curve, epoch, values):
        self._write(curve, epoch, _numbers(values))

    def finish(self, scores, figures, worst, page):
        files = {f"report/{name}": file for name, file in figures.items()}
        files |= {f"worst/{number:02d} {one['id']}": one["picture"] for number, one in enumerate(worst, 1)}
        images = [Summary.Value(tag=tag, image=_image(file)) for tag, file in files.items()]
        pooled = {name: value for name, value in scores.items() if name == "pooled"}
        self._write("", 0, _numbers(pooled), Summary(value=images))
        for writer in self._writers.values():
            writer.close()

    def _write(self, curve, epoch, *summaries):
        """Write what an epoch has; a command's first take the place of all that was there from their epoch on."""
        if curve not in self._writers:
            folder = self._folder / curve
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"events.out.tfevents.{time.time_ns()}"  # the newest is read last
            self._writers[curve] = RecordWriter(open(path, "wb"))  # noqa: SIM115  open until the run ends
            self._add(curve, file_version="brain.Event:2")
            self._add(curve, step=epoch, session_log=SessionLog(status=SessionLog.START))
        for summary in summaries:
            self._add(curve, step=epoch, summary=summary)
        self._writers[curve].flush()

    def _add(self, curve, **what):
        self._writers[curve].write(Event(wall_time=time.time(), **what).SerializeToString())


def _numbers(values):
    return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])


def _image(file):
    """Return a PNG file as it is; its size stands in its header."""
    content = Path(file).read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    return Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
