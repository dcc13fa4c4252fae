"""The dashboard: HTML over the same services and queries as the API.

Owns: pages, their fragments, the live stream, and the few files they load. May import services and queries of the
other apps, never `control.api`. Must never write a row itself, show a secret or the value of an environment variable,
or make a browser load anything from elsewhere.
"""
