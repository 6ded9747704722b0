"""What a task left: collected, checked, uploaded.

verdict  the outcome by the outputs and test reports (each read by `junit`); the entry point
collect  outputs, found by `globs` and hard-linked into the artifacts; `manifest` lists them
upload   an attempt's files to a storage, now or by a sweep: `upload_plan` decides what and under
         which keys, and remembers it on disk; `stores` are the places (fsspec, blocks)
"""
