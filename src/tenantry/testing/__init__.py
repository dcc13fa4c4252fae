"""What tests of any part may use: a real PostgreSQL of their own, and databases in it. Never imported by the platform."""
