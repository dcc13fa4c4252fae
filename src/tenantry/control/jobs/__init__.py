"""Durable jobs (procrastinate): the slow work that follows a committed change."""
