"""The fleet: nodes, how they join and leave, what people ask of them, and what each has reported.

Owns: `Node`, `NodeSite`, `NodeDrift`, `NodeSecret`, `JoinToken`, and the functions of `agent_v1`, through which nodes
read what they are to serve and write what they say of themselves. `secrets` seals sites' secrets for each node.
"""
