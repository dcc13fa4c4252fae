"""The dashboard: HTML over the same services and queries as the API."""
