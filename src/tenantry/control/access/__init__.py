"""Access: who may act. Users (Django's own), tokens, the actor of an act, and remembered answers to repeated requests."""
