"""Performs a case with a hook: what a runner is for."""

from __future__ import annotations

from dataclasses import replace

from vae_compat.contracts.cases import TIME_TILES
from vae_compat.measure.attempt import Subject
from vae_compat.measure.models import Models
from vae_compat.scenarios.asking import Ask
from vae_compat.scenarios.performed import Performed
from vae_compat.scenarios.scenes import SCENES
from vae_compat.scenarios.single import perform_whole
from vae_compat.scenarios.stage import Stage
from vae_compat.subject.hook import Hook


def perform(ask: Ask, hook: Subject, models: Models) -> Performed:
    """Perform the part of a case that needs the hook.

    VAEs that the hook has damaged beyond repair are dropped.
    """
    case = ask.case
    if ask.promise.temporal and isinstance(hook, Hook):
        hook = replace(hook, time=TIME_TILES)
    stage = Stage(case, ask.promise, hook, models, ask.seconds, ask.leaves, ask.capacity)
    if case.scenario is not None:
        performed: Performed = SCENES[case.scenario].perform(stage)
    else:
        performed = perform_whole(stage, every_way=ask.every_way)
    if stage.broken:
        models.forget()
    return performed
