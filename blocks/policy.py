"""The block in which an operator keeps a policy, edits it in the UI, and shares it."""

from typing import Self

from flows.payload.policy import Policy  # noqa: TID251 - plain rules, which import nothing of the flow
from prefect.blocks.core import Block

from blocks.reading import NAME, saved_or_default

POLICY_NAME = NAME


class PolicyUnreadable(Exception):
    """There is a policy, or may be, and it cannot be had; `str()` is one sentence for a person."""


class ContainerPolicy(Block, Policy):
    """What containers may do on the workers that share this block; see
    `flows.payload.policy.Policy`.

    Nothing needs registering: without a saved block named `default` the defaults hold.
    """

    _block_type_name = "Container Policy"
    _block_type_slug = "moonmind-container-policy"
    _description = "What task containers may do on the workers that share this block."

    def plain(self) -> Policy:
        """The rules alone, without the block."""
        return Policy.model_validate(self.model_dump(include=set(Policy.model_fields)))

    @classmethod
    async def in_force(cls) -> Self:
        """The saved block named `default`, or the defaults without one; `PolicyUnreadable` for all
        else: a policy that cannot be read is not one that allows what the defaults allow."""
        return await saved_or_default(cls, PolicyUnreadable)
