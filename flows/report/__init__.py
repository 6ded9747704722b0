"""How an attempt went, for people and programs.

run_json     the models of `run.json`; `facts` builds it, `docker_run` the command in it
page         the report in Markdown, with `resources` against their limits and `sentences`
chart        memory and CPU over time, as an SVG
artifacts    these and the tables of tests and outputs, as Prefect artifacts; `progress` while it
             runs; `names` has their keys
events       the Prefect events of a run
summary      how the runs of some days went
"""
