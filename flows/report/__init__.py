"""How an attempt went, for people and programs.

run_json     the models of `run.json`, and how one is built; `docker_run` the command in it
page         the report in Markdown
names        names, sentences and artifacts' keys that Prefect shows of a run; `events` of it
chart        memory and CPU over time, as an SVG
artifacts    these and the tables of tests and outputs, as Prefect artifacts; `progress` while it
             runs
summary      how the runs of some days went
"""
