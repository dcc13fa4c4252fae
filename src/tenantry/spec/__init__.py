"""Pure words shared by control, node and cli: names, sites, conditions.

Owns: the rules for what a person may type as a name, and the shapes in which desired and observed state travel.
May import: the standard library's pure parts. Must never do I/O, read a clock, or know Django, asyncio or a driver.
"""
