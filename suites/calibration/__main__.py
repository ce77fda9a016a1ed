"""Ask a GPU and the simulated accelerator about the same scenes, and tell where they differ.

What the GPU says is kept in ``reports/calibration``. Without one, what an earlier one said can be
held against the simulated accelerator as it is now: ``--recorded FILE``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from vae_compat.device.cuda import CudaDevice
from vae_compat.device.gpu import describe_cuda
from vae_compat.errors import UsageError
from vae_compat.suites.calibration import comparing
from vae_compat.suites.calibration.comparing import Recorded
from vae_compat.suites.calibration.scenes import SCENES, Said, Scene, measured, simulated

FOLDER = Path("reports/calibration")
SOURCE = "nox -s calibrate: CUDA events, median after a warm-up"


def main(arguments: list[str] | None = None) -> int:
    """0 where both agree, 1 where they don't, 2 where there is nothing to compare."""
    parser = argparse.ArgumentParser(
        prog="python -m vae_compat.suites.calibration", description=__doc__
    )
    parser.add_argument("--scene", action="append", help="part of a scene's name (repeatable)")
    parser.add_argument("--recorded", type=Path, help="what a GPU said, in place of one")
    parser.add_argument("--out", type=Path, default=FOLDER, help=f"folder (default: {FOLDER})")
    parser.add_argument("--simulate", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.simulate is not None:
        sys.stdout.write(json.dumps(_simulated(comparing.read(options.simulate))) + "\n")
        return 0
    try:
        scenes = chosen(options.scene)
        recorded = (
            comparing.read(options.recorded) if options.recorded else asked(scenes, options.out)
        )
        names = {scene.name for scene in scenes}
        wanted = replace(
            recorded,
            scenes={name: said for name, said in recorded.scenes.items() if name in names},
        )
        rows = comparing.rows(wanted, in_another_process(wanted))
    except UsageError as error:
        sys.stderr.write(f"calibrate: {error}\n")
        return 2
    sys.stdout.write(f"{recorded.gpu}, torch {recorded.torch}; {recorded.source}\n\n")
    sys.stdout.write(comparing.told(rows))
    if not rows:
        return 2
    return 0 if comparing.agreement(rows).holds(times=recorded.times_tell) else 1


def chosen(parts: Iterable[str] | None) -> list[Scene]:
    """The scenes with one of these words in their names; all without. Raises ``UsageError``."""
    wanted = list(parts or [""])
    found = [scene for name, scene in SCENES.items() if any(part in name for part in wanted)]
    if not found:
        raise UsageError(f"no scene is named like {' or '.join(wanted)}: {'; '.join(SCENES)}")
    return found


def asked(scenes: Iterable[Scene], folder: Path) -> Recorded:
    """What the GPU of this machine says, kept in a file. Raises ``UsageError`` without one."""
    if not torch.cuda.is_available():
        raise UsageError("no CUDA device was found here: give --recorded FILE")
    said: dict[str, Said] = {}
    for scene in scenes:
        try:
            said[scene.name] = measured(scene, CudaDevice())
        except torch.OutOfMemoryError:
            sys.stderr.write(f"{scene.name}: does not fit this GPU\n")
        torch.cuda.empty_cache()
    facts = describe_cuda()
    recorded = Recorded(facts.name, facts.torch, SOURCE, said)
    sys.stdout.write(f"written: {comparing.write(recorded, folder)}\n")
    return recorded


def in_another_process(recorded: Recorded) -> dict[str, Said]:
    """What the simulated accelerator says of these scenes, in a process that sees no GPU."""
    with TemporaryDirectory() as folder:
        file = comparing.write(recorded, Path(folder))
        done = subprocess.run(
            [sys.executable, "-m", __spec__.parent, "--simulate", str(file)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
    told = json.loads(done.stdout.splitlines()[-1])
    return {name: Said(**numbers) for name, numbers in told.items()}


def _simulated(recorded: Recorded) -> dict[str, dict[str, object]]:
    told = {}
    for name in recorded.scenes.keys() & SCENES.keys():
        layout = recorded.channels_first_attention
        said = simulated(SCENES[name], recorded.known_as, channels_first_attention=layout)
        told[name] = asdict(said)
    return told


if __name__ == "__main__":
    sys.exit(main())
