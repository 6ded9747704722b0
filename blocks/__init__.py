"""What an operator edits in the Prefect UI. Importing this package registers the block types."""

from blocks.policy import ContainerPolicy
from blocks.repositories import RepositoryCredentials
from blocks.storage import ArtifactStorage

__all__ = ["ArtifactStorage", "ContainerPolicy", "RepositoryCredentials"]
