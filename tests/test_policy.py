"""The policy in force, as the blocks that an operator saves decide it."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from blocks.policy import POLICY_NAME, ContainerPolicy, PolicyUnreadable


@pytest.fixture
async def client(prefect_api: None) -> AsyncIterator[PrefectClient]:
    """Prefect's API, without the policy after the test as before it."""
    async with get_client() as client:
        yield client
        try:
            found = await client.read_block_document_by_name(
                POLICY_NAME, ContainerPolicy.get_block_type_slug()
            )
        except ObjectNotFound:
            return
        await client.delete_block_document(found.id)


async def saved(client: PrefectClient, **data: Any) -> UUID:
    """A policy, and `data` written over it as any client of the API may: unvalidated."""
    block_id = await ContainerPolicy(pids_limit=77).asave(POLICY_NAME)
    assert isinstance(block_id, UUID)
    answer = await client._client.patch(f"/block_documents/{block_id}", json={"data": data})
    answer.raise_for_status()
    return block_id


async def test_without_a_saved_policy_the_defaults_hold(client: PrefectClient) -> None:
    assert (await ContainerPolicy.in_force()).pids_limit == ContainerPolicy().pids_limit


async def test_a_saved_policy_is_in_force(client: PrefectClient) -> None:
    await saved(client, stop_grace_seconds=3)
    policy = await ContainerPolicy.in_force()
    assert (policy.pids_limit, policy.stop_grace_seconds) == (77, 3)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"pids_limit": 0}, "pids_limit: Input should be greater than or equal to 1"),
        ({"allowed_volumes": "nuget"}, "allowed_volumes: Input should be a valid list"),
        ({"pids_limit": 0, "stop_grace_seconds": -1}, "stop_grace_seconds: Input should"),
    ],
)
async def test_a_saved_policy_that_is_none_is_not_replaced_by_the_defaults(
    client: PrefectClient, data: dict[str, Any], says: str
) -> None:
    await saved(client, **data)
    with pytest.raises(PolicyUnreadable) as refusal:
        await ContainerPolicy.in_force()
    assert says in str(refusal.value)
    assert str(refusal.value).startswith("the block moonmind-container-policy/default is not valid")
    assert "\n" not in str(refusal.value)


async def test_an_api_that_does_not_answer_gives_no_policy(client: PrefectClient) -> None:
    nobody = {PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with (
        temporary_settings(nobody),
        pytest.raises(PolicyUnreadable, match=r"cannot be read .*: check that Prefect's API"),
    ):
        await ContainerPolicy.in_force()
