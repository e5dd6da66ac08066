"""The contexts of a village: what belongs to each and which others it needs. Nothing else divides a village."""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog

from cli.errors import CommandFailed
from infrastructure.settings import Settings

if TYPE_CHECKING:
    from cli.parts import Parts, Runner
    from projections.rows import ReadModel
    from workers.saga_runner import Handler


class ContextUnknown(CommandFailed):
    """A part of a village is named by contexts that there are."""


class ContextLacking(CommandFailed):
    """A context runs where those run that it needs."""


def _presence(made: "Parts") -> "Runner":
    from infrastructure.presence import PresenceStore
    from workers.presence_clock import PresenceClock

    return PresenceClock(PresenceStore(made.database, made.village.device_registry)).run


def _remeasurement(made: "Parts") -> "Runner":
    from projections.device_remeasurement import Remeasurements
    from workers.remeasurement_clock import RemeasurementClock

    return RemeasurementClock(made.village.device_registry, Remeasurements(made.database)).run


def _holds(made: "Parts") -> "Runner":
    from domain.kernel import new_scope, within
    from projections.tokenomics.queries import MoneyIndex
    from workers.hold_clock import HoldClock

    with within(new_scope("system:clock")):
        made.village.tokenomics.genesis()
    return HoldClock(made.village.tokenomics, MoneyIndex(made.database).due_holds).run


def _harvest(made: "Parts") -> "Runner":
    from infrastructure.harvest import HarvestStore
    from workers.harvest_monitor import HarvestMonitor

    return HarvestMonitor(HarvestStore(made.database, made.village.harvest)).run


def _sla(made: "Parts") -> "Runner":
    from cli.harvest_ports import RestTime
    from workers.sla_monitor import SlaMonitor

    return SlaMonitor(made.database, made.village.marketplace, RestTime(made.log, made.database)).run


def _eraser(made: "Parts") -> "Runner":
    from workers.subject_eraser import SubjectEraser

    return SubjectEraser(made.database, made.subject_keys).run


def _incidents(made: "Parts") -> "Runner":
    from workers.incident_watch import IncidentWatch

    return IncidentWatch(made.village.monitoring, made.database).run


def _deadlines(made: "Parts") -> "Runner":
    from workers.deadline_clock import DeadlineClock

    return DeadlineClock(made.village.deadlines, made.database).run


@dataclass(frozen=True, slots=True)
class Context:
    """Beside api.NAME and projections.NAME: the contexts it needs, its parts of the clock, a worker of its own."""

    needs: tuple[str, ...] = ()
    clocks: "tuple[Callable[[Parts], Runner], ...]" = ()
    worker: str | None = None


CONTEXTS: Final[Mapping[str, Context]] = {
    "device_registry": Context(clocks=(_presence, _remeasurement)),
    "federated_learning": Context(needs=("device_registry", "privacy", "tokenomics"), worker="aggregator"),
    "harvest": Context(needs=("device_registry", "tokenomics"), clocks=(_harvest,)),
    "marketplace": Context(needs=("device_registry", "tokenomics"), clocks=(_sla,)),
    "monitoring": Context(clocks=(_incidents,)),
    "privacy": Context(clocks=(_eraser,)),
    "tokenomics": Context(clocks=(_holds,)),
}

STEERING: Final[Mapping[str, Context]] = {
    "monitoring": CONTEXTS["monitoring"],
    "sagas": Context(clocks=(_deadlines,)),
}
"""What operators steer every part by runs in every part."""

SAGAS: Final[Mapping[str, tuple[str, ...]]] = {
    "coordinate_training": ("federated_learning",),
    "reward_training": ("federated_learning",),
    "spend_privacy": ("federated_learning", "privacy"),
    "reward_harvest": ("harvest",),
    "pay_for_service": ("marketplace",),
    "allocate_burst": ("marketplace",),
    "hand_off_contract": ("marketplace",),
    "suspend_device": ("device_registry", "federated_learning", "harvest", "marketplace"),
}
"""The contexts a saga acts in, by its name: it runs where all of them run."""

