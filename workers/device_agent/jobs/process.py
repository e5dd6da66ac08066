"""The process of one job: it gives up what it must not have, computes, and leaves its result in its folder."""

import os
import sys
from pathlib import Path

import msgspec

from domain.kernel import Refusal
from domain.marketplace.work import JobSpec
from workers.device_agent.jobs.confinement import Unconfined, confine
from workers.device_agent.jobs.types import TYPES

SPEC, RESULT = "spec.json", "result.json"
UNFIT, NO_MEMORY, TOO_MUCH, UNCONFINED = 10, 11, 12, 13
"""How the process exits, besides 0, when it knows what went wrong."""
_TORCH_NO_MEMORY = "can't allocate memory"


def main(parent: int) -> None:
    """Run the job of this folder; ends the process."""
    folder = Path.cwd()
    spec = msgspec.json.decode((folder / SPEC).read_bytes(), type=JobSpec)
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", HOME=str(folder), TMPDIR=str(folder))
    sys.exit(_run(spec, folder, parent))


def _run(spec: JobSpec, folder: Path, parent: int) -> int:
    try:
        confine(cpu_ms=spec.limits.cpu_ms, memory_mb=spec.limits.memory_mb, parent=parent, folder=folder)
        result = TYPES[spec.job_type](spec.parameters, folder)
        (folder / RESULT).write_bytes(msgspec.json.encode(result, order="sorted"))
    except Unconfined:
        return UNCONFINED
    except MemoryError:
        return NO_MEMORY
    except OSError as error:
        return TOO_MUCH if error.filename is None else UNFIT
    except (Refusal, ValueError, LookupError, TypeError):
        return UNFIT
    except RuntimeError as error:
        return NO_MEMORY if _TORCH_NO_MEMORY in str(error) else UNFIT
    return 0
