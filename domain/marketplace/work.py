"""What a job is: a named type of work with parameters, inputs and limits, and the order a device is given for it."""

import base64
from typing import NamedTuple
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from domain.kernel import Instant, Refusal, Value

MAX_MS = 31 * 86_400_000
MAX_MEMORY_MB = 1 << 20
_MOST = 2**53 - 1
_PREFIX = b"ai-village job v1\n"


class JobInvalid(Refusal):
    """A job is of a known type, with exactly its parameters and inputs, and limits within bounds."""


class OrderForged(Refusal):
    """A device works on orders that its village has signed for it."""


class JobLimits(Value, frozen=True):
    """What a job may use at most: processor time and wall time in ms, address space in MiB."""

    cpu_ms: int
    wall_ms: int
    memory_mb: int


class JobSpec(Value, frozen=True):
    """A unit of work. `inputs` names blobs by their SHA-256."""

    job_type: str
    parameters: dict[str, int]
    inputs: dict[str, str]
    limits: JobLimits


class JobOrder(Value, frozen=True):
    """What the village signs: this device is to do this, by this instant."""

    job_id: UUID
    contract_id: UUID
    device_id: UUID
    spec: JobSpec
    deadline_at: Instant


class JobType(NamedTuple):
    """The parameters of a type with their bounds, the names of its inputs, and the least memory it starts in."""

    parameters: dict[str, tuple[int, int]]
    inputs: tuple[str, ...]
    least_memory_mb: int


JOB_TYPES = {
    # The first nonce in start .. start+count-1 so that SHA-256(seed || nonce, 8 bytes each) begins with so many 0 bits.
    "hash_search": JobType(
        {"seed": (0, _MOST), "start": (0, _MOST), "count": (1, 1 << 40), "difficulty_bits": (1, 64)}, (), 128
    ),
    # Products of matrices of small whole numbers, exact in every order of summation.
    "matrix_benchmark": JobType({"seed": (0, _MOST), "size": (1, 4_096), "rounds": (1, 1_000_000)}, (), 512),
    # Accuracy and loss of a multilayer perceptron on samples (safetensors: x, y).
    "evaluate_model": JobType({}, ("data", "model"), 2_048),
}


def checked_spec(spec: JobSpec) -> JobSpec:
    """The spec, once it is known to be one. Raises JobInvalid."""
    kind = JOB_TYPES.get(spec.job_type)
    if kind is None:
        raise JobInvalid(f"job_type is one of {', '.join(JOB_TYPES)}")
    if spec.parameters.keys() != kind.parameters.keys() or sorted(spec.inputs) != sorted(kind.inputs):
        raise JobInvalid(f"{spec.job_type} takes {sorted(kind.parameters)} and the inputs {sorted(kind.inputs)}")
    for name, (least, most) in kind.parameters.items():
        if not least <= spec.parameters[name] <= most:
            raise JobInvalid(f"{name} is {least} to {most}")
    limits = spec.limits
    if not (1 <= limits.cpu_ms <= MAX_MS and 1 <= limits.wall_ms <= MAX_MS):
        raise JobInvalid(f"processor time and wall time are 1 to {MAX_MS} ms")
    if not kind.least_memory_mb <= limits.memory_mb <= MAX_MEMORY_MB:
        raise JobInvalid(f"{spec.job_type} needs memory_mb from {kind.least_memory_mb} to {MAX_MEMORY_MB}")
    return spec


def sign_order(key: Ed25519PrivateKey, order: JobOrder) -> tuple[str, str]:
    """The order as text, and the signature over it (Ed25519, base64)."""
    text = msgspec.json.encode(order)
    return text.decode(), base64.b64encode(key.sign(_PREFIX + text)).decode()


def opened_order(key: Ed25519PublicKey, text: str, signature: str) -> JobOrder:
    """The order of a text. Raises OrderForged, JobInvalid."""
    try:
        key.verify(base64.b64decode(signature, validate=True), _PREFIX + text.encode())
        order = msgspec.json.decode(text, type=JobOrder)
    except (InvalidSignature, ValueError) as error:
        raise OrderForged("the order is not signed by the village") from error
    checked_spec(order.spec)
    return order
