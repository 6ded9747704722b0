"""One job's folder on disk, which a stranger's container has to itself for a while.

| module | what |
| --- | --- |
| `folder` | `Workspace`: the folder's paths, mkdir, removal, an earlier attempt's results |
| `access` | what the container's user may do with the checkout: owner, ACL or mode |
| `git` | `checkout`: git fetch and checkout of one ref into it |
| `git_access` | keys and known hosts for ssh, certificates for https |
| `git_command` | `GitCommand`: one git process, in bounds of memory, time, disk and output |
| `git_redirect` | a repository that its server says is elsewhere, followed on that server |
| `git_warnings` | what a checkout lacks: contents of LFS files, and submodules |
| `git_tree` | how many files and bytes a commit would put on the disk |
| `git_environment` | what the git process has in its environment: credentials, configuration |
| `git_failures` | a table: what git says when it fails, and what that means |
| `logs` | `RunnerLog` and `Journal`: runner.log and execute.log, in `.runs` at first |
| `tree` | `walk`, `open_file`, `remove_tree`: by openat, never over a link |
| `safe_open` | `LogFile`, `link_or_copy`, `replacing`: files put in place by rename or link |
| `listing` | sizes and checksums of what is there; whether all of it is the worker's |
"""
