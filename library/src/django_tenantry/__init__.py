"""The library of a tenant."""
