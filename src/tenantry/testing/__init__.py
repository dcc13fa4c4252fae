"""What tests of any part may use: a real PostgreSQL of their own, and databases in it.

The platform itself never imports this package.
"""
