"""What a task left: collected, checked, uploaded.

verdict        the outcome in the light of the two below; entry point after a container stopped
collect        outputs, found by `globs` and hard-linked into the artifacts; `manifest` lists them
junit_summary  the test reports of a run, each read by `junit`
upload         an attempt's files to a storage, now or by a sweep: `upload_plan` decides what and
               under which keys, `stores` are the places (fsspec, blocks), `upload_journal`
               remembers on disk
"""
