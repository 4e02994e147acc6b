"""How a policy can fail while it runs: one typed failure, and one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from policies.errors import FaultError, InputError


class Failure(Enum):
    """Why a policy has stopped answering."""

    BAD_OBSERVATION = "bad_observation"
    MODEL_ERROR = "model_error"
    OUT_OF_MEMORY = "out_of_memory"
    BAD_ANSWER = "bad_answer"
    SERVER_LOST = "server_lost"
    SERVER_SLOW = "server_slow"
    SERVER_REFUSED = "server_refused"


@dataclass(frozen=True, kw_only=True)
class PolicyFailure:
    """One failure of a policy; it stays silent until it is activated again.

    Attributes:
        kind: what happened.
        text: one sentence for the operator.
    """

    kind: Failure
    text: str

    def describe(self) -> dict[str, str]:
        """JSON-ready."""
        return {"kind": self.kind.value, "text": self.text}


class PolicyFailureError(FaultError):
    """Raised by a policy that knows what kind of failure it has met."""

    def __init__(self, kind: Failure, text: str) -> None:
        """Make one from a kind and a sentence."""
        super().__init__(text)
        self.kind = kind


def failure_of(error: Exception) -> PolicyFailure:
    """What an exception of a policy means.

    Memory that ran out is told apart, because it is the one that comes and goes with what else runs
    on the machine: torch has a type of its own for it, ONNX Runtime says it in words.
    """
    text = " ".join(str(error).split())[:400] or type(error).__name__
    if isinstance(error, PolicyFailureError):
        return PolicyFailure(kind=error.kind, text=text)
    if isinstance(error, InputError):
        return PolicyFailure(kind=Failure.BAD_OBSERVATION, text=text)
    words = text.lower()
    starved = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if starved or "failed to allocate memory" in words or "out of memory" in words:
        return PolicyFailure(
            kind=Failure.OUT_OF_MEMORY, text=f"the model ran out of memory: {text}"
        )
    named = f"{type(error).__name__}: {text}"
    return PolicyFailure(kind=Failure.MODEL_ERROR, text=f"the model failed: {named}")
