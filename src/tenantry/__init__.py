"""Tenantry: a management layer for hosting many Django sites that share a codebase."""
