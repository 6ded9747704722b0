"""Whether Secret blocks still hold what opened repositories before there was a type for that."""

from collections.abc import Sequence

from prefect.client.orchestration import get_client

from blocks.policy import ContainerPolicy
from flows.cli.doctor.checkup import Finding, ok, warning
from flows.payload.policy_check import is_allowed
from flows.payload.repository import is_url_with_login

OLD_SECRETS = "secrets"


async def check_old_secrets() -> Sequence[Finding]:
    """Each Secret block whose value no container is given, as it is a URL with a log-in."""
    allowed = (await ContainerPolicy.in_force()).allowed_url_secrets
    async with get_client() as client:
        saved = await client.read_block_documents_by_type("secret", include_secrets=True)
    named = [each.name or "" for each in saved if is_url_with_login(str(each.data.get("value")))]
    found = sorted(name for name in named if not is_allowed([name], allowed))
    if not found:
        return [ok(OLD_SECRETS, "no Secret block holds what opens a repository")]
    says = f"{', '.join(found)}: a URL with a log-in, which no container is given"
    mend = (
        "where it opens a repository, make a Repository Credentials block of it "
        "(docs/repositories.md); where containers need it, name it in the policy's "
        "allowed_url_secrets"
    )
    return [warning(OLD_SECRETS, says, mend)]
