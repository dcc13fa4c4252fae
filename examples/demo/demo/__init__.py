"""A notice board, hosted by `bin/up`. What differs between sites comes from the environment."""