log = structlog.get_logger("village")


def chosen(settings: Settings) -> tuple[str, ...]:
    """The contexts that are asked for; all of them by default.

    Raises:
        ContextUnknown: one of them is none.
        ContextLacking: one needs another that is not asked for.
    """
    asked = settings.contexts or tuple(CONTEXTS)
    if unknown := sorted(set(asked) - set(CONTEXTS)):
        raise ContextUnknown(f"No context is called {', '.join(unknown)}: there are {', '.join(CONTEXTS)}")
    for name in asked:
        if lacking := [other for other in CONTEXTS[name].needs if other not in asked]:
            raise ContextLacking(f"{name} needs {', '.join(lacking)}, too")
    return tuple(name for name in CONTEXTS if name in asked)


def running(settings: Settings) -> dict[str, Context]:
    """What runs here: the chosen contexts and what operators steer them by."""
    return {**{name: CONTEXTS[name] for name in chosen(settings)}, **STEERING}


def workers(settings: Settings, every: Iterable[str]) -> tuple[str, ...]:
    """The workers that run here: those of the chosen contexts, and those that are of no context alone."""
    here = {context.worker for context in running(settings).values()}
    return tuple(name for name in every if name in here or not is_of_a_context(name))


def is_of_a_context(worker: str) -> bool:
    """Whether one context alone has this worker, so that the others go on without it."""
    return any(context.worker == worker for context in CONTEXTS.values())


def read_models(settings: Settings) -> "list[ReadModel[Any]]":
    """The read models of what runs here."""
    from projections.catalogue import BY_CONTEXT

    here = running(settings)
    return [model for name, models in BY_CONTEXT.items() if name in here for model in models]


def sagas(settings: Settings, every: "Sequence[Handler]") -> "list[Handler]":
    """The sagas all of whose contexts run here."""
    from workers.saga_runner import name_of

    here = running(settings)
    return [saga for saga in every if here.keys() >= set(SAGAS[name_of(saga)])]


def elsewhere(settings: Settings) -> frozenset[str]:
    """The consumers of the log that do not run here, by the names of their cursors."""
    from projections.catalogue import BY_CONTEXT

    here = running(settings)
    models = [model.name for name, models in BY_CONTEXT.items() if name not in here for model in models]
    plans = [name for name, needed in SAGAS.items() if not here.keys() >= set(needed)]
    own = [context.worker for name, context in CONTEXTS.items() if context.worker and name not in here]
    return frozenset([*models, *(f"saga:{name}" for name in plans), *own])


def clocks(made: "Parts") -> "list[Runner]":
    """What happens by the clock in what runs here. A part that cannot begin stops no other.

    Raises psycopg.Error, LogUnavailable or LogOverloaded: what all need is away, so that the process is to try again.
    """
    from domain.kernel.errors import LogOverloaded, LogUnavailable
    from infrastructure.metrics import LEFT_OUT

    found = []
    for name, context in running(made.settings).items():
        for clock in context.clocks:
            try:
                found.append(clock(made))
            except (psycopg.Error, LogOverloaded, LogUnavailable):
                raise
            except Exception as error:
                log.exception("a context runs without its clock", context=name, error=type(error).__name__)
                LEFT_OUT.labels(name, "clock").set(1)
    return found


def modules(package: str, names: Iterable[str]) -> tuple[list[ModuleType], list[str]]:
    """The modules of these contexts in a package, and the contexts whose import failed: it stops no other."""
    from infrastructure.metrics import LEFT_OUT

    found, left_out = [], []
    for name in names:
        try:
            found.append(importlib.import_module(f"{package}.{name}"))
        except Exception as error:
            log.exception("a context is left out", context=name, package=package, error=type(error).__name__)
            LEFT_OUT.labels(name, package).set(1)
            left_out.append(name)
    return found, left_out
