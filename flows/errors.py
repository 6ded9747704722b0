"""Every error this package raises, by who must act.

ContainerTaskError
├── Rejected                  the submitter: the payload, or a rule of this host, forbids the task
│   ├── PayloadError          one or more faults in the payload, each with its JSON path
│   │   └── PolicyRefused     one or more rules of the host's policy forbid the task
│   ├── CapabilityMissing     this worker lacks what the task requires
│   ├── RepositoryRejected    the repository or the ref does not exist, or may not be read
│   │   ├── CheckoutTooLarge  it takes more of the disk than a checkout may have
│   │   ├── RefMissing        the repository has no such branch, tag or other ref
│   │   └── RepositoryMoved   the repository is at another address
│   └── WorkdirMissing        the working directory is not in the checkout
├── HostMisconfigured         the operator: an environment variable of the worker is wrong
├── HostFailed                the operator: the worker or its host failed, as nobody foresaw
├── WorkspaceError            the operator: the job folder or the clone failed, not the task
├── StorageError              the operator: results could not be uploaded, which changes no outcome
└── EngineError               the operator: Docker, the host or the registry failed, not the task
    ├── EngineUnavailable     the engine does not answer, or failed by a fault of its own
    │   └── EngineSilent      nobody answers for it: no connection, or none that lasts
    ├── EngineRefused         the engine understood the request and refused it as it stands
    ├── ContainerGone         the container was removed from outside
    └── ImageError            the image cannot be had; `ImageCause` says why

A container that exits non-zero is a result (`flows.outcome.Outcome`), not an error.
"""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing wrong with a payload: where (a JSON path), and what to do about it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ContainerTaskError(Exception):
    """The root of the tree; `str()` is one sentence for a person."""


class Rejected(ContainerTaskError):
    """The task may not run here as it stands; nothing was created for it."""


class PayloadError(Rejected):
    """The payload is not acceptable; `faults` are all that were found, at least one."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(map(str, faults)))


class PolicyRefused(PayloadError):
    """The policy in force forbids what the payload asks for; `faults` name every rule."""


class CapabilityMissing(Rejected):
    """This worker's `MOONMIND_WORKER_CAPABILITIES` do not cover what the task requires."""


class RepositoryRejected(Rejected):
    """The repository or the ref is missing or may not be read with the credentials at hand."""


class CheckoutTooLarge(RepositoryRejected):
    """The checkout would take more bytes on the disk than one may have on this worker."""


class RefMissing(RepositoryRejected):
    """The repository has no ref of that name."""


class RepositoryMoved(RepositoryRejected):
    """The repository's server says that it is elsewhere, and that was not followed."""


class WorkdirMissing(Rejected):
    """The working directory is to be in the job's folder, and is not there."""


class HostMisconfigured(ContainerTaskError):
    """A `MOONMIND_*` variable of this worker has a value that it does not take."""


class HostFailed(ContainerTaskError):
    """Something failed that nothing here expects to fail, such as a host without descriptors."""


class WorkspaceError(ContainerTaskError):
    """The job folder could not be made, or the repository could not be reached; `may_pass` says
    whether the next try may find it otherwise."""

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        self.may_pass = may_pass
        super().__init__(message)


class StorageError(ContainerTaskError):
    """The artifact storage is set up wrongly, or does not take what it is given."""


class EngineError(ContainerTaskError):
    """Docker, its host or a registry failed."""


class EngineUnavailable(EngineError):
    """No answer, a broken connection, or a server-side fault."""


class EngineSilent(EngineUnavailable):
    """No answer of the engine's own: no connection, none that lasted, or the word of a proxy that
    it is away. It says nothing of a container, which may run on."""


class EngineRefused(EngineError):
    """The engine refused the request as it stands, for instance more CPUs than the host has."""


class ContainerGone(EngineError):
    """The container is no longer there, and this runner did not remove it."""


class ImageCause(StrEnum):
    """Why an image cannot be had. Published as failure classes: never rename one."""

    NOT_FOUND = "not-found"
    DENIED = "denied"
    RATE_LIMITED = "rate-limited"
    UNREACHABLE = "unreachable"
    WRONG_PLATFORM = "wrong-platform"
    DISK_FULL = "disk-full"
    CORRUPT = "corrupt"
    TIMEOUT = "timeout"
    OTHER = "image"


class ImageError(EngineError):
    """The image cannot be had; `may_pass` says whether the next try may find it otherwise."""

    def __init__(
        self, message: str, cause: ImageCause = ImageCause.OTHER, *, may_pass: bool = False
    ) -> None:
        self.cause = cause
        self.may_pass = may_pass
        super().__init__(message)
