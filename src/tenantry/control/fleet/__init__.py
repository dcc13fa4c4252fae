"""The fleet: nodes, and what each has reported of itself and of its sites.

Owns: `Node`, `NodeSite`. Rows are written by `agent_v1.report`; here they are read.
"""
