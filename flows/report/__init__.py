"""How an attempt went, for people and programs.

run_json     the models of `run.json`, and how one is built; `docker_run` the command in it
page         the report in Markdown
names        what Prefect shows of a run: its name, its states' names and sentences, artifacts' keys
chart        memory and CPU over time, as an SVG
artifacts    these and the tables of tests and outputs, as Prefect artifacts; `progress` while it
             runs
events       the Prefect events of a run
summary      how the runs of some days went
"""
