"""TensorBoard: event files in the run's folder, one folder of them a fold and one of their mean.

The records are written here and not by a thread, so that a full disk is an error where it can be caught.
"""

import struct
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

from src.checkpointing.run_folder import RunFolder
from src.config.load import config_yaml


class TensorBoardTracker:
    """The curves of log.csv over the epochs; at the end the config as text, the report's figures and worst images."""

    def __init__(self, config):
        self._folder, self._config, self._writers = RunFolder(config.run_folder).tensorboard, config, {}
        self._write("", 0, _text("config", config_yaml(config)))

    def log_epoch(self, fold, log):
        """Write the newest row; of a fold that begins or resumes, all."""
        name = f"fold{fold}"
        for row in log[-1:] if name in self._writers else log:
            known = {column: value for column, value in row.items() if value is not None and column != "epoch"}
            self._write(name, row["epoch"], *(Summary.Value(tag=tag, simple_value=one) for tag, one in known.items()))

    def end_fold(self, logs, mean):
        """Write the mean over the folds so far, in place of that over fewer."""
        if "mean" in self._writers:
            self._writers.pop("mean").close()
        for epoch, row in mean.iterrows() if len(logs) > 1 else ():
            self._write("mean", epoch, *(Summary.Value(tag=tag, simple_value=one) for tag, one in row.items()))

    def finish(self, logs, mean, scores, report):
        files = {f"report/{name}": file for name, file in report.get("figures", {}).items()}
        for number, one in enumerate(report.get("worst", ()), 1):
            if one["picture"]:
                files[f"worst/{number:02d} {one['id']}"] = one["picture"]
        self._write("", 0, *(_image(tag, Path(file).read_bytes()) for tag, file in files.items()))
        if "pooled" in scores:
            self._write("", 0, Summary.Value(tag="pooled", simple_value=scores["pooled"]))
        for writer in self._writers.values():
            writer.close()

    def _write(self, name, step, *values):
        """Write values of one step; the first of a command take the place of all that were there from this step on."""
        if name not in self._writers:
            folder = self._folder / name
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"events.out.tfevents.{time.time_ns()}"  # the newest is read last
            self._writers[name] = RecordWriter(open(path, "wb"))  # noqa: SIM115  open until the run ends
            self._add(name, file_version="brain.Event:2")
            self._add(name, step=step, session_log=SessionLog(status=SessionLog.START))
        if values:
            self._add(name, step=step, summary=Summary(value=values))
        self._writers[name].flush()

    def _add(self, name, **what):
        self._writers[name].write(Event(wall_time=time.time(), **what).SerializeToString())


def _text(tag, text):
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    lines = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown's way to leave them as they are
    return Summary.Value(tag=tag, metadata=metadata, tensor=TensorProto(dtype=DT_STRING, string_val=[lines.encode()]))


def _image(tag, content):
    """Return a PNG file's content as a value; its size stands in its header."""
    width, height = struct.unpack(">II", content[16:24])
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
    return Summary.Value(tag=tag, image=image)
