"""The only place of the agent that writes files, opens sockets or starts processes.

Each function does one thing that a plan names; which things, and in which order, the planner decides.
"""
