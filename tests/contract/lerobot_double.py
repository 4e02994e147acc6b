"""Plays LeRobot in tests: a worker of a few lines that is put in the place of the real one."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from .wire import Refused, serve


class Double:
    """Actions count up or down from the newest state; the task can be an order."""

    engine, version = "lerobot", "double"
    asked, center = 0, None

    def answer(self, header, arrays):
        if header["op"] == "load":
            config = json.loads((Path(header["folder"]) / "config.json").read_text())
            if config.get("dropout") == "refuse":
                raise Refused("expected other weights")
            self.steps, self.sign = config["chunk_size"], 1.0
            cameras = [k for k, v in config["input_features"].items() if v["type"] == "VISUAL"]
            size = config["input_features"]["observation.state"]["shape"][0]
            size += config.get("dropout") == "grow"
            told = {"kind": "act", "device": "cpu", "parameters": 1, "cameras": cameras}
            told["actions"] = config["output_features"]["action"]["shape"][0]
            return {**told, "state": size, "vlm": header["vlm"]}, {}
        if header["op"] == "reset":
            self.sign = -1.0 if header["seed"] % 2 else 1.0
            return {}, {}
        order = header["tasks"][0]
        if order == "sleep":
            time.sleep(60.0)
        if order == "die":
            print("out of luck", file=sys.stderr)
            os._exit(3)
        if order == "raise":
            raise ArithmeticError("diverged")
        if order == "garbage":
            os.write(int(sys.argv[1]), b"x" * 100)
        newest = arrays["state"][:, -1]
        if order == "sway":  # to and fro about where it began, whatever it sees
            self.center = newest if self.center is None else self.center
            steps = 4 * self.asked + np.arange(self.steps, dtype=np.float32)
            self.asked += 1
            actions = np.repeat(self.center[:, None], self.steps, axis=1)
            actions[..., 0] += 20.0 * np.sin(0.05 * steps)
            return {}, {"actions": actions}
        images = [image[:, -1] for name, image in arrays.items() if name != "state"]
        if order == "look":  # a slow motion that the mean of each image tells apart
            seen = sum(0.01 * image.mean(axis=(1, 2, 3)) for image in images)
            actions = newest[:, None, :] + 0.1 * seen[:, None, None].astype(np.float32)
            return {}, {"actions": np.repeat(actions, self.steps, axis=1)}
        count = np.arange(self.steps, dtype=np.float32)[None, :, None]
        actions = newest[:, None, :2] + self.sign * count
        for image in images:
            actions = actions + image.max(axis=(1, 2, 3))[:, None, None]
        if order == "other":
            actions = actions + 10.0
        if order == "nan":
            actions = actions * np.nan
        return {}, {"actions": actions[:, :-1] if order == "short" else actions}


if __name__ == "__main__":
    serve(Double)
