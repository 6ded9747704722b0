"""Give a checkout to the user of its container, once the image says who that is."""

import os
from dataclasses import replace

from flows.attempt import Prepared
from flows.engine.contract import Engine
from flows.engine.types import Image, Owner
from flows.threads import in_thread
from flows.workspace.access import Access, How, access_for, give_access


async def open_checkout(engine: Engine, prepared: Prepared, image: Image) -> Prepared:
    """Let the container's user write in the checkout, if there is one; `prepared`, with the time
    when that was done. Raises `WorkspaceError`."""
    workspace, spec = prepared.workspace, prepared.spec
    if prepared.commit is None:
        return prepared
    access = access_for(spec.user or image.user, os.geteuid(), spec.cap_add, spec.cap_drop)
    is_outside = Owner.in_folder(workspace.root).uid == os.geteuid()
    if not is_outside or await engine.numbers_users_anew(image):
        # The container's root, too, is another user than this host's.
        access = Access(How.ANYBODY)
    if access.how is How.AS_IT_IS:
        return prepared
    await in_thread(lambda: give_access(workspace.repo, access))
    # It changed the times by which outputs are told from what was checked out.
    return replace(prepared, ready_ns=workspace.now_ns())
