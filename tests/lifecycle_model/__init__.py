"""Model of the lifecycle: hosts, engines, a server and people, between which only the decisions of
`flows.runtime` are real. `world` plays it, `processes` has the steps of our processes.
"""
