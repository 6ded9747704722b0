"""The queue payload: from untrusted JSON to the `ContainerSpec` of one attempt. Pure.

parse            JSON to `TaskPayload`, every fault at once in a `PayloadError`
models           pydantic models of the payload; container: of `task.container`
base             what they share: camelCase, null as absence, the JSON schema of Prefect's form
fields           the rule of each value; validation: pydantic's errors as sentences
repository       the clone URL, apart from its credentials
policy           the operator's rules; policy_check: a task held against them
image_reference  registry, repository, tag and digest of an image name; its platform
compiler         payload, policy and run to a `ContainerSpec`
"""
