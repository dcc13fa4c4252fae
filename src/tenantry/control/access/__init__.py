"""Access: who may act.

Owns: tokens, the actor of an act, remembered answers to repeated requests. People are Django's own users.
"""
