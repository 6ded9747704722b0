"""The Prefect worker of the type `container-task`, and what looks after its host.

worker      the worker: what Prefect calls, and how it carries what it claimed
claims      its claim loop: polls its work pool, claims flow runs, releases them
claim       one claim, a compare-and-set at the server; giving a run back
reconcile   stops what somebody cancels, suspends, ends or deletes, by polls and events
queue       what is due in its pool's queues, by the server's clock
judgements  what it remembers of runs that wait, but for the runs themselves
gate        the engine's word before each claim
admission   which of the queued runs may start now, by the host's CPUs and memory
in_process  runs flows in threads of this process, each with an event loop
run_notes   reads container task runs; labels, tags and rejects them
services    beside the claim loop: pool events, SIGTERM, a sweep each minute
sweep       restarts or ends runs whose process died, removes containers nobody owns
lease       its heartbeats, and for how long it may act without
owners      whether somebody still has a run: kernel locks, the server's clock
standstill  pauses what nobody carries while the server does not hear of the host
takeover    starts runs of silent hosts again
helpers     ends runs of the scheduled flows whose process died
cleanup     retries uploads; retention: removes old job folders
"""
