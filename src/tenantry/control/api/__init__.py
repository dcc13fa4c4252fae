"""REST v1: parse, call a service, serialize. Thin on purpose: no rule of the platform is written here."""
